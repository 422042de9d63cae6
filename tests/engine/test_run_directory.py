"""Properties: each run has its own directory, and its files are read only if they are regular and bounded."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from mldec.engine.checkpoint import find_checkpoint
from mldec.engine.export.exported_model import DESCRIPTION, MOST_DESCRIPTION, WEIGHTS, read_exported
from mldec.engine.metric_writer import MOST_RECORDS, read_records
from mldec.engine.run_directory import MOST_JSON, make_run_directory, read_metadata
from mldec.engine.settings_file import MOST_BYTES, read_settings
from mldec.engine.thresholds import read_thresholds
from mldec.errors import CheckpointError, ConfigError, DataError, MldecError
from mldec.report.run import read_run
from mldec.untrusted import read_json


def test_two_runs_of_one_second_get_two_folders(tmp_path):
    folders = {make_run_directory(str(tmp_path), "x") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.parent == tmp_path / "x" for folder in folders)


def test_runs_within_a_folder_that_is_none_are_named(tmp_path):
    for name in ("mine/2026-01-01_10-00-00", "mine/2026-01-02_10-00-00"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("name: mine\n")
    for folder in (tmp_path / "mine", tmp_path):
        newest, older = (str(tmp_path / "mine" / f"2026-01-0{day}_10-00-00") for day in (2, 1))
        for read, path in ((find_checkpoint, folder), (read_settings, folder / "config.yaml"), (read_run, folder)):
            with pytest.raises(MldecError) as caught:
                read(path)
            assert str(caught.value).endswith(f"; it holds 2 runs, name one: {newest}, {older}")
    with pytest.raises(CheckpointError, match=r"training never started$"):
        find_checkpoint(tmp_path / "mine" / "2026-01-01_10-00-00")


def test_a_folder_that_holds_a_run_is_not_taken_again(tmp_path):
    folder = make_run_directory("", "x", str(tmp_path / "mine"))
    assert folder == make_run_directory("", "x", str(tmp_path / "mine"))  # empty still
    (folder / "checkpoints").mkdir()
    assert folder == make_run_directory("", "x", str(tmp_path / "mine"))  # killed before the first checkpoint was there
    (folder / "checkpoints" / "last.pt").touch()
    with pytest.raises(FileExistsError):
        make_run_directory("", "x", str(tmp_path / "mine"))


READERS = [
    (lambda path: read_json(path, most=MOST_JSON), "data.json", MOST_JSON, DataError),
    (read_records, "metrics.jsonl", MOST_RECORDS, DataError),
    (read_settings, "config.yaml", MOST_BYTES, ConfigError),
    (lambda path: read_exported(path.parent / WEIGHTS), DESCRIPTION, MOST_DESCRIPTION, CheckpointError),
]


@pytest.mark.skipif(sys.platform == "win32", reason="devices and sparse files")
@pytest.mark.parametrize(("read", "name", "most", "error"), READERS, ids=[name for _, name, _, _ in READERS])
def test_a_file_of_a_run_directory_is_read_only_if_it_is_regular_and_bounded(read, name, most, error, tmp_path):
    path = tmp_path / name
    path.symlink_to("/dev/null")
    with pytest.raises(error, match=rf"{name}: is not a regular file but a device"):
        read(path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(most + 1)  # takes no room on the disk
    with pytest.raises(error, match=rf"{name}: {most + 1:,} bytes; at most {most:,} are read"):
        read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="devices and sparse files")
def test_a_note_that_cannot_be_read_is_a_warning(tmp_path, caplog):
    os.mkfifo(tmp_path / "cost.json")
    with caplog.at_level(logging.WARNING):
        assert read_metadata(tmp_path / "cost.json") == {}
    assert "a device, a pipe or a socket" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="devices and sparse files")
def test_tables_of_a_run_directory_that_hold_no_text_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a")
    for name in ("thresholds.csv", "per_class_ap.csv", "environment.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**26)
    with pytest.raises(DataError, match="NUL bytes"):
        read_thresholds(tmp_path / "thresholds.csv")
    problems = read_run(tmp_path).problems
    assert "NUL bytes" in problems["per_class_ap.csv"]
    assert "at most" in problems["environment.json"]
