"""Property: what happens to loader processes, or to the memory that they share, costs no batch and never a hang."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mldec.data import workers
from mldec.errors import RunError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm, fork and SIGKILL")


class Parts(NamedTuple):
    values: torch.Tensor
    more: torch.Tensor
    messages: tuple[str, ...]


class Numbers(Dataset[Any]):
    """Batch n is full of n; `stuck` never comes."""

    def __init__(self, stuck: int | None = None) -> None:
        self.stuck = stuck

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> Parts:
        if number == self.stuck:
            time.sleep(40)  # longer than any test waits for its end
        return Parts(torch.full((3, 4), number), torch.empty((2, 0), dtype=torch.int8), (str(number),))


def make(numbers: Numbers, processes: int = 2) -> DataLoader[Any]:
    return DataLoader(
        numbers,
        batch_size=None,
        collate_fn=workers.packed,
        num_workers=processes,
        persistent_workers=processes > 0,
        worker_init_fn=workers.start_worker,
        multiprocessing_context="fork" if processes else None,
        generator=torch.Generator(),
    )


def numbers_of(batches: Any) -> list[int]:
    found = []
    for batch in batches:
        assert isinstance(batch, Parts)
        assert batch.values.shape == (3, 4)
        assert batch.values.dtype == torch.int64
        assert (batch.more.shape, batch.more.dtype) == ((2, 0), torch.int8)
        assert batch.messages == (str(int(batch.values[0, 0])),)
        batch.values[:] += 1  # it may be written to
        found.append(int(batch.values[2, 3]) - 1)
    return found


def pids_of(loader: DataLoader[Any]) -> list[int]:
    return [worker.pid for worker in loader._iterator._workers]  # type: ignore[union-attr]


def await_end(pids: list[int], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(_lives(pid) for pid in pids):
        time.sleep(0.02)
    return not any(_lives(pid) for pid in pids)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_signals_that_ask_a_run_to_stop_leave_workers_at_work() -> None:
    loader = make(Numbers())
    for _ in range(2):
        batches = workers.received(loader)
        first = next(batches)
        for pid in pids_of(loader):
            for signum in workers.STOPS:
                os.kill(pid, signum)
        assert [int(first.values[0, 0]), *numbers_of(batches)] == list(range(12))


def test_signals_while_workers_start_leave_them_at_work() -> None:
    """Held back from before the first one is forked; a worker obeys the handlers of the main process until it has its
    own."""
    blocked = []

    former = torch.utils.data.dataloader._MultiProcessingDataLoaderIter.__init__

    def seen(self: Any, loader: Any) -> None:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        former(self, loader)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "__init__", seen)
        loader = make(Numbers())
        assert numbers_of(workers.received(loader)) == list(range(12))
    assert set(workers.STOPS) <= set(blocked[0])
    assert not set(workers.STOPS) & set(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    for pid in pids_of(loader):
        status = Path(f"/proc/{pid}/status").read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert all(ignored >> (signum - 1) & 1 for signum in workers.STOPS)
        waiting = int(status.partition("SigBlk:")[2].split()[0], 16)
        assert not any(waiting >> (signum - 1) & 1 for signum in workers.STOPS)


def test_a_killed_worker_is_found_out_at_the_next_batch_and_nowhere_else() -> None:
    loader = make(Numbers())
    batches = workers.received(loader)
    next(batches)
    pids = pids_of(loader)
    os.kill(pids[0], signal.SIGKILL)
    assert await_end(pids[:1])
    for _ in range(5):  # what the main process does meanwhile is not disturbed
        time.sleep(0.02)
    with pytest.raises(
        workers.WorkerDied, match=rf"^a loader process died: process {pids[0]} was killed by SIGKILL; if"
    ):
        next(batches)
    assert await_end(pids)
    assert numbers_of(workers.received(loader)) == list(range(12))  # with new ones


def test_a_worker_that_dies_while_it_is_waited_for_is_found_out() -> None:
    loader = make(Numbers(stuck=1))
    batches = workers.received(loader)
    next(batches)
    pids = pids_of(loader)
    context = multiprocessing.get_context("fork")
    killer = context.Process(target=lambda: (time.sleep(0.5), os.kill(pids[1], signal.SIGBUS)))
    killer.start()
    with pytest.raises(
        workers.WorkerDied, match=r"killed by SIGBUS, as where shared memory is full.*runtime\.workers=0"
    ):
        next(batches)
    killer.join()
    assert await_end(pids)


#: Starts loader processes of a fork server, then a process that is not ours; prints the signals blocked in the latter.
FORK_SERVER = """
import multiprocessing, signal
from torch.utils.data import DataLoader
from mldec.data import workers

def blocked():
    print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))), flush=True)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    loader = DataLoader([1, 2], num_workers=1, multiprocessing_context=context, worker_init_fn=workers.start_worker)
    assert len(list(workers.received(loader))) == 2
    process = context.Process(target=blocked)
    process.start()
    process.join()
"""


def test_a_fork_server_keeps_no_signals_blocked(tmp_path: Path) -> None:
    (tmp_path / "loads.py").write_text(FORK_SERVER)
    done = subprocess.run([sys.executable, tmp_path / "loads.py"], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_without_room_in_shared_memory_batches_come_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(tensors: list[torch.Tensor]) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(workers, "_share", full)
    monkeypatch.setattr(workers, "_warned", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert numbers_of(workers.received(make(Numbers()))) == list(range(12))
    assert len(caplog.records) == 1  # said once
    assert "/dev/shm has no space for batches" in caplog.text
    assert "runtime.workers=0" in caplog.text
    assert "--shm-size" in caplog.text


def test_processes_that_cannot_be_started_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refused)
    with pytest.raises(RunError, match=r"cannot start 2 loader processes: No space left on device.*runtime\.workers=0"):
        next(workers.received(make(Numbers())))


def test_a_stuck_worker_does_not_outlive_a_main_process_that_was_killed() -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        loader = make(Numbers(stuck=2))
        batches = workers.received(loader)
        next(batches)
        sender.send(pids_of(loader))
        list(batches)

    process = context.Process(target=work)
    process.start()
    pids = receiver.recv()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert await_end(pids, 5)


def test_a_stuck_worker_does_not_hold_up_the_end() -> None:
    loader = make(Numbers(stuck=2))
    batches = workers.received(loader)
    next(batches)
    pids = pids_of(loader)
    began = time.monotonic()
    workers._abandon_all()  # what is done at exit
    assert time.monotonic() - began < 4  # torch waits for each 5 seconds
    assert await_end(pids, 1)


def test_a_worker_that_does_not_end_by_itself_is_killed() -> None:
    loader = make(Numbers(stuck=2), processes=1)
    batches = workers.received(loader)
    next(batches)
    pids = pids_of(loader)
    batches.close()
    del batches, loader  # torch asks, waits 5 seconds, and sends SIGTERM, which it ignores
    assert await_end(pids, 2)
