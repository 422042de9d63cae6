"""The run folder: where it lies, what it is made of, and the records of a run.

config.yaml        the resolved experiment (written by the command, which knows YAML)
environment.json   versions, commit, device, command line
data.json          images, labels and fingerprint of each split
cost.json          seconds and peak memory
metrics.jsonl      a record a line: `train` each few steps, `eval` each epoch, `test` at the end
tensorboard/       the same for eyes
thresholds.csv     the score from which on each label is given, tuned on val
images/          sheets of training images and of predictions
checkpoints/       last.pt, best.pt
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mldec
from mldec import files
from mldec.data.files import read_bytes
from mldec.engine.board import Board
from mldec.errors import DataError, RunError, first_lines
from mldec.files import sync_folder

logger = logging.getLogger(__name__)

#: Record fields that measure time, hence differ between a run and its repetition.
TIMES = frozenset({"images_per_second", "data_wait", "seconds"})

MOST_JSON = 2**24  # bytes of environment.json, data.json, cost.json; each has a few thousand
MOST_RECORDS = 2**30  # bytes of metrics.jsonl: millions of records


def make_run_folder(output: str, name: str, run_dir: str | None = None) -> Path:
    """Make and return a folder of this run's own: `run_dir`, or `<output>/<name>/<date>_<time>`, numbered if taken.

    Raises FileExistsError if `run_dir` was given and holds a run already.
    """
    if run_dir is not None:
        folder = Path(run_dir).expanduser()
        if any((folder / "checkpoints").glob("*.pt")):
            raise FileExistsError(str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        return folder
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(output).expanduser() / name
    for number in range(1, 1000):
        folder = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        sync_folder(parent)
        return folder
    raise FileExistsError(str(parent / stamp))


def is_complete(folder: Path) -> bool:
    """Whether a run folder holds the record of a run's end."""
    return any(record.get("kind") == "test" for record in read_records(folder / "metrics.jsonl"))


def environment(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What a result depends on beside the config: versions, commit, device, precision, command line."""
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
def cost(folder: Path, device: torch.device) -> Iterator[None]:
    """Measures what a block costs, and writes it to cost.json when it ends, however it ends.

    `seconds` adds to those of earlier parts of the run; `peak_memory` is the most so far, in bytes: `host` of this
    process, without its workers, and on CUDA `device`.
    """
    earlier, began = read_noted(folder / "cost.json"), time.perf_counter()
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
        most = {
            name: max(value, int(_amount(before.get(name) if isinstance(before, dict) else 0)))
            for name, value in peak.items()
            if value
        }
        try:
            write_json(folder / "cost.json", {"seconds": seconds, "peak_memory": most})
        except OSError as error:  # must not hide how the run ended
            logger.warning("warning: %s", error)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON, whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; nothing if there is no such file.

    Raises DataError unless it is a regular file of at most MOST_JSON bytes, and ValueError for what is not JSON.
    """
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(read_bytes(path, most=MOST_JSON).decode("utf-8"))
    return content


def read_noted(path: Path) -> dict[str, Any]:
    """What `read_json` gives where that is an object; a damaged file is a warning, and nothing is taken from it.

    For files that note what a run was, and that nothing depends on.
    """
    try:
        content = read_json(path)
        if isinstance(content, dict):
            return content
        reason = "it holds no object"
    except (DataError, OSError, ValueError, RecursionError) as error:  # an empty file, say, which a power cut left
        reason = first_lines(error)
    logger.warning("warning: %s is damaged (%s); going on without what it noted", path, reason)
    return {}


def write_text(path: Path, text: str) -> None:
    """Write a text file by way of a temporary one that is on the disk before it takes the name: never half there."""
    files.write_text(path, text, sync=True)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The sound records of a metrics.jsonl; a warning says which lines are none."""
    records, damaged = scan_records(path)
    if damaged:
        logger.warning("warning: %s", describe_damaged(path, damaged))
    return records


def scan_records(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The sound records of a metrics.jsonl, and the numbers of its damaged lines.

    A last line without an end, which a crash cut short, is no damage. A record is an object with `kind` and `step`, and
    for an evaluation with its `epoch`. Raises DataError unless the file is regular and has at most MOST_RECORDS bytes.
    """
    if not path.exists():
        return [], []
    lines = read_bytes(path, most=MOST_RECORDS).split(b"\n")
    records, damaged = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if _is_record(record):
            records.append(record)
        elif number < len(lines):
            damaged.append(number)
    return records, damaged


def describe_damaged(path: Path, lines: list[int]) -> str:
    """A sentence about the damaged lines of a file."""
    shown = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
    return f"{path} is damaged: {len(lines)} lines are left out (line {shown})"


class Tracker:
    """Appends records to metrics.jsonl and mirrors them to TensorBoard.

    A run that resumes after `step` first drops the records that lie behind it, so that none stands twice.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, step: int = 0, evaluations: int = 0) -> None:
        self._path = path = folder / "metrics.jsonl"
        kept = [record for record in read_records(path) if _is_before(record, step, evaluations)]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board: Board | None = None
        if tensorboard:
            self._board = Board(folder / "tensorboard", purge_step=step + 1 if step else None)

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record; its numbers, nested ones by path, become scalars at `step`.

        Raises RunError where the record cannot be written, on a full disk say.
        """
        try:
            self._file.write(json.dumps(_finite({"kind": kind, "step": step, **values})) + "\n")
            self._file.flush()
            if kind != "train":
                self.sync()
        except OSError as error:
            raise RunError(
                f"cannot write {self._path}: {error.strerror}; what was saved before stays. Make room, then "
                f"resume={self._path.parent} continues"
            ) from error
        if self._board is not None:
            scalars = _scalars(kind, values)
            self._board.write(lambda writer: [writer.add_scalar(name, value, step) for name, value in scalars])

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Show an RGB image (H,W,3) uint8."""
        if self._board is not None:
            self._board.write(lambda writer: writer.add_image(name, image, step, dataformats="HWC"))

    def label_histogram(self, name: str, counts: np.ndarray) -> None:
        """Show how often each of N labels occurs, as a histogram over columns. `counts`: (N,) integers."""
        if self._board is not None and counts.sum() > 0:
            columns = np.repeat(np.arange(len(counts)), np.maximum(1, counts * 100_000 // counts.sum()))
            edges = np.arange(len(counts) + 1)
            self._board.write(lambda writer: writer.add_histogram(name, columns + 0.5, 0, bins=edges))  # bin centres

    def precision_recall(self, name: str, scores: np.ndarray, targets: np.ndarray, step: int) -> None:
        """Show a precision-recall curve of scores and 1/0/-1 targets of one shape; unknown targets are left out."""
        known = targets >= 0
        if self._board is not None and (targets[known] == 1).any():
            truth, values = targets[known].astype(bool), scores[known]
            self._board.write(lambda writer: writer.add_pr_curve(name, truth, values, step))

    def sync(self) -> None:
        """Bring the records onto the disk, where they are before the checkpoint that stands behind them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both outputs. Each record was flushed when it was written; what could not be, was said then."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._board is not None:
            self._board.close()


def _is_before(record: Mapping[str, Any], step: int, evaluations: int) -> bool:
    if record["kind"] == "train":
        return bool(record["step"] <= step)
    return record["kind"] == "eval" and bool(record["epoch"] <= evaluations)


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return False
    needed = ("step", "epoch") if record["kind"] == "eval" else ("step",)
    return all(isinstance(record.get(key), int) and not isinstance(record[key], bool) for key in needed)


def _amount(value: Any) -> float:
    """A number of a file that may say anything; 0 for what is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 2**63 else 0.0


def _finite(value: Any) -> Any:
    """`value` with nan and infinities, which JSON does not know, as None: an mAP over no class, say."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(f"{prefix}/{name}", value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}/{name}", float(value)))
    return found


def _peak_host_memory() -> int:
    """Most memory that this process held at a time, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _processor() -> str:
    """The processor's model and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _cuda() -> dict[str, Any]:
    """Versions of the driver, of CUDA and of cuDNN; None where the system does not tell."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout.split()
    except (OSError, subprocess.SubprocessError):
        said = []
    driver = said[0] if said else None
    return {"driver": driver, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the source tree that mldec runs from, with `+` behind it where files differ from it."""
    source = Path(mldec.__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
