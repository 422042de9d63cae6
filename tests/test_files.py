"""Property: a file is whole or what it was before, and nothing unfinished stays."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from mldec.errors import ConfigError
from mldec.files import check_output_file, refuse_linked, remove_partial, replacing, without_links


def fail(path: Path, error: BaseException) -> None:
    with replacing(path) as partial:
        partial.write_text("half of the n")
        raise error


def test_a_write_that_fails_leaves_what_was_there_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "below" / "figures.json"
    with replacing(path) as partial:
        assert partial.suffix == ".json"
        partial.write_text("old")
    with pytest.raises(OSError, match=r"cannot write: No space left on device.*figures\.json"):
        fail(path, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        fail(path, KeyboardInterrupt())
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", [".", "below"])
def test_a_directory_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("below").mkdir()
    with pytest.raises(ConfigError, match=r"is a directory; name a file in it"), replacing(name):
        pass


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [
        tmp_path / name
        for name in ("a.partial", ".hidden", "checkpoints/best.pt", "partial.csv", "other/.best.pt.8.partial")
    ]
    names = (".config.yaml.partial.yaml", "checkpoints/.best.pt.77.partial", ".0f.partial.json")
    left = [tmp_path / name for name in names]
    for path in (*kept, *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_partial(tmp_path, "checkpoints", "absent")
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)


def test_a_planted_link_is_neither_followed_nor_kept(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine.txt", tmp_path / "run"
    mine.write_text("mine")
    folder.mkdir()
    for name in (".cost.json.partial.json", "cost.json", ".a.partial.json"):
        (folder / name).symlink_to(mine)
    with replacing(folder / "cost.json") as partial:
        assert partial.is_file()
        assert not partial.is_symlink()
        partial.write_text("{}")
    remove_partial(folder)
    assert mine.read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == ["cost.json"]
    assert (folder / "cost.json").read_text() == "{}"


def test_a_linked_subdirectory_is_refused_and_never_searched(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "run"
    (mine / "below").mkdir(parents=True)
    (mine / ".a.partial.pt").touch()
    (folder / "evaluation").mkdir(parents=True)
    (folder / "checkpoints").symlink_to("../mine")
    (folder / "evaluation" / "digits_test").symlink_to("../../nowhere")
    refuse_linked(folder, ["images", "evaluation", "evaluation/digits_val"])
    for name in ("checkpoints", "checkpoints/below", "evaluation/digits_test"):
        with pytest.raises(ConfigError, match=r"run/\S+ is a symbolic link \(to .*; remove it"):
            refuse_linked(folder, ["images", name])
    remove_partial(folder, "checkpoints")
    assert (mine / ".a.partial.pt").exists()
    (tmp_path / "link").symlink_to("mine")
    remove_partial(tmp_path / "link")  # the directory itself is what the user named
    assert not (mine / ".a.partial.pt").exists()


def test_two_writers_of_a_file_do_not_share_what_is_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            assert first != second
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_what_is_unfinished_keeps_the_ending_and_a_name_that_fits(tmp_path: Path) -> None:
    for name, ending in (("a.json", ".json"), ("x" * 250, ".partial"), ("a." + "x" * 240, ".partial")):
        with replacing(tmp_path / name) as partial:
            assert partial.suffix == ending
            remove_partial(tmp_path)
            assert not partial.exists()  # hence another call finds it
            partial.touch()


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_a_file_that_stays_in_place_is_opened_only_if_it_is_regular(kind: str, tmp_path: Path) -> None:
    target, path = tmp_path / "mine.txt", tmp_path / "log.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    if kind == "link":
        target.write_text("mine")
    with pytest.raises(ConfigError, match=r"log\.txt is not a regular file .*; remove it"):
        without_links(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    assert target.read_text() == "mine" if kind == "link" else not target.exists()


def test_a_pipe_or_a_device_is_no_output_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"page=.*pipe: is a device, pipe or socket; name a file"):
        check_output_file("page", tmp_path / "pipe")
    with pytest.raises(ConfigError, match="page=/dev/null: is a device"):
        check_output_file("page", Path("/dev/null"))
    check_output_file("page", tmp_path / "new.md")
