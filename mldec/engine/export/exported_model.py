"""The exported folder: the files with which a network is used elsewhere. None of them can hold code.

model.safetensors          one set of weights, raw or EMA
mldec.json                 its description: config, labels, normalization, metrics, thresholds
label_vectors.safetensors  for a zero-shot network: the embeddings of the labels that it knows

Reading gives the content of a checkpoint (`mldec.engine.checkpoint`), so that every command that takes a run directory
also takes an exported folder. The files may come from anybody: each is checked, and a problem is one clear error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mldec.engine.checkpoint_fields import are_numbers
from mldec.engine.run_directory import write_json
from mldec.errors import CheckpointError, DataError
from mldec.labels import LabelSpace
from mldec.models.tensor_files import check_names
from mldec.untrusted import check_regular, read_bytes

FORMAT = 1
MOST_DESCRIPTION = 2**28  # bytes of mldec.json: a million labels with their thresholds fit
WEIGHTS, DESCRIPTION, VECTORS = "model.safetensors", "mldec.json", "label_vectors.safetensors"
GRAPHS = {"model.onnx": "ONNX Runtime", "model.pt2": "torch.export.load"}  # files that mldec writes but does not read

# The entries of mldec.json that reading needs. An export writes more, for people and other programs.
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
    """Write mldec.json and, for a zero-shot network, the embeddings (V, width) of its `label_embeddings.names`."""
    write_json(folder / DESCRIPTION, description)
    if vectors is not None:
        names = json.dumps(description["label_embeddings"]["names"], ensure_ascii=False)
        header = {"names": names, "source": description["label_embeddings"]["source"]}
        _write_tensors(folder / VECTORS, {"vectors": vectors}, header)


def write_weights(folder: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write model.safetensors with `metadata` in its header."""
    _write_tensors(folder / WEIGHTS, state, {"format": "pt", **metadata})


def write_thresholds(folder: Path, thresholds: Sequence[float]) -> None:
    """Replace the thresholds (N,) in mldec.json. Graphs in the folder keep the ones that they were exported with."""
    description = _read_description(folder / DESCRIPTION)
    write_json(folder / DESCRIPTION, {**description, "thresholds": list(thresholds)})


def is_exported(folder: Path) -> bool:
    """Whether `folder` was written by an export, readable or not."""
    return any((folder / name).is_file() for name in (DESCRIPTION, WEIGHTS, *GRAPHS))


def find_weights(folder: Path) -> Path:
    """The weights file of an exported folder. Raises CheckpointError if it has none that mldec can read."""
    missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
    if not missing:
        return folder / WEIGHTS
    for name, reader in GRAPHS.items():
        if (folder / name).is_file() and WEIGHTS in missing:
            raise CheckpointError(
                f"{folder} has {name} but no {WEIGHTS}: load {name} with {reader}, as its README.md shows, "
                "or export the run with format=safetensors"
            )
    raise CheckpointError(f"{folder} is not a complete export of mldec: it lacks {' and '.join(missing)}")


def read_exported(weights: Path) -> dict[str, Any]:
    """The content of a checkpoint, read onto the CPU from model.safetensors and the files next to it.

    Raises CheckpointError if a file is missing, damaged, or contradicts another.
    """
    folder = weights.parent
    description = _read_description(folder / DESCRIPTION)
    state, header = _read_tensors(weights)
    labels = description["labels"]
    if "labels" in header and header["labels"] != json.dumps(labels, ensure_ascii=False):
        raise CheckpointError(f"{weights} has other labels than {DESCRIPTION} in the same folder; export both together")
    kept, thresholds = description["weights"], description["thresholds"]
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
        "thresholds": None if thresholds is None else dict(zip(labels, thresholds, strict=True)),
    }


def _read_description(path: Path) -> dict[str, Any]:
    """mldec.json with every value checked, except the config, which is checked when it is built."""
    try:
        content = json.loads(read_bytes(path, most=MOST_DESCRIPTION).decode("utf-8"))
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a description of a network: expected an object with entries")
    wrong = [key for key, kind in REQUIRED.items() if key not in content or not _is(content[key], kind)]
    if wrong:
        raise CheckpointError(f"{path} is not a description of a network by mldec: no valid {', '.join(wrong)}")
    if content["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}, this mldec reads up to {FORMAT}; upgrade mldec")
    try:
        labels = LabelSpace(content["labels"], seen=content["seen"])
        if content["label_embeddings"] is not None:
            _check_label_embeddings(content["label_embeddings"], labels)
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if problems := _problems(content, labels):
        raise CheckpointError(f"{path}: {problems[0]}")
    return content


def _check_label_embeddings(embeddings: Mapping[str, Any], labels: LabelSpace) -> None:
    if not isinstance(embeddings.get("names"), list) or not isinstance(embeddings.get("source"), str):
        raise DataError("label_embeddings: expected names, a list, and source, a string")
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
        if not are_numbers(values, 3) or (name == "std" and min(values) <= 0):
            found.append(f"normalization.{name}={values}: expected three numbers" + ", above 0" * (name == "std"))
    thresholds = content["thresholds"]
    if thresholds is not None and not (
        are_numbers(thresholds, len(labels)) and all(0 <= value <= 1 for value in thresholds)
    ):
        found.append(f"thresholds: expected {len(labels)} numbers from 0 to 1, one per label")
    if not all(isinstance(figures, dict) for figures in content["metrics"].values()):
        found.append("metrics: expected numbers by name, for each kind of weights")
    if not isinstance(content.get("test"), (dict, type(None))) or not is_data(content.get("data", {})):
        found.append("test, data: expected metrics, and images, labels and fingerprint by split")
    environment = content.get("environment", {})
    if not isinstance(environment, dict) or not isinstance(environment.get("packages", {}), dict):
        found.append("environment: expected versions by name")
    head = content["config"].get("head")
    if isinstance(head, dict) and head.get("label_embeddings") is not None and content["label_embeddings"] is None:
        found.append("label_embeddings: missing, but the head of its config uses label embeddings")
    return found


def is_data(data: Any) -> bool:
    """Whether `data` has the form of data.json: images, labels and fingerprint by split."""
    kinds = {"images": int, "labels": int, "fingerprint": str}
    return isinstance(data, dict) and all(
        isinstance(split, dict) and all(_is(split.get(key), kind) for key, kind in kinds.items())
        for split in data.values()
    )


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    own = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
    }  # safetensors refuses shared memory
    path.write_bytes(
        safetensors.torch.save(own, metadata=dict(header))
    )  # save_file ignores the umask: only the owner could read it


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file."""
    if not path.is_file():
        raise CheckpointError(f"no {path.name} next to the other files in {path.parent}")
    try:
        check_regular(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            check_names(file.keys(), str(path))
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {str(error).splitlines()[0]}") from None
