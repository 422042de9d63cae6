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

from mldec.engine.checkpoint_fields import check_fields
from mldec.engine.run_directory import is_data, write_json
from mldec.errors import CheckpointError, DataError, shortened
from mldec.models.tensor_files import check_names
from mldec.untrusted import check_regular, read_json

MOST_DESCRIPTION = 2**28  # bytes of mldec.json: a million labels with their thresholds fit
WEIGHTS, DESCRIPTION, VECTORS = "model.safetensors", "mldec.json", "label_vectors.safetensors"
GRAPHS = {"model.onnx": "ONNX Runtime", "model.pt2": "torch.export.load"}  # files that mldec writes but does not read

# The entries of mldec.json that reading needs. An export writes more, for people and other programs.
REQUIRED = (
    *("format", "config", "labels", "seen", "normalization", "weights", "metrics", "step", "thresholds"),
    "label_embeddings",
)


def write_exported(folder: Path, description: Mapping[str, Any], vectors: Tensor | None = None) -> None:
    """Write mldec.json and, for a network that uses some, the embeddings (V, width) of its `label_embeddings.names`."""
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
    labels, embeddings, thresholds = (description[key] for key in ("labels", "label_embeddings", "thresholds"))
    if "labels" in header and header["labels"] != json.dumps(labels, ensure_ascii=False):
        raise CheckpointError(f"{weights} has other labels than {DESCRIPTION} in the same folder; export both together")
    if isinstance(embeddings, dict):
        tensors, _ = _read_tensors(folder / VECTORS)
        if set(tensors) != {"vectors"} or tensors["vectors"].dtype != torch.float32:
            raise CheckpointError(f"{folder / VECTORS}: expected one float32 tensor called vectors")
        embeddings = embeddings | tensors
    kept = description["weights"]
    content = {
        **description,
        "model": state if kept == "raw" else None,
        "ema": state if kept == "ema" else None,
        "reported": kept,
        "label_embeddings": embeddings,
        "thresholds": None if thresholds is None else dict(zip(labels, thresholds, strict=True)),
    }
    check_fields(content, str(folder / DESCRIPTION))
    return content


def _read_description(path: Path) -> dict[str, Any]:
    """mldec.json; values that a checkpoint has, too, are checked together with the weights."""
    try:
        content = read_json(path, most=MOST_DESCRIPTION)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a description of a network: expected an object with entries")
    if missing := [key for key in REQUIRED if key not in content]:
        raise CheckpointError(f"{path} is not a description of a network by mldec: it has no {', '.join(missing)}")
    labels, thresholds = content["labels"], content["thresholds"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CheckpointError(f"{path}: labels: expected a list of names")
    if thresholds is not None and (not isinstance(thresholds, list) or len(thresholds) != len(labels)):
        raise CheckpointError(f"{path}: thresholds: expected {len(labels)} numbers, one per label, or null")
    if content["weights"] not in ("ema", "raw"):
        raise CheckpointError(f"{path}: weights={shortened(content['weights'])}: expected ema or raw")
    environment = content.get("environment", {})
    if not isinstance(environment, dict) or not isinstance(environment.get("packages", {}), dict):
        raise CheckpointError(f"{path}: environment: expected versions by name")
    if not isinstance(content.get("test"), (dict, type(None))) or not is_data(content.get("data", {})):
        raise CheckpointError(f"{path}: test, data: expected metrics, and images, labels and fingerprint by split")
    return content


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    # safetensors refuses shared memory; its save_file ignores the umask, so that only the owner could read the file.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path.write_bytes(safetensors.torch.save(own, metadata=dict(header)))


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
