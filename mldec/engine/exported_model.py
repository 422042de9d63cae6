"""The exported folder: what a network needs to be used elsewhere, in files that cannot hold code.

model.safetensors          weights, one set of them
mldec.json                 what they are: config, labels, normalization, metrics, thresholds
label_vectors.safetensors  of a zero-shot network: the label embeddings of the labels that it knows

Reading gives what a checkpoint holds (`mldec.engine.checkpoint`), so that whatever takes a run folder takes this one.
The files may come from anybody: each is checked, and what does not fit is one clear error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mldec.data.files import check_regular, read_bytes
from mldec.engine import tracking
from mldec.errors import CheckpointError, DataError
from mldec.labels import LabelSpace
from mldec.models.tensor_files import check_names

FORMAT = 1
MOST_DESCRIPTION = 2**28  # bytes of mldec.json: a million labels with their thresholds fit
WEIGHTS, DESCRIPTION, VECTORS = "model.safetensors", "mldec.json", "label_vectors.safetensors"
GRAPHS = {"model.onnx": "ONNX Runtime", "model.pt2": "torch.export.load"}  # files that mldec does not read

# What mldec.json holds that reading needs; an export writes more, for people and for other programs.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "config": dict,
    "labels": list,
    "seen": (list, type(None)),
    "normalization": dict,
    "weights": str,
    "metrics": dict,
    "step": int,
    "thresholds": (list, type(None)),
    "label_embeddings": (dict, type(None)),
}


def write_exported(folder: Path, description: Mapping[str, Any], vectors: Tensor | None = None) -> None:
    """Write mldec.json and, where the network knows labels by embeddings, the vectors (V, width) of its `label_embeddings.names`."""
    tracking.write_json(folder / DESCRIPTION, description)
    if vectors is not None:
        names = json.dumps(description["label_embeddings"]["names"], ensure_ascii=False)
        header = {"names": names, "source": description["label_embeddings"]["source"]}
        _write_tensors(folder / VECTORS, {"vectors": vectors}, header)


def write_weights(folder: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write model.safetensors with `metadata` in its header."""
    _write_tensors(folder / WEIGHTS, state, {"format": "pt", **metadata})


def is_exported(folder: Path) -> bool:
    """Whether `folder` is what an export left, readable or not."""
    return any((folder / name).is_file() for name in (DESCRIPTION, WEIGHTS, *GRAPHS))


def find_weights(folder: Path) -> Path:
    """The weights of an exported folder. Raises CheckpointError if it has none that mldec reads."""
    missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
    if not missing:
        return folder / WEIGHTS
    for name, reader in GRAPHS.items():
        if (folder / name).is_file() and WEIGHTS in missing:
            raise CheckpointError(
                f"{folder} holds {name} and no {WEIGHTS}: load {name} with {reader}, as its README.md shows, "
                "or export the run with format=safetensors"
            )
    raise CheckpointError(f"{folder} is no whole export of mldec: it lacks {' and '.join(missing)}")


def read_exported(weights: Path) -> dict[str, Any]:
    """What a checkpoint holds, from an exported folder's model.safetensors and what lies beside it, onto the CPU.

    Raises CheckpointError if a file is missing, damaged, or contradicts another.
    """
    folder = weights.parent
    description = _read_description(folder / DESCRIPTION)
    state, header = _read_tensors(weights)
    labels = description["labels"]
    if "labels" in header and header["labels"] != json.dumps(labels, ensure_ascii=False):
        raise CheckpointError(f"{weights} is of other labels than the {DESCRIPTION} beside it; export both together")
    kept = description["weights"]
    embeddings = description["label_embeddings"]
    if embeddings is not None:
        tensors, _ = _read_tensors(folder / VECTORS)
        if set(tensors) != {"vectors"} or tensors["vectors"].dtype != torch.float32:
            raise CheckpointError(f"{folder / VECTORS}: expected one float32 tensor called vectors")
        embeddings = {"names": embeddings["names"], "vectors": tensors["vectors"], "source": embeddings["source"]}
    return {
        **description,
        "model": state if kept == "raw" else None,
        "ema": state if kept == "ema" else None,
        "reported": kept,
        "label_embeddings": embeddings,
    }


def _read_description(path: Path) -> dict[str, Any]:
    """mldec.json, its values checked one by one; the config itself is checked where it is built."""
    try:
        content = json.loads(read_bytes(path, most=MOST_DESCRIPTION).decode("utf-8"))
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no description of a network: expected settings (key: value)")
    wrong = [key for key, kind in REQUIRED.items() if key not in content or not _is(content[key], kind)]
    if wrong:
        raise CheckpointError(f"{path} is no description of a network by mldec: no valid {', '.join(wrong)}")
    if content["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}, this mldec reads up to {FORMAT}; upgrade mldec")
    try:
        labels = LabelSpace(content["labels"], seen=content["seen"])
        if content["label_embeddings"] is not None:
            _check_label_embeddings(content["label_embeddings"], labels)
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from None
    for problem in _problems(content, labels):
        raise CheckpointError(f"{path}: {problem}")
    return content


def _check_label_embeddings(embeddings: Mapping[str, Any], labels: LabelSpace) -> None:
    if not isinstance(embeddings.get("names"), list) or not isinstance(embeddings.get("source"), str):
        raise DataError("label_embeddings: expected names, a list, and source, a text")
    LabelSpace(embeddings["names"])
    trained = labels.trained().names
    if tuple(embeddings["names"][: len(trained)]) != trained:
        raise DataError("label_embeddings: the first of its names must be the trained labels, in their order")


def _problems(content: Mapping[str, Any], labels: LabelSpace) -> list[str]:
    found = []
    if content["weights"] not in ("ema", "raw"):
        found.append(f"weights={content['weights']!r}: expected ema or raw")
    if content["seen"] is not None and not all(isinstance(flag, bool) for flag in content["seen"]):
        found.append("seen: expected true or false for each label")
    for name in ("mean", "std"):
        values = content["normalization"].get(name)
        if not _are_numbers(values, 3) or (name == "std" and min(values) <= 0):
            found.append(f"normalization.{name}={values}: expected three numbers" + ", above 0" * (name == "std"))
    thresholds = content["thresholds"]
    if thresholds is not None and not (
        _are_numbers(thresholds, len(labels)) and all(0 <= value <= 1 for value in thresholds)
    ):
        found.append(f"thresholds: expected {len(labels)} numbers from 0 to 1, one a label")
    if not all(isinstance(figures, dict) for figures in content["metrics"].values()):
        found.append("metrics: expected figures by weights")
    if not isinstance(content.get("test"), (dict, type(None))) or not is_data(content.get("data", {})):
        found.append("test, data: expected figures, and images, labels and fingerprint by split")
    environment = content.get("environment", {})
    if not isinstance(environment, dict) or not isinstance(environment.get("packages", {}), dict):
        found.append("environment: expected versions by name")
    head = content["config"].get("head")
    if isinstance(head, dict) and head.get("label_embeddings") is not None and content["label_embeddings"] is None:
        found.append("label_embeddings: missing, but the head of its config asks for labels by label embeddings")
    return found


def is_data(data: Any) -> bool:
    """Whether it is what data.json says: images, labels and fingerprint by split."""
    kinds = {"images": int, "labels": int, "fingerprint": str}
    return isinstance(data, dict) and all(
        isinstance(split, dict) and all(_is(split.get(key), kind) for key, kind in kinds.items())
        for split in data.values()
    )


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _are_numbers(values: Any, count: int) -> bool:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return False
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # no memory in common
    path.write_bytes(safetensors.torch.save(own, metadata=dict(header)))  # save_file would let nobody else read it


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file."""
    if not path.is_file():
        raise CheckpointError(f"no {path.name} beside the other files in {path.parent}")
    try:
        check_regular(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            check_names(file.keys(), str(path))
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {str(error).splitlines()[0]}") from None
