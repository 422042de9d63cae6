"""Property: a command that is stopped, that has no memory left, or nowhere to write, says so in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mldec.commands import show
from mldec.commands.main import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

STOPS = [("SIGINT", 130), ("SIGTERM", 75), ("SIGUSR1", 75)]

#: Asks to stop when a module is imported that the command needs, first or late.
IMPORTING = """
import os, runpy, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Finder)
sys.argv = ["mldec", "show", "experiment=digits"]
runpy.run_module("mldec", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("module", "name", "code"),
    [
        *((module, *stop) for module in ("mldec.commands.main", "mldec.commands.show") for stop in STOPS),
        ("hydra", *STOPS[1]),  # after torch, whose import takes seconds
    ],
)
def test_a_stop_while_modules_are_imported(module: str, name: str, code: int) -> None:
    command = [sys.executable, "-c", IMPORTING.format(module=module, name=name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "interrupted\n")


@pytest.mark.parametrize(("name", "code"), STOPS)
def test_a_stop_of_a_command_that_has_nothing_to_save(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def main(argv: list[str]) -> int:
        try:
            os.kill(os.getpid(), getattr(signal, name))
        finally:
            cleaned.append(argv)
        return 0

    before = [signal.getsignal(getattr(signal, name)) for name, _ in STOPS]
    monkeypatch.setattr(show, "main", main)
    assert run(["show", "x=1"]) == code
    assert capsys.readouterr().err == "interrupted\n"
    assert cleaned == [["x=1"]]
    assert [signal.getsignal(getattr(signal, name)) for name, _ in STOPS] == before


def too_much() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def nothing_left() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("what", "requested"), [(too_much, r" (requested 1152921504606846976 bytes)"), (nothing_left, "")]
)
def test_memory_that_ran_out_is_one_error(
    what: Callable[[], None], requested: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "main", lambda argv: what())
    assert run(["show"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: out of memory{requested}. Lower schedule.batch_size")
    assert printed.count("\n") == 1


def test_another_error_is_not_taken_for_one_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(argv: list[str]) -> int:
        raise RuntimeError("something else")

    monkeypatch.setattr(show, "main", main)
    with pytest.raises(RuntimeError, match="something else"):
        run(["show"])


WRITING = (["table", "1", "page=."], ["benchmark", "train", "output=."], ["benchmark", "train", "page=."])


@pytest.mark.parametrize("argv", WRITING)
def test_a_directory_where_a_file_is_written_is_refused_before_anything_runs(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {argv[-1]}: is a directory; name a file in it")


@pytest.mark.parametrize("key", ["output", "records"])
def test_a_file_where_a_table_has_its_directory_is_refused(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert run(["table", "1", f"{key}={file}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {key}={file}: is a file, so nothing can be written there")
