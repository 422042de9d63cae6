"""Commands in processes of their own that have torch already: forked, so that no test waits for imports again.

That `python -m mldec` and `train.py` themselves run is tested elsewhere, with commands that are really started.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import IO, Any

#: What a training imports, also late.
PRELOADED = (
    "mldec.commands.table",
    "mldec.commands.train",
    "mldec.data.digits",
    "mldec.data.randaugment",
    "mldec.engine.board",
    "mldec.engine.evaluation",
    "mldec.engine.image_sheets",
    "mldec.engine.launcher",
    "mldec.engine.training",
    "hydra.compose",
    "hydra._internal.config_loader_impl",
    "hydra._internal.core_plugins.basic_sweeper",
    "hydra._internal.core_plugins.importlib_resources_config_source",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "scipy.sparse",
    "sklearn.datasets",
    "torch.distributed.fsdp",
    "torch.nn.parallel",
)
MLDEC = [sys.executable, "-m", "mldec"]


def command(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """`mldec` with `words`. What it prints is lost, but for the file `errors`, or `output` with all of it."""
    os.setsid()  # of a session of its own, as of a terminal
    environment = dict(environment)
    both, errors = environment.pop("output", None), environment.pop("errors", None)
    to = both or os.devnull
    os.dup2(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), sys.stdout.fileno())
    if both or errors:
        os.dup2(os.open(both or errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), sys.stderr.fileno())
    subprocess.Popen = Forked  # type: ignore[misc, assignment]
    _run(words, environment)


def _run(words: Sequence[str], environment: Mapping[str, str]) -> None:
    import torch

    from mldec.__main__ import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as where a user begins it
    main(list(words))


def begin(words: Sequence[str], **environment: str) -> ForkServerProcess:
    """A process that runs `mldec` with `words`; see `command` for `output` and `errors`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    process = context.Process(target=command, args=(words, environment))
    process.start()
    return process


def finish(words: Sequence[str], **environment: str) -> float:
    """Run a command that must succeed; returns the seconds that it took."""
    began = time.perf_counter()
    process = begin(words, **environment)
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - began


class Forked(subprocess.Popen):
    """`subprocess.Popen` whose `python -m mldec` is a fork of this process."""

    process: BaseProcess | None = None

    def __init__(self, args: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> None:
        if list(args[:3]) != MLDEC:
            super().__init__(args, env=env, **options)
            return
        self.args, self.returncode = args, None
        self.process = self._begin(args[3:], env or {}, options.get("stdout"))
        self.pid = self.process.pid

    def _begin(self, words: Sequence[str], environment: Mapping[str, str], output: IO[str] | None) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(target=_run, args=(words, environment))
        process.start()
        return process

    def poll(self) -> int | None:
        if self.process is not None:
            self.returncode = self.process.exitcode
            return self.returncode
        return super().poll()

    def wait(self, timeout: float | None = None) -> int:
        if self.process is not None:
            self.process.join(timeout)
            self.returncode = self.process.exitcode
            return self.returncode
        return super().wait(timeout)

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def __del__(self, **options: Any) -> None:
        if self.process is None:
            super().__del__(**options)


class Begun(Forked):
    """The same, of a process that `begin` starts, whose output goes to the file that `stdout` is."""

    def _begin(self, words: Sequence[str], environment: Mapping[str, str], output: IO[str] | None) -> BaseProcess:
        return begin(words, **environment, **({"output": output.name} if output else {}))
