"""`runtime.devices=N`: the processes of one machine, started, watched and ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from mldec.engine.interrupt import PREEMPTED, PREEMPTIONS, pass_on
from mldec.system import usable_cores

LAUNCHED = "WORLD_SIZE"  # set by torchrun, and here
#: Exit codes of a process that the system's signal ended before it could leave with a code of its own.
PREEMPTED_CODES = {128 + int(signum) for signum in PREEMPTIONS}
GRACE = 30.0  # seconds that the others have to end by themselves, once one has failed


def starts_processes(devices: int) -> bool:
    """Whether `runtime.devices` requests several processes and this is not yet one of them."""
    return devices > 1 and LAUNCHED not in os.environ


def launch(arguments: Sequence[str], count: int, *, on_cpu: bool) -> int:
    """Run `mldec` with `arguments` in a group of `count` processes; returns the exit code of the first to fail, else 0.

    Signals go to all of them. When one fails, its error is on the terminal and the others get `GRACE` seconds.
    """
    environment = {**os.environ, LAUNCHED: str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if on_cpu:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    processes: list[subprocess.Popen] = []
    former = signal.signal(signal.SIGINT, lambda signum, frame: None)  # it reaches them by itself
    try:
        with pass_on(processes) as stop:
            for rank in range(count):
                process = subprocess.Popen(
                    [sys.executable, "-m", "mldec", *arguments],
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                )
                processes.append(process)
                if stop.requested:  # while it was being started
                    process.terminate()
            code = _watch(processes)
            return PREEMPTED if stop.requested and code in PREEMPTED_CODES else code
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        signal.signal(signal.SIGINT, former)


def _watch(processes: Sequence[subprocess.Popen]) -> int:
    failed, deadline = 0, float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if failed == 0:
            failed = next((code for code in codes if code), 0)
            deadline = time.monotonic() + GRACE if failed else deadline
        if all(code is not None for code in codes) or time.monotonic() > deadline:
            return 128 - failed if failed < 0 else failed
        time.sleep(0.05)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
