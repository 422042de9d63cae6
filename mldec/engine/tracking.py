"""The run folder: where it lies, what it is made of, and the records of a run.

config.yaml        the resolved experiment (written by the command, which knows YAML)
environment.json   versions, commit, device, command line
data.json          pictures, labels and fingerprint of each split
cost.json          seconds and peak memory
metrics.jsonl      a record a line: `train` each few steps, `eval` each epoch, `test` at the end
tensorboard/       the same for eyes
thresholds.csv     the score from which on each label is given, tuned on val
pictures/          sheets of training pictures and of predictions
checkpoints/       last.pt, best.pt
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import operator
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
from mldec.engine.board import Board
from mldec.errors import RunError
from mldec.files import replacing

logger = logging.getLogger(__name__)

#: Record fields that measure time, hence differ between a run and its repetition.
TIMES = frozenset({"images_per_second", "data_wait", "seconds"})


def make_run_folder(output: str, name: str, run_dir: str | None = None) -> Path:
    """Make and return a folder of this run's own: `run_dir`, or `<output>/<name>/<date>_<time>`, numbered if taken.

    Raises FileExistsError if `run_dir` was given and holds a run already.
    """
    if run_dir is not None:
        folder = Path(run_dir).expanduser()
        if any((folder / "checkpoints").glob("*.pt")):
            raise FileExistsError(str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(output).expanduser() / name
    for number in range(1, 1000):
        folder = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
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
    earlier, began = read_json(folder / "cost.json"), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        peak = {"host": _peak_host_memory()}
        if device.type == "cuda":
            peak["device"] = torch.cuda.max_memory_allocated(device)
        before = earlier.get("peak_memory", {})
        seconds = earlier.get("seconds", 0.0) + time.perf_counter() - began
        most = {name: max(value, before.get(name, 0)) for name, value in peak.items() if value}
        try:
            write_json(folder / "cost.json", {"seconds": seconds, "peak_memory": most})
        except OSError as error:  # must not hide how the run ended
            logger.warning("warning: %s", error)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON, whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; nothing if there is no such file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def write_text(path: Path, text: str) -> None:
    """Write a text file by way of a temporary one, so that it is never half there."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines) - 1:
                raise
    return records


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
        except OSError as error:
            raise RunError(
                f"cannot write {self._path}: {error.strerror}; what was saved before stays. Make room, then "
                f"resume={self._path.parent} continues"
            ) from error
        if self._board is not None:
            for name, value in _scalars(kind, values):
                self._board.write(operator.methodcaller("add_scalar", name, value, step))

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Show an RGB picture (H,W,3) uint8."""
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
