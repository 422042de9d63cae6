"""`mldec train … -m`: one run for each combination of values, and a table of what they reached."""

from __future__ import annotations

import datetime
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mldec.commands import compose
from mldec.commands.options import say
from mldec.engine.interrupt import PREEMPTED, STOPPED, pass_on
from mldec.errors import ConfigError, as_override


def sweep(argv: Sequence[str], arguments: compose.Arguments) -> int:
    """One process for each combination of values; the first failure does not keep the others from running."""
    fixed = [item for item in argv if item not in ("-m", "--multirun") and item not in arguments.overrides]
    runs = compose.expand_sweep(arguments.overrides)
    varied = [text for text in runs[0] if any(text not in other for other in runs)]
    keys = {compose.key_of(text) for text in varied}
    if given := [text for text in arguments.overrides if compose.key_of(text) == "run_dir"]:
        raise ConfigError(
            f"{given[-1]}: each run needs a directory of its own; use output=DIR, below which they are made"
        )
    folder = _sweep_folder(arguments)
    failed, done = [], []
    for number, overrides in enumerate(runs, start=1):
        say(f"[{number}/{len(runs)}] {shlex.join(overrides)}")
        command = [sys.executable, "-m", "mldec", "train", *fixed, *overrides]
        own = [text for text in overrides if compose.key_of(text) in keys]
        run_dir = folder / f"{number:02d}_{re.sub(r'[^A-Za-z0-9=._-]+', '_', ' '.join(own))[:80]}"
        command.append(as_override("run_dir", str(run_dir)))
        done.append((own, run_dir))
        code, preempted = _run_patiently(command)
        if preempted or code in (STOPPED, PREEMPTED):
            return PREEMPTED if preempted else code
        if code:
            failed.append((code, overrides))
    for code, overrides in failed:
        say(f"error: exit code {code} from: {shlex.join(overrides)}", error=True)
    from mldec.report.sweep import sweep_table

    if table := sweep_table(done):
        say(f"\n{table}\nrun directories  {folder}")
    return failed[0][0] if failed else 0


def _sweep_folder(arguments: compose.Arguments) -> Path:
    """A new folder for the run directories of several runs: `output`/sweep/date_time."""
    outputs = [compose.value_of(text) for text in arguments.overrides if compose.key_of(text) == "output"]
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path(str(outputs[-1]) if outputs else "outputs").expanduser() / "sweep" / stamp


def _run_patiently(command: Sequence[str]) -> tuple[int, bool]:
    """Run a command; signals that stop this process reach it too, and it has the time to save.

    Returns its exit code, and whether the system stopped it.
    """
    processes: list[subprocess.Popen] = []
    with pass_on(processes) as stop:
        process = subprocess.Popen(command)
        processes.append(process)
        if stop.requested:  # while it was being started
            process.terminate()
        while True:
            try:
                return process.wait(), stop.preempted
            except KeyboardInterrupt:
                continue
