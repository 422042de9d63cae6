"""Checkpoints: plain dicts of tensors and plain values, written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mldec.config import Config, build_config, from_stored, to_mapping
from mldec.data.image import Normalization
from mldec.engine import exported_model
from mldec.engine.build import build_bare_classifier, build_normalization, uses_label_embeddings
from mldec.engine.checkpoint_fields import check_fields
from mldec.errors import CheckpointError, ConfigError, MldecError, RunError, first_lines
from mldec.files import sync_folder
from mldec.labels import LabelSpace
from mldec.models.bounded import build_with
from mldec.models.classifier import Classifier
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import LabelVocabulary
from mldec.models.tensor_files import check_names, read_torch_file

logger = logging.getLogger(__name__)

FORMAT = 1

#: What every checkpoint holds. Zero-shot ones add `seen` (which labels were trained) and `label_embeddings` (names, vectors and
#: source); `last.pt` adds what resuming needs: optimizer, scaler and progress.
REQUIRED = {
    "format": int,
    "config": dict,
    "labels": list,
    "normalization": dict,
    "model": dict,
    "reported": str,
    "metrics": dict,
    "step": int,
}

SHOWN_LINES = 12  # of what torch says of weights that do not fit

Weights = Literal["best", "ema", "raw"]


@dataclass(frozen=True)
class Restored:
    """A classifier as it was trained, with what is needed to use it."""

    config: Config
    labels: LabelSpace
    classifier: Classifier
    normalization: Normalization
    weights: str  # "ema" or "raw": which ones the classifier holds
    metrics: dict[str, Any]
    step: int
    path: Path


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` beside `path`, synced and read back, then rename it to `path`: what was there stays until then.

    A reader never sees half a file. What a killed process left of one is removed. One process writes at a time.

    Raises RunError if it cannot be written, on a full disk say; `path` is then what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        with zipfile.ZipFile(partial) as written:
            if damaged := written.testzip():
                raise OSError(f"what was written of {damaged} reads back as something else")
        os.replace(partial, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        # torch hides the file's own error behind one about its archive.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "; what was saved before stays" if path.exists() else ""
        raise RunError(f"cannot write {path}: {getattr(reason, 'strerror', None) or reason}{kept}") from error
    finally:
        for left in path.parent.glob(f".{path.name}.*.partial"):
            left.unlink(missing_ok=True)


def refuse_damaged(state: Mapping[str, Tensor], step: int) -> None:
    """Raise RunError if a weight is not finite: after a gradient that was not, the loss shows it a step later."""
    values = {name: value for name, value in state.items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()  # waits for the device once
    damaged = [name for name, whole in zip(values, finite, strict=True) if not whole]
    if damaged:
        raise RunError(
            f"{len(damaged)} of {len(values)} tensors of the network are not finite after step {step} (first: "
            f"{damaged[0]}): a gradient was not. They are not saved, the last checkpoint is from before. Try a lower "
            "schedule.max_lr, optimizer.clip_norm=1, or runtime.precision=fp32"
        )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours, or the model.safetensors of an exported folder, onto the CPU.

    Raises CheckpointError if it is missing, damaged, unsafe or somebody else's.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.name in (exported_model.WEIGHTS, *exported_model.GRAPHS):
        return exported_model.read_exported(exported_model.find_weights(path.parent))
    try:
        content = read_torch_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged or holds more than tensors and plain values: {error}") from error
    wrong = [
        key for key, kind in REQUIRED.items() if not isinstance(content, dict) or not isinstance(content.get(key), kind)
    ]
    if wrong:
        raise CheckpointError(
            f"{path} is not a checkpoint of mldec: no valid {', '.join(wrong)}; published weights are taken over by "
            f"mldec import checkpoint={path}"
        )
    if content["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}, this mldec reads up to {FORMAT}; upgrade mldec")
    check_fields(content, str(path))
    for name in ("model", "ema"):
        check_names(content.get(name) or (), str(path))
    return content


def find_checkpoint(run: str | Path, which: Literal["best", "last"] = "best") -> Path:
    """The checkpoint file of a run folder, the weights of an exported folder, or the file itself.

    `last` stands in where no epoch was evaluated yet.
    """
    path = Path(run).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no run folder or checkpoint at {path}")
    for name in (which, "last"):
        candidate = path / "checkpoints" / f"{name}.pt"
        if candidate.is_file():
            return candidate
    if (path / "checkpoints" / "best.pt").is_file():
        raise CheckpointError(
            f"{path} holds no checkpoints/last.pt to go on from, as after mldec import; start a new run from its "
            f"weights: init_from={path}"
        )
    if exported_model.is_exported(path):
        return exported_model.find_weights(path)
    raise CheckpointError(
        f"{path} holds no checkpoints/last.pt: it is not a run folder of mldec, or its run never began"
    )


def run_folder(checkpoint: Path) -> Path:
    """The run folder that a checkpoint file lies in; of a lone file, or an exported one, the folder that it is in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def pack(
    config: Config,
    labels: LabelSpace,
    classifier: Classifier,
    *,
    ema: Mapping[str, Tensor] | None = None,
    reported: str = "raw",
    metrics: Mapping[str, Any] | None = None,
    step: int = 0,
) -> dict[str, Any]:
    """What a checkpoint holds of a network and the experiment that it is from.

    Args:
        ema: the moving average of the classifier's weights, where there is one.
        reported: "raw" or "ema", the weights that `metrics` report.
    """
    return {
        "format": FORMAT,
        "config": to_mapping(config),
        "labels": list(labels.names),
        "seen": None if labels.seen is None else list(labels.seen),
        "label_embeddings": pack_label_embeddings(classifier.vocabulary),
        "normalization": dataclasses.asdict(build_normalization(classifier)),
        "model": classifier.state_dict(),
        "ema": ema,
        "reported": reported,
        "metrics": dict(metrics or {}),
        "step": step,
    }


def choose_weights(content: Mapping[str, Any], weights: Weights, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Which weights `weights` means, "ema" or "raw", and these. Raises CheckpointError if they are not there."""
    chosen = content["reported"] if weights == "best" else weights
    state = content.get("ema") if chosen == "ema" else content["model"]
    if state is None and chosen == "raw":
        raise CheckpointError(f"{path} was exported with its EMA weights alone; use weights=ema")
    if state is None:
        raise CheckpointError(f"{path} holds no EMA weights (the run had ema=none); use weights=raw")
    return chosen, state


def pack_label_embeddings(vocabulary: LabelVocabulary | None) -> dict[str, Any] | None:
    """Label embeddings as plain values, for a checkpoint."""
    if vocabulary is None:
        return None
    known = vocabulary.known
    return {"names": list(known.names), "vectors": known.vectors, "source": known.source}


def stored_label_embeddings(content: Mapping[str, Any]) -> LabelEmbeddings | None:
    """The label embeddings that a checkpoint holds: names, vectors and where they were from. None where it has none.

    Raises CheckpointError if what it holds is not that.
    """
    embeddings = content.get("label_embeddings")
    if embeddings is None:
        return None
    kinds = {"names": list, "vectors": Tensor, "source": str}
    if not isinstance(embeddings, dict) or not all(
        isinstance(embeddings.get(key), kind) for key, kind in kinds.items()
    ):
        raise CheckpointError(
            "this checkpoint's label embeddings are damaged: expected names, vectors and their source"
        )
    return LabelEmbeddings(tuple(embeddings["names"]), embeddings["vectors"], embeddings["source"])


def restore(run: str | Path, weights: Weights = "best", which: Literal["best", "last"] = "best") -> Restored:
    """Rebuild the classifier of a run folder or checkpoint file, in eval mode on the CPU.

    `weights` chooses between the trained weights (`raw`), their moving average (`ema`), and those of the two whose
    metric training reported (`best`).
    """
    path = find_checkpoint(run, which)
    content = load_checkpoint(path)
    if which == "best" and path != Path(run).expanduser():
        warn_of_lost_best(content, path)
    chosen, state = choose_weights(content, weights, path)
    with _naming(path):
        config = build_config(from_stored(content["config"]))
        labels = LabelSpace(content["labels"], seen=content.get("seen"))
        embeddings = stored_label_embeddings(content)
        if embeddings is None and uses_label_embeddings(config):
            raise CheckpointError(
                "label_embeddings: missing, but the head of its config asks for labels by label embeddings"
            )
        try:
            classifier = build_with(lambda: build_bare_classifier(config, labels, embeddings), state, str(path))
        except RuntimeError as error:
            reason = first_lines(error, SHOWN_LINES)
            raise CheckpointError(f"{path} does not fit the network that its own config describes: {reason}") from error
        except (ValueError, TypeError, OverflowError, MemoryError) as error:
            reason = first_lines(error)
            raise CheckpointError(f"{path}: the network that its config describes cannot be built: {reason}") from error
    return Restored(
        config=config,
        labels=labels,
        classifier=classifier.eval(),
        normalization=Normalization(tuple(content["normalization"]["mean"]), tuple(content["normalization"]["std"])),
        weights=chosen,
        metrics=content["metrics"],
        step=content["step"],
        path=path,
    )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of what a checkpoint holds names the checkpoint."""
    try:
        yield
    except MldecError as error:
        if str(path) in str(error):
            raise
        kind = ConfigError if isinstance(error, ConfigError) else CheckpointError
        raise kind(f"{path}: {error}") from error


def warn_of_lost_best(content: Mapping[str, Any], path: Path) -> None:
    """Say so where an epoch was the best, and its weights are gone."""
    epoch = content.get("resume", {}).get("progress", {}).get("best_epoch", 0)
    if path.name == "last.pt" and epoch:
        logger.warning(
            "warning: %s is missing, the weights of epoch %d are lost; %s, of step %d, stands in for it",
            path.with_name("best.pt"),
            epoch,
            path.name,
            content["step"],
        )
