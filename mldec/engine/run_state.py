"""What a run is at a step, as the contents of a checkpoint, and how another process takes it up."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mldec.engine.checkpoint import (
    choose_weights,
    find_checkpoint,
    load_checkpoint,
    pack,
    stored_label_embeddings,
    warn_of_lost_best,
)
from mldec.errors import CheckpointError, first_lines
from mldec.models.classifier import Classifier
from mldec.models.weights import load_weights

SHOWN_LINES = 6  # of what torch says of a state that does not fit

if TYPE_CHECKING:
    from mldec.engine.trainer import Trainer


@dataclasses.dataclass
class Progress:
    """How far a run has come. Plain numbers, since it travels in the checkpoint."""

    step: int = 0  # batches consumed
    updates: int = 0  # batches that changed the weights: where the schedule stands
    epochs: int = 0  # epochs trained and, if due, evaluated
    best: float = -math.inf
    best_epoch: int = 0
    broken: int = 0  # images that could not be decoded and were replaced (dataset.on_error=skip)
    window: list[float] = dataclasses.field(default_factory=list)  # losses since the last record
    epoch_losses: list[float] = dataclasses.field(default_factory=list)  # losses of this epoch before that

    @property
    def epoch_loss(self) -> float:
        """Mean loss of the steps of this epoch that were recorded."""
        return sum(self.epoch_losses) / max(1, len(self.epoch_losses))


def contents(
    trainer: Trainer, *, resumable: bool, reported: str | None = None, metrics: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A checkpoint of a run as it stands; `resumable`: with all that the next step depends on.

    Args:
        reported: "raw" or "ema", the weights that `metrics` report; None: those that the protocol would.
    """
    ema = trainer.ema
    content = pack(
        trainer.config,
        trainer.splits.labels,
        trainer.classifier,
        ema=None if ema is None else ema.module.state_dict(),
        reported=reported or ("raw" if ema is None or trainer.config.protocol.report == "raw" else "ema"),
        metrics=metrics,
        step=trainer.progress.step,
    )
    if resumable:
        content["resume"] = {
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "ema_updates": 0 if ema is None else ema.updates,
            "progress": dataclasses.asdict(trainer.progress),
        }
    return content


def load_state(trainer: Trainer, run: str | Path) -> None:
    """Bring a trainer to where `last.pt` of a run folder stands.

    Raises CheckpointError if that is none to resume from, or of other labels, embeddings or steps an epoch.
    """
    path = find_checkpoint(run, "last")
    content = load_checkpoint(path)
    if "resume" not in content:
        raise CheckpointError(f"{path} holds weights only; to resume, name a run folder with checkpoints/last.pt")
    if content["labels"] != list(trainer.splits.labels.names):
        raise CheckpointError(f"{path} was trained on other labels than {trainer.config.dataset.name} has now")
    stored, own = stored_label_embeddings(content), trainer.classifier.vocabulary
    if stored is not None and own is not None and not stored.equals(own.known):
        raise CheckpointError(
            f"{path} was trained with other label embeddings than {trainer.config.head.label_embeddings.source} holds now; "
            f"start a new run with init_from={run}"
        )
    state = content["resume"]
    steps, progress = len(trainer.batches), Progress(**state["progress"])
    if not progress.epochs * steps <= progress.step <= (progress.epochs + 1) * steps:
        raise CheckpointError(
            f"{path} stands at step {progress.step} in epoch {progress.epochs + 1}, but an epoch now has {steps} "
            f"steps: the images or schedule.batch_size changed; start a new run with init_from={run}"
        )
    try:
        trainer.classifier.load_state_dict(content["model"])
        if trainer.ema is not None and content["ema"] is not None:
            trainer.ema.load_state_dict({"module": content["ema"], "updates": state["ema_updates"]})
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = first_lines(error, SHOWN_LINES)
        raise CheckpointError(
            f"{path}: what resuming needs is damaged, or of another network or optimizer ({type(error).__name__}: "
            f"{reason}); start a new run with init_from={run}"
        ) from error
    trainer.progress = progress


def lost_best(folder: Path, step: int) -> str | None:
    """What is wrong with the best.pt of a run folder, whose weights should be those of `step`; None if nothing is."""
    path = folder / "checkpoints" / "best.pt"
    if not path.exists():
        return f"{path} is missing"
    try:
        found = load_checkpoint(path)["step"]
    except CheckpointError as error:
        return str(error)
    return None if found == step else f"{path} is of step {found}, not {step}"


def start_from(classifier: Classifier, run: str, part: Literal["all", "backbone"]) -> str:
    """Take the reported weights of another run, as far as they fit. Returns how far that is, as a sentence.

    Raises CheckpointError if nothing fits.
    """
    path = find_checkpoint(run)
    content = load_checkpoint(path)
    if path != Path(run).expanduser():
        warn_of_lost_best(content, path)
    _, state = choose_weights(content, "best", path)
    if part == "backbone":
        report = load_weights(classifier.backbone, state, str(path), classifiers=("head",), required=0.0)
    else:
        report = load_weights(classifier, state, str(path), classifiers=(), required=0.0)
    if not report.loaded:
        raise CheckpointError(f"init_from={run}: no tensor of it fits this network\n{report}")
    return str(report)
