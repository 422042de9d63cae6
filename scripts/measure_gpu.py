"""Measure on a GPU what docs/performance.md has room for, the most important first, within a time budget.

    python scripts/measure_gpu.py                      # all, into docs/benchmarks/*_gpu.json
    python scripts/measure_gpu.py table9_100 loop      # some of it
    python scripts/performance.py                      # then the page

    budget=480        seconds: a measurement whose estimate does not fit into the rest is left out, and listed
    records=DIR       where the records go; default: docs/benchmarks
    commit=HASH       recorded where this copy of the source has no git history
    device=cpu tiny=true records=DIR       a rehearsal: every measurement, at a size that says nothing

Each record is written as soon as it is measured, so that a run that is cut off keeps what it has. `make gpu-check` runs
the tests on the GPU first. What is measured stands in mldec/benchmarks/gpu.py.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mldec.benchmarks.gpu import RUNS, benchmark_words
from mldec.commands.main import run
from mldec.engine.run_directory import read_json, write_json
from mldec.errors import ConfigError, suggest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


@dataclass(frozen=True)
class Options:
    """What was typed; `budget` in seconds."""

    names: tuple[str, ...] = ()
    budget: float = 480.0
    records: Path = FOLDER
    device: str = "cuda"
    tiny: bool = False
    commit: str | None = None


def main(argv: Sequence[str]) -> int:
    """Measure what is named, or all. Returns 0, 1 if a measurement failed, or 2 for bad input."""
    began, failed, left_out = time.monotonic(), [], []
    try:
        options = parse(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in options.names or RUNS:
        spent = time.monotonic() - began
        expected = 0.0 if options.tiny else RUNS[name].seconds
        if spent + expected > options.budget:
            left_out.append(f"{name} (about {expected:.0f} s)")
            continue
        print(f"\n{name}, after {spent:.0f} s", flush=True)
        if not measure(name, options):
            failed.append(name)
    if left_out:
        print(f"\nleft out for want of time (budget={options.budget:g}): {', '.join(left_out)}")
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


def measure(name: str, options: Options) -> bool:
    """Take one measurement and write its record at once. Returns whether it succeeded."""
    path, began = options.records / f"{name}_gpu.json", time.monotonic()
    try:
        if run(["benchmark", *benchmark_words(name, options.device, tiny=options.tiny), f"output={path}"]):
            return False
    except Exception:  # of one network; the others still get their turn
        traceback.print_exc()
        return False
    record = read_json(path)
    record["environment"]["commit"] = record["environment"]["commit"] or options.commit
    write_json(path, {**record, "took": round(time.monotonic() - began, 1)})
    return True


def parse(argv: Sequence[str]) -> Options:
    """Options from a command line. Raises ConfigError for what it does not know or cannot use."""
    typed = dict(word.split("=", 1) for word in argv if "=" in word)
    names = tuple(word for word in argv if "=" not in word)
    known = ("budget", "records", "device", "tiny", "commit")
    for name in names:
        if name not in RUNS:
            raise ConfigError(f"{name}: no such measurement; {suggest(name, RUNS)}")
    for key in typed:
        if key not in known:
            raise ConfigError(f"{key}: no such option; {suggest(key, known)}")
    try:
        budget = float(typed.get("budget", Options.budget))
    except ValueError:
        budget = -1.0
    if not 0 < budget < float("inf"):
        raise ConfigError(f"budget={typed['budget']}: expected seconds above 0, as in budget=480")
    if typed.get("tiny", "false") not in ("true", "false"):
        raise ConfigError(f"tiny={typed['tiny']}: expected true or false")
    options = Options(
        names=names,
        budget=budget,
        records=Path(typed.get("records", FOLDER)).expanduser(),
        device=typed.get("device", Options.device),
        tiny=typed.get("tiny") == "true",
        commit=typed.get("commit") or None,
    )
    if (options.tiny or not options.device.startswith("cuda")) and options.records.resolve() == FOLDER:
        raise ConfigError(
            f"records={FOLDER} is for the records of a GPU at full size; type another folder with "
            f"device={options.device} tiny={str(options.tiny).lower()}"
        )
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
