"""What a result depends on besides its config (environment.json), and what a run cost (cost.json)."""

from __future__ import annotations

import contextlib
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mldec
from mldec.engine.run_directory import read_metadata, write_json
from mldec.system import usable_cores

logger = logging.getLogger(__name__)


def environment(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The content of environment.json: versions, commit, device, precision and command line."""
    packages = ("torch", "torchvision", "timm", "numpy", "albumentations", "opencv-python-headless", "pycocotools")
    return {
        "mldec": mldec.__version__,
        "commit": _git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {_processor()}",
        **(_cuda() if device.type == "cuda" else {}),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in packages},
    }


@contextlib.contextmanager
def record_cost(run_dir: Path, device: torch.device) -> Iterator[None]:
    """Measure the block and write cost.json when it ends, also if it ends with an error.

    `seconds` includes earlier parts of a resumed run. `peak_memory` is the highest so far, in bytes: `host` for this
    process without its loader workers and, on CUDA, `device`.
    """
    earlier, began = read_metadata(run_dir / "cost.json"), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        peak = {"host": _peak_host_memory()}
        if device.type == "cuda":
            peak["device"] = torch.cuda.max_memory_allocated(device)
        before = earlier.get("peak_memory")
        seconds = _amount(earlier.get("seconds")) + time.perf_counter() - began
        before = before if isinstance(before, dict) else {}
        most = {name: max(value, int(_amount(before.get(name)))) for name, value in peak.items() if value}
        try:
            write_json(run_dir / "cost.json", {"seconds": seconds, "peak_memory": most})
        except OSError as error:  # must not replace the error that ended the run
            logger.warning("warning: %s", error)


def _amount(value: Any) -> float:
    """A number of a file with unknown content; 0 if it is not a valid amount."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 2**63 else 0.0


def _peak_host_memory() -> int:
    """Peak memory of this process in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _processor() -> str:
    """Model and number of usable cores of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {usable_cores()} cores"


def _cuda() -> dict[str, Any]:
    """Versions of the driver, of CUDA and of cuDNN; None if unknown."""
    drivers = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or ""
    driver = drivers.partition("\n")[0] or None
    return {"driver": driver, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the source tree that mldec runs from, with a trailing `+` if tracked files were modified."""
    source = Path(mldec.__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return None
    return _output("git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+")


def _output(*command: str) -> str | None:
    """What a command prints; None if it fails, is not there, or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
