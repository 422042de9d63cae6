"""Mutation tests: each fault of scripts/faults.yaml, put into a copy of the source by itself, must make a test fail.

    python scripts/mutations.py             # all, one process per core; some minutes
    python scripts/mutations.py ema tie     # those whose name contains one of these strings

Exits with 1 if a fault survives. Keep the list: add a fault that once slipped through, together with its test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("mldec", "configs", "tests", "scripts", "pyproject.toml", "README.md", "LICENSE")


class Fault(NamedTuple):
    """`right` occurs once in `file` (below the root) and becomes `wrong`; one of `tests` (below tests/) must fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


FAULTS = [Fault(**entry) for entry in yaml.safe_load((ROOT / "scripts" / "faults.yaml").read_text(encoding="utf-8"))]


def main(filters: Sequence[str]) -> int:
    chosen = [f for f in FAULTS if not filters or any(text.lower() in f.name.lower() for text in filters)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        survived = [fault.name for fault, caught in zip(chosen, pool.map(is_caught, chosen), strict=True) if not caught]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} faults make a test fail")
    for name in survived:
        print(f"survived: {name}")
    return 1 if survived or not chosen else 0


def is_caught(fault: Fault) -> bool:
    """Whether the fault's tests fail in a copy of the source that has it."""
    with tempfile.TemporaryDirectory(prefix="mldec-fault-") as folder:
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, Path(folder) / name)
        path = Path(folder) / fault.file
        path.write_text(apply(fault, path.read_text(encoding="utf-8")), encoding="utf-8")
        file, *options = fault.tests.split()
        test = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", f"tests/{file}", *options]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *test], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        output = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise RuntimeError(f"{fault.name}: pytest exited with {done.returncode}\n{output}")
    print(f"{'caught' if done.returncode else 'SURVIVED'}: {fault.name}", flush=True)
    return done.returncode == 1


def apply(fault: Fault, text: str) -> str:
    """The source with the fault. Raises ValueError unless `right` occurs in it exactly once."""
    if text.count(fault.right) != 1 or fault.right == fault.wrong:
        raise ValueError(f"{fault.name}: {fault.right!r} occurs {text.count(fault.right)} times in {fault.file}")
    return text.replace(fault.right, fault.wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
