"""Property: long runs take no more memory and files than short ones, and leave no process behind, however they end."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.curve import make, make_trainer
from tests.forked import begin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process holds")


def resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def processes(field: int, value: int) -> set[int]:
    """Processes whose number `field` in /proc/PID/stat, after the name, is `value`; zombies do not count."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[field - 1]) == value and state != "Z":
            found.add(int(path.parent.name))
    return found


def children(pid: int) -> set[int]:
    """Processes that `pid` began and that are still there."""
    return processes(1, pid)


def await_end(pids: set[int], seconds: float = 15) -> set[int]:
    """Which of `pids` are there after that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.mark.slow  # a minute
def test_two_thousand_steps_take_no_more_memory_than_five_hundred(small_digits: list[str], tmp_path: Path) -> None:
    words = ["schedule.batch_size=4", "schedule.epochs=90", "runtime.eval_every=20", "runtime.workers=1"]
    trainer = make_trainer(make([*small_digits, *words]))
    seen: dict[int, tuple[int, int]] = {}
    finish = trainer.finish_epoch

    def measured() -> None:
        finish()
        seen[trainer.state.progress.step] = resident(), handles()

    trainer.finish_epoch = measured  # type: ignore[method-assign]
    trainer.fit(tmp_path)
    steps = sorted(seen)
    assert steps[-1] >= 2000
    warm = next(step for step in steps if step >= 500)
    assert seen[steps[-1]][0] < 1.02 * max(seen[step][0] for step in steps if step <= warm)
    assert seen[steps[-1]][1] <= seen[warm][1]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_no_worker_stays(signum: int, code: int, small_digits: list[str], tmp_path: Path) -> None:
    words = ["train", *small_digits, "runtime.workers=2", "schedule.epochs=200", f"run_dir={tmp_path / 'run'}"]
    process = begin(words)
    try:
        deadline = time.monotonic() + 60
        log = tmp_path / "run" / "metrics.jsonl"
        while time.monotonic() < deadline and process.is_alive() and not (log.exists() and log.stat().st_size):
            time.sleep(0.02)
        workers = children(process.pid)
        assert len(workers) >= 2
        os.kill(process.pid, signum)
        process.join(120)
        assert process.exitcode == code
    finally:
        process.kill()
    assert await_end(workers) == set()


def test_no_worker_stays_after_an_error_in_one_and_the_error_is_shown(small_digits: list[str], tmp_path: Path) -> None:
    words = [*small_digits, "runtime.workers=2"]
    image = Path(make_trainer(make(words)).splits.train.path(7))
    content = image.read_bytes()
    try:
        image.write_bytes(content[:100])
        process = begin(["train", *words, f"run_dir={tmp_path / 'run'}"], errors=str(tmp_path / "said"))
        process.join()
    finally:
        image.write_bytes(content)
    assert process.exitcode == 2
    assert f"error: cannot decode image {image}" in (tmp_path / "said").read_text()
    assert await_end(processes(3, process.pid)) == set()  # that began in its session
