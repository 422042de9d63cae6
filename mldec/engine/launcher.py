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

LAUNCHED = "WORLD_SIZE"  # set by torchrun, and here
#: How `launch` would leave where a process ended of what the system asks, before it could do so in its own way.
PREEMPTED_CODES = {128 + int(signum) for signum in PREEMPTIONS}
GRACE = 30.0  # seconds that the others have to end by themselves, once one has failed


def starts_processes(devices: int) -> bool:
    """Whether several processes are wanted (`runtime.devices`), and this is none of them yet."""
    return devices > 1 and LAUNCHED not in os.environ


def launch(arguments: Sequence[str], count: int, *, on_cpu: bool) -> int:
    """Run `mldec` with `arguments` in `count` processes that find one another. Returns the exit code of the first to fail,
    else 0.

    Signals go to all of them. When one fails the others get `GRACE` seconds; what it said stands on the terminal.
    """
    environment = {**os.environ, LAUNCHED: str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if on_cpu:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    processes: list[subprocess.Popen] = []
    former = signal.signal(signal.SIGINT, lambda signum, frame: None)  # it reaches them by itself
    try:
        with pass_on(processes) as asked:
            for rank in range(count):
                process = subprocess.Popen(
                    [sys.executable, "-m", "mldec", *arguments],
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                )
                processes.append(process)
                if asked.requested:  # while it was being started
                    process.terminate()
            code = _watch(processes)
            return PREEMPTED if asked.requested and code in PREEMPTED_CODES else code
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
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
