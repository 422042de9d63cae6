"""Property: a run that is killed anywhere, again and again, ends as if it had never been, and can always go on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from mldec.engine.checkpoint import load_checkpoint
from tests.forked import begin, finish
from tests.same import assert_same_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from a server")

#: So that a checkpoint is being written much of the time.
OFTEN = ("runtime.checkpoint_every=1", "augment.mixup=0.4")


def words_for(folder: Path, experiment: Sequence[str]) -> list[str]:
    """What a user types: to begin, or to go on with what is there."""
    if (folder / "checkpoints" / "last.pt").exists():
        return ["train", f"resume={folder}"]
    return ["train", *OFTEN, *experiment, f"run_dir={folder}"]


def stands_at(folder: Path) -> int:
    """The step that `last.pt` has; 0 before there is one."""
    file = folder / "checkpoints" / "last.pt"
    return load_checkpoint(file)["step"] if file.exists() else 0


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_anywhere_it_goes_on_and_ends_the_same(kills: int, small_digits: list[str], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment = [*small_digits, "schedule.epochs=4"]
    finish(words_for(whole, experiment))  # draws the scenes and starts the server
    again = tmp_path / "again"
    seconds = finish(words_for(again, experiment))
    chance, killed, steps = random.Random(kills), 0, []
    while killed < kills:
        process = begin(words_for(parts, experiment))
        process.join(chance.uniform(0.2, 1.0) * seconds)
        while killed == kills - 1 and stands_at(parts) == 0 and process.exitcode is None:
            process.join(0.05)  # on a machine that is slower now: at least one is killed in its steps
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:  # it came to its end: another run
            assert process.exitcode == 0
            assert_same_run(parts, whole)
            parts = tmp_path / f"parts{killed}"
        for file in (parts / "checkpoints").glob("[!.]*.pt"):  # not what was killed half written
            steps.append(load_checkpoint(file)["step"])
    finish(words_for(parts, experiment))
    assert_same_run(parts, whole)
    assert_same_run(again, whole)
    assert max(steps, default=0) > 0  # some had begun
    assert not list((parts / "checkpoints").glob(".*"))


def test_preempted_it_is_saved_leaves_with_a_code_of_its_own_and_ends_the_same(
    small_digits: list[str], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment = [*small_digits, "schedule.epochs=6"]
    finish(words_for(whole, experiment))
    last = parts / "checkpoints" / "last.pt"
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        begun = load_checkpoint(last)["step"] if last.exists() else -1
        process = begin(words_for(parts, experiment))
        await_step(last, process, begun)
        os.kill(process.pid, signum)
        process.join()
        assert process.exitcode == 75
    finish(words_for(parts, experiment))
    assert_same_run(parts, whole)


def test_preempted_with_all_its_processes_it_is_saved_and_ends_the_same(
    small_digits: list[str], tmp_path: Path
) -> None:
    """Schedulers send SIGTERM to every process of a job, and again where that takes its time."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment = [*small_digits, "schedule.epochs=6", "runtime.workers=2"]
    finish(words_for(whole, experiment))
    last = parts / "checkpoints" / "last.pt"
    for begun in (0, 4):
        process = begin(words_for(parts, experiment))
        await_step(last, process, begun)
        for _ in range(5):
            for pid in (*children(process.pid), process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.03)
        process.join(60)
        assert process.exitcode == 75
        assert stands_at(parts) > begun
    finish(words_for(parts, experiment))
    assert_same_run(parts, whole)


def test_a_killed_loader_process_is_one_error_and_the_run_ends_the_same(
    small_digits: list[str], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment = [*small_digits, "schedule.epochs=6", "runtime.workers=2"]
    finish(words_for(whole, experiment))
    said = tmp_path / "said"
    process = begin(words_for(parts, experiment), errors=str(said))
    await_step(parts / "checkpoints" / "last.pt", process, 0)
    victim = min(children(process.pid))
    os.kill(victim, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == 1
    progress = ("step ", "warning: 4 of 80 labels have no image in train", "warning: val (24 images) has no image of")
    lines = [line for line in said.read_text().splitlines() if not line.startswith(progress)]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: a loader process died: process {victim} was killed by SIGKILL; ")
    assert lines[0].endswith(f"Saved at step {stands_at(parts)}; continue with resume={parts}")
    finish(words_for(parts, experiment))
    assert_same_run(parts, whole)


def await_step(last: Path, process: ForkServerProcess, begun: int) -> None:
    """Wait until a checkpoint lies behind step `begun`."""
    deadline = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < deadline:
        if last.exists() and load_checkpoint(last)["step"] > begun:
            return
        time.sleep(0.01)
    raise AssertionError(f"it ended with {process.exitcode} before step {begun + 1}")


def children(pid: int | None) -> set[int]:
    """Processes that `pid` began."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(number) for number in path.read_text().split()} if path.exists() else set()
