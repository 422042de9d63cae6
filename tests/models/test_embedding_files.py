"""Property: a file of label embeddings, of names or aliases, from a stranger is read or refused in one line, soon, and
runs no code."""

import json
import os
import pickle
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from mldec.commands.main import run
from mldec.errors import DataError, MldecError
from mldec.models import embedding_files, text_models
from mldec.models.embedding_files import MAX_WIDTH, read_aliases, read_name_list
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig, read_label_embeddings

PLACES = ("names", "aliases")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLDEC_CACHE", str(tmp_path / "cache"))


def look_up(source: Path, *labels: str, **more: str) -> LabelEmbeddings:
    return read_label_embeddings(LabelEmbeddingsConfig(source=str(source), **more), labels or ("cat", "dog"))


def refused(source: Path, *words: str, **more: str) -> None:
    """Refused in one line of bounded length, within seconds and 64 MB."""
    began = time.process_time()
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        look_up(source, **more)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - began < 5
    assert peak < 64 * 2**20
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def header(shape: str, dtype: str = "<f4", order: str = "False") -> bytes:
    """The beginning of a .npy file."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


# What is no regular file ----------------------------------------------------------------------------------------------


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    for name in ("pipe", "zero", "."):
        odd = str(tmp_path / name)
        refused(tmp_path / "a.npy", odd, names=odd)
        refused(tmp_path / "a.npy", "head.label_embeddings.aliases=", odd, names=odd, aliases=odd)
        for suffix in (".npy", ".pth", ".vec"):
            (tmp_path / f"link{suffix}").symlink_to(odd)
            with pytest.raises(DataError, match=r"no such file|no readable modules\.json"):
                look_up(tmp_path / f"link{suffix}")
            (tmp_path / f"link{suffix}").unlink()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("option", ["labels=@", "input=@"])
def test_lists_of_the_command_line_are_regular_files(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 6 * 2**30)
    for name, reason in (("pipe", "is not a regular file"), ("large", "6,442,450,944 bytes; at most")):
        words = [f"{option}{tmp_path / name}", *(["input=x.jpg"] if option.startswith("labels") else [])]
        assert run(["predict", f"run={tmp_path}", *words]) != 0
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


# Sizes ----------------------------------------------------------------------------------------------------------------


def test_a_sparse_file_of_text_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    for content in (b"", b"cat 1 2\n", b"2 2\ncat 1 2\ndog 3 4\n"):
        (tmp_path / "a.txt").write_bytes(content)
        os.truncate(tmp_path / "a.txt", 6 * 2**30)
        refused(tmp_path / "a.txt", "a.txt: holds NUL bytes")


def test_lines_and_widths_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"cat " + b"1 " * 20 * 2**20)
    refused(tmp_path / "a.txt", "a line of more than")
    (tmp_path / "a.txt").write_bytes(b"cat 1\r" * 2**20)
    refused(tmp_path / "a.txt", "a line of more than")
    for first in (f"2 {MAX_WIDTH + 1}", "2 999999999999999999", "cat" + " 1" * (MAX_WIDTH + 1)):
        (tmp_path / "a.vec").write_text(f"{first}\ncat 1\n")
        refused(tmp_path / "a.vec", "expected a word and its numbers in each line, at most 65,536")
    (tmp_path / "a.txt").write_text("cat 1 2\ndog 1 " + "x" * 10**6 + "\n")
    refused(tmp_path / "a.txt", "line 2: expected 2 numbers")
    (tmp_path / "a.txt").write_text("cat" + " 1" * MAX_WIDTH + "\ndog" + " 2" * MAX_WIDTH + "\n")
    assert look_up(tmp_path / "a.txt").width == MAX_WIDTH


@pytest.mark.parametrize("shape", ["(2, 2000000000)", "(2000000000, 2)", "(2, 300)", "(2, 0)", "(-2, 3)", "(2, 9**9)"])
def test_a_header_that_lies_about_the_shape_allocates_nothing(tmp_path: Path, shape: str) -> None:
    (tmp_path / "a.npy").write_bytes(header(shape) + bytes(24))
    refused(tmp_path / "a.npy", "a.npy")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    refused(tmp_path / "a.npy", "a.npy", names=str(tmp_path / "names.txt"))


@pytest.mark.parametrize("dtype", ["|O", "<U9", "|V8", "<c8", "|b1", "<M8[s]", "no"])
def test_only_numbers_are_an_array(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "a.npy").write_bytes(header("(2, 3)", dtype) + bytes(2 * 3 * 64))
    refused(tmp_path / "a.npy", "a.npy")


def test_no_more_of_an_array_is_read_than_is_needed(tmp_path: Path) -> None:
    """A true shape in a sparse file: 2 rows of 400 MB, and 200,000 rows of which two are wanted."""
    (tmp_path / "wide.npy").write_bytes(header("(2, 100000000)"))
    os.truncate(tmp_path / "wide.npy", 128 + 8 * 100_000_000)
    refused(tmp_path / "wide.npy", "an array of shape (2, 100000000) for 2 labels")
    (tmp_path / "tall.npy").write_bytes(header("(1, 200000, 300)").replace(b"(1, 200000, 300)", b"(200000, 300)   "))
    os.truncate(tmp_path / "tall.npy", 128 + 4 * 200_000 * 300)
    with (tmp_path / "tall.npy").open("rb+") as file:
        file.seek(128)
        file.write(np.arange(600, dtype=np.float32).tobytes())
    (tmp_path / "names.json").write_text(json.dumps(["cat", "dog", *(f"label {row}" for row in range(199_998))]))
    tracemalloc.start()
    found = look_up(tmp_path / "tall.npy", names=str(tmp_path / "names.json"))
    assert tracemalloc.get_traced_memory()[1] < 128 * 2**20  # the array would be 240 MB
    tracemalloc.stop()
    assert found.vectors.flatten().tolist() == list(range(600))


@pytest.mark.parametrize("place", PLACES)
def test_lists_of_names_are_of_bounded_size(tmp_path: Path, place: str) -> None:
    (tmp_path / "names.json").touch()
    os.truncate(tmp_path / "names.json", 6 * 2**30)
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    read = read_name_list if place == "names" else read_aliases
    with pytest.raises(DataError, match=rf"head\.label_embeddings\.{place}=.* 6,442,450,944 bytes; at most"):
        read(tmp_path / "names.json")


# Content --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"0": "cat", "1": "dog", "0": "bird"}', "the key '0' 2 times"),
        ('{"0": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"x": "cat"}', "cannot be read"),
        ('{"' + "9" * 5000 + '": "cat"}', "cannot be read"),
        ('[["cat"]]', "expected a list of names"),
        ("[1, 2", "cannot be read"),
    ],
)
def test_odd_lists_of_names_are_one_error(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        read_name_list(tmp_path / "names.json")
    assert "names.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "[]", "1", '[{"type": 1, "type": 2}]', '[{"path": "x"}]', "\x00"]
)
def test_an_odd_modules_json_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    refused(tmp_path, "modules.json")


def test_a_pipe_as_modules_json_is_one_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "modules.json")
    refused(tmp_path, "no readable modules.json")


def test_a_model_names_no_class_of_others(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "os.system" + "x" * 10**6}]))
    refused(tmp_path, "refused for safety")


class Harmful:
    """Makes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_no_source_of_labels_runs_code(tmp_path: Path) -> None:
    """Pickles under every name, and YAML's tags, are data or an error."""
    harmful = pickle.dumps([Harmful(tmp_path / "harm")])
    yaml = f"!!python/object/apply:pathlib.Path.touch [{tmp_path / 'harm'}]\n".encode()
    torch.save({"x": Harmful(tmp_path / "harm")}, tmp_path / "saved.pth")
    np.save(tmp_path / "saved.npy", np.array([Harmful(tmp_path / "harm")] * 2), allow_pickle=True)
    (tmp_path / "ok.npy").write_bytes(header("(2, 2)") + np.ones(4, np.float32).tobytes())
    for name in ("a.npy", "a.pth", "a.pt", "a.vec", "a.txt", "a.json", "a.pkl", "a.yaml", "a.bin"):
        for content in (harmful, yaml):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(MldecError):
                look_up(tmp_path / name)
            with pytest.raises(MldecError):
                look_up(tmp_path / "ok.npy", names=str(tmp_path / name))
            with pytest.raises(MldecError):
                look_up(tmp_path / "ok.npy", names=str(tmp_path / name), aliases=str(tmp_path / name))
    for name in ("saved.pth", "saved.npy"):
        refused(tmp_path / name, "cannot be read as an array")
    (tmp_path / "modules.json").write_bytes(yaml)
    with pytest.raises(DataError, match=r"modules\.json"):
        text_models.embed("folder", str(tmp_path), ["cat"], ["{}"])
    assert not (tmp_path / "harm").exists()
    assert embedding_files.is_array(Path("a.npy"))
