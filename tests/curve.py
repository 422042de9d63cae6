"""The experiment behind the golden loss curve, and small experiments in general."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from mldec.commands import compose
from mldec.config import Config, build_config
from mldec.engine import data_splits
from mldec.engine.display import Display
from mldec.engine.trainer import Trainer

SCENES = {"train": 96, "val": 24, "test": 24}

#: Overrides that make the backbone a tenth, where a test needs a training and not what it learns.
SMALLER = ("backbone.widths=[8,16]", "backbone.blocks=[1,1]")


def small_experiment(digits_root: Path) -> list[str]:
    """Overrides that make experiment=digits a matter of a second or two."""
    return [
        "experiment=digits",
        f"dataset.root={digits_root}",
        *(f"dataset.{split}={count}" for split, count in SCENES.items()),
        "schedule.epochs=2",
        "schedule.batch_size=32",
        "head.dim=32",
        "head.ffn_dim=32",
        "head.num_heads=4",
        "head.dropout=0.1",  # so that its chances count among what is repeated
        "runtime=cpu",
        "runtime.threads=1",
        "runtime.workers=0",
        "runtime.log_every=2",
        "runtime.tensorboard=false",
    ]


#: Heads of other methods, small; their settings take the place of the ML-Decoder's, by `with_head`.
C_TRAN = ("head=c_tran", "head.num_heads=4", "head.num_layers=1", "head.ffn_dim=16")
SDL = ("head=sdl", "head.num_rows=2", "head.label_embeddings.source=random:8")


def with_head(overrides: Sequence[str], variant: Sequence[str]) -> list[str]:
    """`overrides` and `variant`; where that chooses a head, without the settings of the earlier one."""
    if any(word.startswith("head=") for word in variant):
        overrides = [word for word in overrides if not word.startswith("head.")]
    return [*overrides, *variant]


def make(overrides: Sequence[str]) -> Config:
    """The Config that a command line composes."""
    return _make(tuple(overrides))


@functools.cache  # Hydra takes a tenth of a second
def _make(overrides: tuple[str, ...]) -> Config:
    compose.load_components(())
    return build_config(compose.compose(overrides))


def make_trainer(config: Config) -> Trainer:
    """A trainer that prints nothing."""
    return Trainer(config, data_splits.build_splits(config), Display(quiet=True))


def curve(digits_root: Path) -> list[float]:
    """The losses of 20 steps under a fixed seed, without dropout: versions of torch draw it differently."""
    trainer = make_trainer(make([*small_experiment(digits_root), "schedule.epochs=7", "head.dropout=0.0"]))
    losses = []
    for epoch in range(7):
        trainer.network.train()
        for batch in trainer.batches.batches(epoch):
            losses.append(float(trainer.train_step(batch)))
            trainer.state.progress.step += 1
    return losses[:20]
