"""Properties: JSON that says something twice is refused wherever it is read, and no value is taken in silence; what
is no regular file of a run, and no font, is neither shown nor waited for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mldec.data.coco import read_coco_json
from mldec.data.table import TableConfig, read_table
from mldec.engine.export.exported_model import read_exported
from mldec.engine.run_directory import read_json as read_run_json
from mldec.engine.text_rendering import use_font
from mldec.errors import ConfigError, MldecError, is_out_of_memory
from mldec.models.embedding_files import read_name_list
from mldec.paper.records import find_records
from mldec.report.run import read_run
from mldec.untrusted import parse_json, read_json

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
}


def coco(path: Path) -> Any:
    return read_coco_json(str(path), str(path.parent))


def table(path: Path) -> Any:
    return read_table(TableConfig(name="table", train=str(path)), "train")


def records(path: Path) -> Any:
    ((_, reason),) = find_records(path.parent).skipped.items()
    raise ValueError(reason)


def exported(path: Path) -> Any:
    path.rename(path.with_name("mldec.json"))
    return read_exported(path.with_name("model.safetensors"))


@pytest.mark.parametrize(
    ("read", "suffix", "text"),
    [
        (read_json, ".json", '{"a": [{"b": 1, "b": 1}]}'),
        (read_run_json, ".json", '{"val": {}, "val": {}}'),
        (read_name_list, ".json", '{"0": "cat", "0": "dog"}'),
        (table, ".jsonl", '{"path": "a.jpg", "cat": 1, "cat": 0}'),
        (table, ".jsonl", '{"path": "a.jpg", "labels": ["cat"]}\n{"path": "b.jpg", "labels": [], "labels": ["cat"]}'),
        (coco, ".json", json.dumps(COCO)[:-1] + ', "annotations": []}'),
        (coco, ".json", json.dumps(COCO).replace('"name": "dog"', '"name": "dog", "name": "bird"')),
        (coco, ".json", json.dumps(COCO).replace('"file_name": "a.jpg"', '"file_name": "b.jpg", "file_name": "a.jpg"')),
        (records, ".json", '{"version": 1, "table": "1", "table": "2"}'),
    ],
)
def test_a_key_that_is_there_twice_is_an_error(
    tmp_path: Path, read: Callable[[Path], Any], suffix: str, text: str
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text(text + "\n")
    with pytest.raises((MldecError, ValueError), match=r"an object has the key '\w+' 2 times") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "entry", "reason"),
    [
        ("images", {"id": 1, "file_name": "b.jpg"}, "the id 1 more than once"),
        ("images", {"id": 2, "file_name": "a.jpg"}, "a.jpg"),
        ("categories", {"id": 2, "name": "bird"}, "the id 2 more than once"),
        ("categories", {"id": 3, "name": "cat"}, "label names must differ; found more than once: cat"),
    ],
)
def test_an_image_or_category_that_is_listed_twice_is_an_error(
    tmp_path: Path, name: str, entry: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(COCO | {name: [*COCO[name], entry]}))
    with pytest.raises(MldecError, match=reason) as caught:
        coco(path)
    assert "x.json" in str(caught.value)


def test_depth_is_a_value_error_for_every_reader() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    assert parse_json('{"a": {"b": 1}, "c": [{"b": 2}, {"b": 3}]}') == {"a": {"b": 1}, "c": [{"b": 2}, {"b": 3}]}


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "environment.json", "per_class_ap.csv"])
def test_a_report_shows_no_file_that_a_run_links_to(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret: 1\n" if name == "config.yaml" else '{"kind": "test", "step": 1, "secret": 1}\n')
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.pt").touch()
    (folder / name).symlink_to(secret)
    run = read_run(folder)
    assert run.problems[name].startswith(f"{name} is a symbolic link")
    assert "secret" not in str(run).replace(run.problems[name], "")


def test_a_pipe_is_no_font(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ttf")
    with pytest.raises(ConfigError, match="not a regular file"):
        use_font(str(tmp_path / "a.ttf"))


def test_a_library_that_memory_does_not_hold_is_one_line() -> None:
    assert is_out_of_memory(ImportError("libtorch_cuda.so: failed to map segment from shared object"))
