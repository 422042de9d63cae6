"""The layout of a run directory, and how its text and JSON files are written and read.

config.yaml        the resolved experiment
environment.json   versions, commit, device, command line
data.json          number of images and labels, and fingerprint, of each split
cost.json          seconds and peak memory
metrics.jsonl      records: `train` every few steps, `eval` every epoch, `test` at the end
tensorboard/       the same records as curves
thresholds.csv     the tuned threshold of each label, for people; best.pt holds them too
per_class_ap.csv   average precision of each label on the test split
images/            sheets of training images and of predictions
checkpoints/       last.pt, best.pt
"""

from __future__ import annotations

import datetime
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mldec import files
from mldec.errors import DataError, first_lines
from mldec.untrusted import parse_json, read_bytes

logger = logging.getLogger(__name__)

MOST_JSON = 2**24  # bytes of environment.json, data.json, cost.json; each has a few thousand


def make_run_directory(output: str, name: str, run_dir: str | None = None) -> Path:
    """Create and return the directory of a new run: `run_dir`, or `<output>/<name>/<date>_<time>`, numbered if taken.

    Raises FileExistsError if `run_dir` already contains a run.
    """
    if run_dir is not None:
        directory = Path(run_dir).expanduser()
        if any((directory / "checkpoints").glob("*.pt")):
            raise FileExistsError(str(directory))
        directory.mkdir(parents=True, exist_ok=True)
        files.sync_folder(directory.parent)
        return directory
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(output).expanduser() / name
    for number in range(1, 1000):
        directory = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        files.sync_folder(parent)
        return directory
    raise FileExistsError(str(parent / stamp))


def checkpoint_path(run_dir: Path, name: str) -> Path:
    """The checkpoint called `name` ("best" or "last") of a run directory."""
    return run_dir / "checkpoints" / f"{name}.pt"


def run_directory_of(checkpoint: Path) -> Path:
    """The run directory of a checkpoint file; for any other file, the directory that contains it."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def write_text(path: Path, text: str) -> None:
    """Write a text file to a partial file, sync it to disk, then rename it: readers never see half a file."""
    files.write_text(path, text, sync=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON as `write_text` does; numbers that are not finite become null."""
    write_text(path, json.dumps(finite_json(content), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of `write_json`; {} if it does not exist.

    Raises DataError unless it is a regular file of at most MOST_JSON bytes, and ValueError if it is not JSON.
    """
    if not path.exists():
        return {}
    return parse_json(read_bytes(path, most=MOST_JSON).decode("utf-8"))


def read_metadata(path: Path) -> dict[str, Any]:
    """Like `read_json`, for files that only document a run: a damaged file is a warning and gives {}."""
    try:
        content = read_json(path)
        if isinstance(content, dict):
            return content
        reason = "it holds no object"
    except (DataError, OSError, ValueError, RecursionError) as error:  # an empty file after a power cut, for example
        reason = first_lines(error)
    logger.warning("warning: %s is damaged (%s); it is ignored", path, reason)
    return {}


def is_data(data: Any) -> bool:
    """Whether `data` has the form of data.json: images, labels and fingerprint by split."""
    kinds = {"images": int, "labels": int, "fingerprint": str}
    return isinstance(data, dict) and all(
        isinstance(split, dict) and all(isinstance(split.get(key), kind) for key, kind in kinds.items())
        for split in data.values()
    )


def finite_json(value: Any) -> Any:
    """`value` with nan and infinities, which JSON does not have, as None: the mAP over no class, for example."""
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
