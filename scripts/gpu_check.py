"""`make gpu-check`: on a machine with a GPU and no network, run the tests marked `cuda`, then the measurements.

    python scripts/gpu_check.py                          # at most 8 minutes; records in docs/benchmarks, then the page
    python scripts/gpu_check.py tresnet_l loop           # only these measurements (scripts/performance.yaml)

    budget=480        seconds for everything; what would start too late is left out, and listed
    tests=false       measurements only
    records=DIR       where the records are written; default: docs/benchmarks, with docs/performance.md
    commit=HASH       recorded where this copy of the source has no git history
    device=cpu tiny=true records=DIR       rehearse without a GPU

Packages that this Python lacks are installed from .wheels (`make gpu-wheels`, where there is a network) into a
temporary directory; installed packages such as torch stay as they are. Exit code: 0; 1 if a test or a measurement
failed; 2 for bad input. Nothing here imports mldec before the packages are installed.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
WHEELS, RECORDS = ROOT / ".wheels", ROOT / "docs" / "benchmarks"
#: Modules without which nothing runs, and the package of each.
SAME_NAME = "torch torchvision timm numpy scipy matplotlib tensorboard rich omegaconf pycocotools pytest albumentations"
MODULES = {name: name for name in (*SAME_NAME.split(), "jinja2", "safetensors")}
MODULES |= {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}
MODULES |= {"hydra": "hydra-core", "huggingface_hub": "huggingface-hub"}
TESTS = 0.5  # the tests' share of the budget, at most
PAGE = 20.0  # seconds kept for the page
OPTIONS = {"budget": "480", "tests": "true", "records": str(RECORDS), "commit": "", "device": "cuda", "tiny": "false"}


class Problem(Exception):
    """Something that the user can correct."""


def main(argv: Sequence[str]) -> int:
    ends = time.monotonic()
    try:
        options = parse(argv)
        ends += float(options["budget"])
        with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
            environment = prepare(Path(folder), on_gpu=options["device"] != "cpu")
            return check(options, environment, Path(folder), ends)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str]) -> dict[str, str]:
    """Options by name; `names` of measurements are checked by performance.py. Raises Problem."""
    given = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    options = {**OPTIONS, **given, "names": " ".join(argument for argument in argv if "=" not in argument)}
    for key in given:
        if key not in OPTIONS:
            raise Problem(f"{key}: no such option; allowed: {', '.join(OPTIONS)}")
    if not re.fullmatch(r"[1-9]\d{0,5}", options["budget"]):
        raise Problem(f"budget={options['budget']}: expected whole seconds above 0, as in budget=480")
    for key in ("tests", "tiny"):
        if options[key] not in ("true", "false"):
            raise Problem(f"{key}={options[key]}: expected true or false")
    rehearsal = options["device"] == "cpu" or options["tiny"] == "true"
    if rehearsal and Path(options["records"]).expanduser().resolve() == RECORDS:
        raise Problem(f"{RECORDS} is for records of a GPU at full size; use records=DIR for a rehearsal")
    options["records"] = str(Path(options["records"]).expanduser().absolute())
    return options


def check(options: Mapping[str, str], environment: Mapping[str, str], folder: Path, ends: float) -> int:
    """Run the tests and the measurements, which write the page, until the clock shows `ends`. Returns the exit code."""
    records, failed = Path(options["records"]), []
    if options["tests"] == "true":
        report, seconds = folder / "report.xml", TESTS * (ends - time.monotonic())
        if call(test_command(options["device"], report), environment, seconds):
            failed.append("tests")
        if report.exists():
            records.mkdir(parents=True, exist_ok=True)
            record = record_of_tests(report, options["device"], options["commit"])
            (records / "tests_gpu.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    left = ends - PAGE - time.monotonic()
    given = [f"{key}={options[key]}" for key in ("records", "device", "tiny", "commit") if options[key]]
    measure = [sys.executable, "scripts/performance.py", f"budget={max(1, round(left))}", *given]
    if call([*measure, *options["names"].split()], environment, left + PAGE):
        failed.append("measurements")
    print(f"\ngpu-check: {'failed: ' + ', '.join(failed) if failed else 'all passed'}; records in {records}")
    return 1 if failed else 0


# Packages -------------------------------------------------------------------------------------------------------------


def prepare(folder: Path, *, on_gpu: bool) -> dict[str, str]:
    """Install missing packages into `folder`; returns the environment for processes that need them. Raises Problem."""
    site = folder / "site"
    if wheels := missing_wheels(WHEELS):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        if subprocess.run([*pip, "--no-deps", "--target", site, *wheels]).returncode:
            raise Problem(f"pip cannot install from {WHEELS}; run make gpu-wheels for Python 3.{sys.version_info[1]}")
        print(f"installed for this check: {', '.join(wheel.name.split('-')[0] for wheel in wheels)}")
    sys.path[:0] = [str(ROOT), str(site)]
    absent = [package for module, package in MODULES.items() if importlib.util.find_spec(module) is None]
    if absent:
        raise Problem(
            f"{sys.executable} has no {', '.join(absent)}, and .wheels has none; run make gpu-wheels where there is a "
            f"network (LACKS={','.join(absent)} for what it leaves out by default), or choose another Python"
        )
    import torch

    if on_gpu and not torch.cuda.is_available():
        raise Problem("torch finds no CUDA device; device=cpu tiny=true records=DIR rehearses the check without one")
    paths = [str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    # cuBLAS reads its workspace once per process; some trainings must repeat bit for bit.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def missing_wheels(folder: Path) -> list[Path]:
    """The wheels of a directory whose packages are not installed."""
    installed = {re.sub(r"[-_.]+", "_", d.name).lower() for d in importlib.metadata.distributions() if d.name}
    return [wheel for wheel in sorted(folder.glob("*.whl")) if wheel.name.split("-")[0].lower() not in installed]


# Tests ----------------------------------------------------------------------------------------------------------------


def test_command(device: str, report: Path) -> list[str]:
    """pytest over the files that have tests marked `cuda`; on the CPU their rehearsals."""
    files = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in p.read_text(encoding="utf-8")]
    which = ["-m", "cuda"] if device != "cpu" else ["-m", "not slow and not cuda"]
    pytest = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--durations=0", f"--junitxml={report}"]
    return [*pytest, *which, *map(str, files)]


def record_of_tests(report: Path, device: str, commit: str) -> dict[str, object]:
    """pytest's report as a record like those of `mldec benchmark`: how many tests passed, and what they recorded."""
    import torch

    from mldec.engine.environment import environment

    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    recorded = [(p.get("name", ""), p.get("value", "").split(" ", 1)) for case in cases for p in case.iter("property")]
    passed = len(cases) - len(bad) - len(skipped)
    total = {"name": "tests passed", "value": passed, "unit": f"of {len(cases)}", "better": "higher"}
    total["note"] = f"failed: {', '.join(bad)}" if bad else f"{len(skipped)} skipped" if skipped else ""
    found = environment(torch.device(device))
    return {
        "subject": "tests",
        "date": datetime.date.today().isoformat(),
        "environment": {**found, "commit": found["commit"] or commit or None},
        "figures": [total, *({"name": name, "value": float(v[0]), "unit": v[1]} for name, v in recorded)],
    }


def call(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> int:
    """Run a command in the source tree; returns its exit code. After `seconds` it and its children are killed."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        print(f"\nstopped after {seconds:.0f} s, for lack of time: {' '.join(command[1:4])}", flush=True)
        return 124
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
