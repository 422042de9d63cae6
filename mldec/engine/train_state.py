"""The state of a training run: everything that one step changes and the next one depends on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mldec.engine.ema import Ema
from mldec.models.classifier import Classifier


@dataclass
class Progress:
    """How far a run has come, in plain numbers, as stored in a checkpoint."""

    step: int = 0  # batches consumed
    updates: int = 0  # batches that changed the weights: the position in the schedule
    epochs: int = 0  # epochs that are trained and, if due, evaluated
    best: float = -math.inf  # the main metric of the best epoch
    best_epoch: int = 0  # counted from 1; 0 before the first evaluation
    broken: int = 0  # images that could not be decoded and were replaced (dataset.on_error=skip)
    window: list[float] = dataclasses.field(default_factory=list)  # losses since the last record
    epoch_losses: list[float] = dataclasses.field(default_factory=list)  # losses of this epoch that were recorded


@dataclass
class TrainState:
    """Model, EMA, optimizer, loss scaler, what the loss remembers, and progress.

    `state_dict` has the entries `model`, `ema` and `resume` of a checkpoint: the first two are enough to use the
    network, `resume` is what training additionally needs to continue bit for bit. `resume["loss"]` is the `state_dict`
    of the loss, left out where that is empty.
    """

    model: Classifier  # the raw weights, not wrapped by DistributedDataParallel or torch.compile
    ema: Ema | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    loss: nn.Module
    progress: Progress = dataclasses.field(default_factory=Progress)

    def state_dict(self) -> dict[str, Any]:
        """References to the current tensors (not copies) and plain values."""
        memory = self.loss.state_dict()
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "resume": {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema_updates": 0 if self.ema is None else self.ema.updates,
                "progress": dataclasses.asdict(self.progress),
                **({"loss": memory} if memory else {}),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any], *, same_loss: bool = True) -> None:
        """Continue from a `state_dict()`.

        Args:
            same_loss: False for a run that continues with another loss, which has no state yet: it is left as built.

        Raises what torch raises for a state of another network, optimizer or loss: AttributeError, IndexError,
        KeyError, RuntimeError, TypeError or ValueError. The state is then partly loaded.
        """
        resume = state["resume"]
        self.model.load_state_dict(state["model"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict({"module": state["ema"], "updates": resume["ema_updates"]})
        self.optimizer.load_state_dict(resume["optimizer"])
        self.scaler.load_state_dict(resume["scaler"])
        if same_loss:
            self.loss.load_state_dict(resume.get("loss") or {})
        self.progress = Progress(**resume["progress"])
