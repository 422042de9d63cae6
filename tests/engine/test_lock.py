"""Property: of two processes that train in one run directory the second is refused, in words, and changes nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from mldec.commands.main import run
from mldec.engine import run_directory
from mldec.engine.run_directory import LOCK, WRITTEN, lock_run
from mldec.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="flock and fork")


def hold(folder: Path, held: multiprocessing.synchronize.Event) -> None:
    with lock_run(folder):
        held.set()
        time.sleep(100)


def sleep(begun: multiprocessing.synchronize.Event) -> None:
    begun.set()
    time.sleep(100)


def test_the_second_is_refused_and_told_who_was_first(tmp_path: Path) -> None:
    who = rf"process {os.getpid()} on {socket.gethostname()}, since \d{{4}}-"
    with (
        lock_run(tmp_path),
        pytest.raises(ConfigError, match=rf"{tmp_path} is in use by another run: {who}"),
        lock_run(tmp_path),
    ):
        pass
    for _ in range(2):
        with lock_run(tmp_path):
            pass
        assert not (tmp_path / LOCK).exists()


def test_a_lock_file_that_is_removed_while_it_is_waited_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder removed it after another process had opened it, and a third one has made it anew and holds it."""
    locked = run_directory.lock_file

    def remove_first(descriptor: int, path: Path) -> bool:
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).touch()
        monkeypatch.setattr(run_directory, "lock_file", locked)
        return locked(descriptor, path)

    monkeypatch.setattr(run_directory, "lock_file", remove_first)
    refused = pytest.raises(ConfigError, match="is in use by another run")
    with lock_run(tmp_path), refused, lock_run(tmp_path):
        pass


def test_a_killed_process_gives_the_lock_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(30)
    with pytest.raises(ConfigError, match=f"process {process.pid} on"), lock_run(tmp_path):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock_run(tmp_path):
        pass


def test_a_loader_process_does_not_keep_the_lock_of_its_main_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with lock_run(tmp_path):
        begun = context.Event()
        process = context.Process(target=sleep, args=(begun,))
        process.start()
        assert begun.wait(30)  # the copies are closed as the first thing that it does
    try:
        with lock_run(tmp_path):
            pass
    finally:
        process.kill()
        process.join()


def test_a_run_directory_takes_one_run_at_a_time(
    small_digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["train", *small_digits, "schedule.epochs=1", f"run_dir={folder}"]
    folder.mkdir()
    with lock_run(folder):
        assert run(words) == 2
        assert f"error: {folder} is in use by another run: process {os.getpid()}" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == [LOCK]
    (folder / ".config.yaml.partial.yaml").write_text("left by a process that was killed")
    assert run(words) == 0
    assert not list(folder.rglob(".*partial*"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != LOCK}
    capsys.readouterr()
    with lock_run(folder):
        for again in (["train", f"resume={folder}"], words):
            assert run(again) == 2
            assert "is in use by another run" in capsys.readouterr().err
        assert run(["evaluate", f"run={folder}", f"output={tmp_path / 'evaluated'}"]) == 0  # reading is free
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run(words) == 2
    assert f"run_dir={folder}: holds a run already; use resume={folder}" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_where_the_run_directory_should_be_is_one_error(
    below: str, small_digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for name in ("run_dir", "output"):
        place = file / below if below else file
        assert run(["train", *small_digits, f"{name}={place}"]) == 2
        found = f"{file} is a file" if below else "is a file"
        assert capsys.readouterr().err == (
            f"error: {name}={place}: {found}, so nothing can be written there; name a directory or a new path\n"
        )
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", WRITTEN)
def test_no_subdirectory_that_training_writes_to_is_a_link(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to("../victim")
    with pytest.raises(ConfigError, match=rf"{name} is a symbolic link"), lock_run(run):
        pass
    assert [path.name for path in run.iterdir()] == [name]  # not even the file of the lock was written


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_the_file_of_the_lock_is_never_a_link(kind: str, tmp_path: Path) -> None:
    mine, run = tmp_path / "mine.txt", tmp_path / "run"
    mine.write_text("mine")
    run.mkdir()
    if kind == "link":
        (run / LOCK).symlink_to(mine)
    else:
        os.mkfifo(run / LOCK)
    with pytest.raises(ConfigError, match=rf"{LOCK} is not a regular file .*; remove it"), lock_run(run):
        pass
    assert mine.read_text() == "mine"
