"""Measure speed and memory on a CPU or a GPU, and write docs/performance.md from the records.

    python scripts/performance.py                       # only the page, from the records in docs/benchmarks
    python scripts/performance.py device=cpu            # everything for the CPU, 15 minutes on two idle cores
    python scripts/performance.py device=cpu head       # one measurement, by name
    python scripts/performance.py device=cuda           # everything for a GPU, the most important first, 8 minutes

    budget=480        seconds: a measurement whose estimate does not fit into the rest is left out, and listed
    records=DIR       where NAME_cpu.json or NAME_gpu.json are written; default: docs/benchmarks
    commit=HASH       recorded where this copy of the source has no git history
    device=cpu tiny=true records=DIR        rehearse the GPU's list on the CPU with tiny sizes

performance.yaml lists the measurements. Each record is written as soon as it is measured, so an interrupted run keeps
what it has. `make gpu-check` runs the tests on the GPU first.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import component_benchmarks
import yaml

from mldec.benchmarks.figure import Figure, as_grid, as_table
from mldec.benchmarks.record import make_record
from mldec.commands.main import run
from mldec.engine.run_directory import write_json
from mldec.errors import ConfigError, suggest

ROOT = Path(__file__).resolve().parent.parent
RECORDS, PAGE = ROOT / "docs" / "benchmarks", ROOT / "docs" / "performance.md"
PLAN: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "scripts" / "performance.yaml").read_text(encoding="utf-8"))

#: Training runs of the paper: images of train, epochs, and images/s of one RTX 3090 according to timm's published
#: benchmarks (mixed precision); then the record and the figure of a rate that we measured. 30 epochs are our choice.
WHOLE_RUNS = {
    "MS-COCO, TResNet-L, 448 px": (82_081, 40, 103.0, "tresnet_l", "ml_decoder K=80, 80 labels: training"),
    "Open Images, TResNet-M, 224 px": (
        *(9_011_219, 30, 793.0),
        *("table9_5000", "ml_decoder K=100, 5000 labels: training"),
    ),
}


@dataclass(frozen=True)
class Options:
    """The command line; `budget` in seconds."""

    names: Sequence[str] = ()
    device: str = ""
    budget: float = math.inf
    records: Path = RECORDS
    commit: str | None = None
    tiny: bool = False

    @property
    def kind(self) -> str:
        """Which list of performance.yaml: cpu or gpu."""
        return "cpu" if self.device == "cpu" and not self.tiny else "gpu"


def main(argv: Sequence[str]) -> int:
    """Measure what is named, or all, then write the page. Returns 0, 1 if a measurement failed, or 2 for bad input."""
    try:
        options = parse(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = measure_all(options) if options.device else []
    if options.records.resolve() == RECORDS:
        PAGE.write_text(page(read_records(RECORDS)), encoding="utf-8")
        print(f"written to {PAGE}")
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> Options:
    """Options from a command line. Raises ConfigError for what does not exist or cannot be used."""
    given: dict[str, Any] = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    known = ("device", "budget", "records", "commit", "tiny")
    for key in given:
        if key not in known:
            raise ConfigError(f"{key}: no such option; {suggest(key, known)}")
    try:
        given["budget"] = float(given.get("budget", math.inf))
    except ValueError:
        given["budget"] = math.nan
    if not given["budget"] > 0:
        raise ConfigError("budget: expected seconds above 0, as in budget=480")
    if given.get("tiny", "false") not in ("true", "false"):
        raise ConfigError(f"tiny={given['tiny']}: expected true or false")
    given["tiny"] = given.get("tiny") == "true"
    given["records"] = Path(given.get("records", RECORDS)).expanduser()
    options = Options(names=[argument for argument in argv if "=" not in argument], **given)
    if (options.names or options.tiny) and not options.device:
        raise ConfigError("device: missing; use device=cpu or device=cuda")
    for name in options.names:
        if name not in PLAN[options.kind]:
            raise ConfigError(f"{name}: no such measurement; {suggest(name, PLAN[options.kind])}")
    if options.tiny and options.records.resolve() == RECORDS:
        raise ConfigError(f"{RECORDS} is for records at full size; use records=DIR with tiny=true")
    return options


# Measurements ---------------------------------------------------------------------------------------------------------


def measure_all(options: Options) -> list[str]:
    """Take the measurements that fit into the budget. Returns the names of those that failed."""
    began, failed, left_out = time.monotonic(), [], []
    for name in options.names or PLAN[options.kind]:
        spent = time.monotonic() - began
        expected = 0 if options.tiny else PLAN[options.kind][name].get("seconds", 0)
        if spent + expected > options.budget:
            left_out.append(f"{name} (about {expected} s)")
            continue
        print(f"\n{name}, after {spent:.0f} s", flush=True)
        try:
            measure(name, options)
        except Exception:  # of one network; the others are still measured
            traceback.print_exc()
            failed.append(name)
    if left_out:
        print(f"\nleft out for lack of time (budget={options.budget:g}): {', '.join(left_out)}")
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return failed


def measure(name: str, options: Options) -> None:
    """Take one measurement and write its record at once."""
    path, began = options.records / f"{name}_{options.kind}.json", time.monotonic()
    subject, *arguments = benchmark_arguments(name, options)
    if subject in component_benchmarks.SUBJECTS:
        measured = component_benchmarks.measure(subject, arguments)
        print(as_table(measured.figures))
        record = make_record(subject, measured)
    elif run(["benchmark", subject, *arguments, f"output={path}"]):
        raise RuntimeError(f"mldec benchmark {subject} failed")
    else:
        record = json.loads(path.read_text(encoding="utf-8"))
    record["environment"]["commit"] = record["environment"]["commit"] or options.commit
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**record, "took": round(time.monotonic() - began, 1)})


def benchmark_arguments(name: str, options: Options) -> list[str]:
    """The subject and the options of a measurement of performance.yaml on a device, at full or tiny size."""
    subject, *overrides = PLAN[options.kind][name]["run"].split()
    if subject != "loader":  # which runs on the CPU
        overrides.append(f"runtime.device={options.device}")
    if options.kind == "gpu":
        overrides.append("runtime.precision=bf16")
    if options.tiny:
        values = dict(override.split("=", 1) for override in overrides)
        values = {key: PLAN["tiny"].get(key, value) for key, value in values.items()}
        values |= dict(override.split("=", 1) for override in PLAN["tiny_extra"][subject].split())
        overrides = [f"{key}={value}" for key, value in values.items()]
    return [subject, *overrides]


# The page -------------------------------------------------------------------------------------------------------------


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder by name, such as `head_cpu`."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*_?pu.json"))}


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The page from records by name."""
    tests = {"tests": {"what": "The tests marked `cuda`", "run": "make gpu-check"}}
    sections = [
        "# Performance",
        "Generated by `python scripts/performance.py` from the records in docs/benchmarks; do not edit.",
        "Every figure comes from `mldec benchmark` ([benchmarks.md](benchmarks.md)) or, for single components, from\n"
        "`scripts/component_benchmarks.py`. Machines are shared and noisy: compare ratios, which are taken round by\n"
        "round within one run. Targets apply to two cores and float32.",
        *("## On the CPU", *_measured("cpu", PLAN["cpu"], records)),
        *("## On a GPU", *_measured("gpu", tests | PLAN["gpu"], records)),
        *("## Whole training runs", *_whole_runs(records)),
    ]
    return "\n\n".join(sections) + "\n"


def _measured(kind: str, plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was measured, in the order of the plan, and a list of what was not."""
    sections, missing = [], []
    for name, entry in plan.items():
        record = records.get(f"{name}_{kind}")
        if record is None:
            missing.append(f"* `{name}`: {entry['what']}")
            continue
        figures = [Figure(**figure) for figure in record["figures"]]
        table = as_grid(figures) if record["subject"] == "model" else as_table(figures)
        sections += [f"### {entry['what']}", f"`{entry['run']}`", table, _machine(record)]
    if missing and kind == "gpu":
        sections.append("Not measured yet; `make gpu-check` measures in this order, within 8 minutes:")
    elif missing:
        sections.append("Not measured yet:")
    return [*sections, "\n".join(missing)] if missing else sections


def _machine(record: Mapping[str, Any]) -> str:
    environment = record["environment"]
    versions = ", ".join(f"{name} {environment['packages'][name]}" for name in ("torch", "timm"))
    threads = f", {environment['threads']} threads" if environment.get("threads") else ""
    commit = (environment["commit"] or "unknown")[:10]
    cuda = "".join(f", {name} {environment[name]}" for name in ("driver", "cuda", "cudnn") if environment.get(name))
    where = f"{environment['device']}{threads}{cuda}, Python {environment['python']}, {versions}"
    return f"{record['date']}, {where}, commit {commit}."


def _whole_runs(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = ["| run | images/s of one GPU | 1 GPU | 8 GPUs | 64 GPUs |", "| --- | --- | --- | --- | --- |"]
    for name, (images, epochs, published, record, figure) in WHOLE_RUNS.items():
        values = {f["name"]: f["value"] for f in records.get(f"{record}_gpu", {"figures": ()})["figures"]}
        measured = values.get(figure)
        rate = measured or published
        source = "measured, above" if measured else "published for an RTX 3090"
        hours = " | ".join(f"{images * epochs / rate / count / 3600:,.1f} h" for count in (1, 8, 64))
        rows.append(f"| {name}: {epochs} epochs of {images:,} | {rate:,.0f} ({source}) | {hours} |")
    return [
        "Images times epochs over the rate, divided by the number of GPUs. This ignores the time that GPUs wait for\n"
        "one another: after each step they exchange gradients, 220 MB for TResNet-L, which takes 20 ms over\n"
        "100 Gbit/s; computing 56 images takes half a second on the GPU of the table. The loader has to keep up with\n"
        "all GPUs of a machine: `mldec benchmark loader` measures how many cores that takes.",
        "\n".join(rows),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
