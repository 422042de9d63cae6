"""Checkpoints: plain dicts of tensors and plain values, written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mldec.config import Config, Weights, build_config, from_stored, to_mapping
from mldec.data.image import Normalization
from mldec.engine.build import build_classifier, build_normalization
from mldec.engine.checkpoint_fields import FORMAT, check_fields
from mldec.engine.config_properties import uses_label_embeddings
from mldec.engine.export import exported_model
from mldec.engine.run_directory import checkpoint_path, lock_run, run_directory_of, runs_within
from mldec.engine.thresholds import LabelThresholds
from mldec.errors import CheckpointError, ConfigError, MldecError, RunError, first_lines, option
from mldec.files import replacing
from mldec.labels import LabelSpace
from mldec.models.backbone import network_name
from mldec.models.bounded import build_with
from mldec.models.classifier import Classifier
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.tensor_files import check_names, read_torch_file
from mldec.models.weights import load_weights

logger = logging.getLogger(__name__)

#: What every checkpoint holds. Zero-shot ones add `seen` (which labels were trained) and `label_embeddings` (names,
#: vectors and source), best.pt `thresholds` (by label), last.pt `resume` (optimizer, scaler, progress, and the
#: `loss` if it has a state).
REQUIRED = ("format", "config", "labels", "normalization", "model", "reported", "metrics", "step")

SHOWN_LINES = 12  # of torch's message about weights that do not fit


class StoredCheckpoint(NamedTuple):
    """A checkpoint file and its content, checked."""

    path: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Restored:
    """A trained classifier and what is needed to use it.

    Attributes:
        classifier: in eval mode, with the weights named by `weights`: "ema" or "raw".
        metrics: by weights, then by name.
        reported: "ema" or "raw", the weights whose metric training reported.
        thresholds: tuned on val with the reported weights; None if there are none or `weights` are others.
        provenance: of an exported folder its `test`, `data` and `environment`; empty for a checkpoint.
    """

    config: Config
    labels: LabelSpace
    classifier: Classifier
    normalization: Normalization
    weights: str
    metrics: dict[str, Any]
    step: int
    path: Path
    reported: str = "raw"
    thresholds: LabelThresholds | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Files ----------------------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to a partial file, sync it, read it back, then rename it to `path`.

    A reader sees either the old or the new file. Raises RunError if it cannot be written, for example on a full disk;
    `path` is then unchanged.
    """
    try:
        with replacing(path, sync=True) as partial:
            with partial.open("wb") as file:
                torch.save(dict(content), file)
            with zipfile.ZipFile(partial) as written:
                if damaged := written.testzip():
                    raise OSError(f"{damaged} reads back differently from what was written")
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        # torch and `replacing` raise their own errors over that of the file.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "; the previous file is kept" if path.exists() else ""
        raise RunError(f"cannot write {path}: {getattr(reason, 'strerror', None) or reason}{kept}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of mldec, or the model.safetensors of an exported folder, onto the CPU.

    Raises CheckpointError if it is missing, damaged, unsafe or of another program.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.name in (exported_model.WEIGHTS, *exported_model.GRAPHS):
        return exported_model.read_exported(exported_model.find_weights(path.parent))
    try:
        content = read_torch_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged or holds more than tensors and plain values: {error}") from error
    missing = [key for key in REQUIRED if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(
            f"{path} is not a checkpoint of mldec: it has no {', '.join(missing)}; published weights are converted by "
            f"mldec import {option('checkpoint', path)}"
        )
    check_fields(content, str(path))
    for name in ("model", "ema"):
        check_names(content.get(name) or (), str(path))
    return content


def find_checkpoint(run: str | Path, which: Literal["best", "last"] = "best") -> Path:
    """The checkpoint file of a run directory, the weights of an exported folder, or `run` itself if it is a file.

    Falls back to last.pt before the first evaluation. Raises CheckpointError if there is none.
    """
    path = Path(run).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no run directory or checkpoint at {path}")
    for name in (which, "last"):
        candidate = checkpoint_path(path, name)
        if candidate.is_file():
            return candidate
    if checkpoint_path(path, "best").is_file():
        raise CheckpointError(
            f"{path} has no checkpoints/last.pt to resume from, as after mldec import; start a new run from its "
            f"weights: {option('init_from', path)}"
        )
    if exported_model.is_exported(path):
        return exported_model.find_weights(path)
    raise CheckpointError(
        f"{path} has no checkpoints/last.pt: it is not a run directory of mldec, or training never started"
        f"{runs_within(path)}"
    )


def read_last(run: str | Path) -> StoredCheckpoint:
    """last.pt of a run directory, for resuming. Raises CheckpointError if there is none or it holds weights only."""
    path = find_checkpoint(run, "last")
    content = load_checkpoint(path)
    if "resume" not in content:
        raise CheckpointError(f"{path} holds weights only; to resume, use a run directory with checkpoints/last.pt")
    return StoredCheckpoint(path, content)


# Content --------------------------------------------------------------------------------------------------------------


def pack(
    config: Config,
    labels: LabelSpace,
    classifier: Classifier,
    *,
    reported: str = "raw",
    metrics: Mapping[str, Any] | None = None,
    thresholds: LabelThresholds | None = None,
    step: int = 0,
) -> dict[str, Any]:
    """The content of a checkpoint without EMA weights and what resuming needs, which `TrainState.state_dict` has.

    `reported`: "raw" or "ema", the weights that the protocol reports; `metrics` and `thresholds` are chosen by them.
    """
    return {
        "format": FORMAT,
        "config": to_mapping(config),
        "labels": list(labels.names),
        "seen": None if labels.seen is None else list(labels.seen),
        "label_embeddings": pack_label_embeddings(classifier.label_embeddings),
        "normalization": dataclasses.asdict(build_normalization(classifier)),
        "model": classifier.state_dict(),
        "ema": None,
        "reported": reported,
        "metrics": dict(metrics or {}),
        "thresholds": None if thresholds is None else thresholds.by_label(),
        "step": step,
    }


def check_finite(state: Mapping[str, Tensor], step: int) -> None:
    """Raise RunError if a weight is not finite. A bad gradient damages weights one step before the loss shows it."""
    values = {name: value for name, value in state.items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()  # one device synchronisation
    damaged = [name for name, is_finite in zip(values, finite, strict=True) if not is_finite]
    if damaged:
        raise RunError(
            f"{len(damaged)} of {len(values)} tensors of the network are not finite after step {step} (first: "
            f"{damaged[0]}), because a gradient was not finite. They are not saved; the last checkpoint is from an "
            "earlier step. Try a lower schedule.max_lr, optimizer.clip_norm=1, or runtime.precision=fp32"
        )


def choose_weights(content: Mapping[str, Any], weights: Weights, path: Path) -> tuple[str, dict[str, Tensor]]:
    """The kind of weights that `weights` selects, "ema" or "raw", and their state dict.

    Raises CheckpointError if the file does not have them.
    """
    chosen = content["reported"] if weights == "best" else weights
    state = content.get("ema") if chosen == "ema" else content["model"]
    if state is None and chosen == "raw":
        raise CheckpointError(f"{path} was exported with EMA weights only; use weights=ema")
    if state is None:
        raise CheckpointError(f"{path} has no EMA weights (the run had ema=none); use weights=raw")
    return chosen, state


def pack_label_embeddings(known: LabelEmbeddings | None) -> dict[str, Any] | None:
    """Label embeddings as plain values and one tensor, for a checkpoint."""
    if known is None:
        return None
    return {"names": list(known.names), "vectors": known.vectors, "source": known.source}


def stored_label_embeddings(content: Mapping[str, Any]) -> LabelEmbeddings | None:
    """The label embeddings of a checkpoint: names, vectors (V,width) and their source. None if it has none."""
    embeddings = content.get("label_embeddings")
    if embeddings is None:
        return None
    return LabelEmbeddings(tuple(embeddings["names"]), embeddings["vectors"], embeddings["source"])


# Using a checkpoint ---------------------------------------------------------------------------------------------------


def restore(run: str | Path, weights: Weights = "best", which: Literal["best", "last"] = "best") -> Restored:
    """Rebuild the classifier of a run directory, checkpoint file or exported folder, in eval mode on the CPU.

    Args:
        weights: "raw", "ema" (their moving average), or "best": those whose metric training reported.
        which: the checkpoint of a run directory.

    Raises:
        CheckpointError: it is missing, damaged, or does not match its own config.
        ConfigError: its config is not valid.
    """
    path, content = _read_reported(run, which)
    try:
        return _rebuild(path, content, weights)
    except MldecError as error:  # which names the file, whatever it is about
        if str(path) in str(error):
            raise
        kind = ConfigError if isinstance(error, ConfigError) else CheckpointError
        raise kind(f"{path}: {error}") from error


def _rebuild(path: Path, content: Mapping[str, Any], weights: Weights) -> Restored:
    chosen, state = choose_weights(content, weights, path)
    config = build_config(from_stored(content["config"]))
    labels = LabelSpace(content["labels"], seen=content.get("seen"))
    embeddings = stored_label_embeddings(content)
    if embeddings is None and uses_label_embeddings(config):
        raise CheckpointError("label_embeddings: missing, but the head of its config uses label embeddings")
    thresholds = content.get("thresholds") if chosen == content["reported"] else None
    tuned = None if thresholds is None else LabelThresholds.from_mapping(thresholds)
    try:
        classifier = build_with(
            lambda: build_classifier(config, labels, embeddings, pretrained=False), state, str(path)
        )
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
        reported=content["reported"],
        thresholds=tuned,
        provenance={key: content[key] for key in ("test", "data", "environment") if key in content},
    )


def store_thresholds(restored: Restored, thresholds: LabelThresholds) -> None:
    """Replace the tuned thresholds in the checkpoint or exported folder that `restored` was read from.

    Raises:
        ConfigError: a training run is using the run directory.
        CheckpointError: the checkpoint has been replaced meanwhile.
        RunError: it cannot be written.
    """
    path = restored.path
    if path.name == exported_model.WEIGHTS:
        exported_model.write_thresholds(path.parent, thresholds.of(restored.labels).values.tolist())
        return
    in_run = path.parent.name == "checkpoints"
    with lock_run(run_directory_of(path)) if in_run else contextlib.nullcontext():
        content = load_checkpoint(path)
        if content["step"] != restored.step:
            raise CheckpointError(f"{path} is now of step {content['step']}, not {restored.step}; evaluate it again")
        save_checkpoint(path, content | {"thresholds": thresholds.by_label()})


GRAPH = "head.adjacency"  # of labels in the training images: not a weight, so that each run keeps its own


def init_weights(
    classifier: Classifier,
    run: str,
    part: Literal["all", "backbone"],
    *,
    network: str | None = None,
    adopt: bool = False,
) -> str:
    """Load the reported weights of another run as far as they fit. Returns a sentence that says how far.

    Args:
        network: the name of the backbone's network, `BackboneConfig.network`, which must be that of the run: tensors
            of another may fit although they do not belong there.
        adopt: images are normalised as they were in that run, whose weights expect it.

    Raises CheckpointError if the run has another network, or no tensor fits.
    """
    path, content = _read_reported(run)
    stored = content["config"]["backbone"]
    theirs = network_name(stored["name"], stored.get("model"))
    if network is not None and theirs != network:
        size = content["config"]["dataset"]["image_size"]
        raise CheckpointError(
            f"init_from={run}: its backbone is {theirs}, this one's is {network}; its weights do not belong in it. "
            f"Use its backbone and size: backbone={theirs} dataset.image_size={size}"
        )
    _, state = choose_weights(content, "best", path)
    state = {name: value for name, value in state.items() if name != GRAPH}
    module, left_out = (classifier.backbone, ("head",)) if part == "backbone" else (classifier, ())
    report = load_weights(module, state, str(path), classifiers=left_out, required=0.0)
    if not report.loaded:
        raise CheckpointError(f"init_from={run}: none of its tensors fits this network\n{report}")
    if adopt:
        set_normalization(classifier, content)
    return str(report)


def set_normalization(classifier: Classifier, content: Mapping[str, Any]) -> None:
    """Normalise images as the run of a checkpoint did: its weights may come from a file that is no longer there."""
    stored = content["normalization"]
    classifier.backbone.normalization = (tuple(stored["mean"]), tuple(stored["std"]))  # type: ignore[assignment]


def describe_lost_best(run_dir: Path, step: int) -> str | None:
    """Why best.pt of a run directory cannot be used as the weights of `step`; None if it can."""
    path = checkpoint_path(run_dir, "best")
    if not path.exists():
        return f"{path} is missing"
    try:
        found = load_checkpoint(path)["step"]
    except CheckpointError as error:
        return str(error)
    return None if found == step else f"{path} is of step {found}, not {step}"


def _read_reported(run: str | Path, which: Literal["best", "last"] = "best") -> StoredCheckpoint:
    """The checkpoint of a run. Warns if that is last.pt although an epoch was evaluated: its best.pt is missing; and if
    nothing has been trained yet."""
    path = find_checkpoint(run, which)
    content = load_checkpoint(path)
    epoch = content.get("resume", {}).get("progress", {}).get("best_epoch", 0)
    if which == "best" and path != Path(run).expanduser() and path.name == "last.pt" and epoch:
        logger.warning(
            "warning: %s is missing, the weights of epoch %d are lost; using %s of step %d instead",
            *(path.with_name("best.pt"), epoch, path.name, content["step"]),
        )
    if content["step"] == 0 and "resume" in content:  # imported weights are of step 0 as well, and cannot be resumed
        logger.warning("warning: %s is of step 0: its head has not been trained, and its scores mean nothing", path)
    return StoredCheckpoint(path, content)
