"""Property: 720 classes train by any number of queries, on images in which each label stays true."""

from __future__ import annotations

import numpy as np
import pytest

from mldec.commands import compose
from mldec.config import Config
from mldec.data.image import decode
from mldec.engine import config_checks, data_splits
from mldec.registry import AUGMENTS
from tests.curve import make, make_trainer


@pytest.fixture
def small_many(small_digits: list[str]) -> list[str]:
    """`experiment=digits_many` with the few scenes of the other tests, and without the run that it starts from."""
    return [
        "experiment=digits_many",
        "init_from=null",
        *(word for word in small_digits if not word.startswith("experiment=")),
    ]


@pytest.mark.parametrize("num_groups", [720, 72, 36, 18])
def test_it_learns_with_few_queries(small_many: list[str], num_groups: int) -> None:
    config = make([*small_many, f"head.num_groups={num_groups}", "head.dropout=0.0", "schedule.epochs=9"])
    config_checks.check_config(config)
    trainer = make_trainer(config)
    trainer.network.train()
    batch = next(iter(trainer.batches.batches(0)))
    losses = []
    for _ in range(25):
        losses.append(float(trainer.train_step(batch)))
        trainer.state.progress.step += 1
    assert losses[-1] < 0.5 * losses[0]


def test_its_images_are_not_moved(small_many: list[str]) -> None:
    """A digit that moves may leave the cell that its label names."""
    config = make([*small_many, "augment.brightness=0.0"])
    index = data_splits.build_splits(config).train
    augment = AUGMENTS[config.augment.name].build(config.augment, image_size=64)
    for row in range(10):
        image = decode(index.path(row))
        np.testing.assert_array_equal(augment(image, np.random.default_rng(row)), image)


@pytest.mark.parametrize(
    "words",
    [
        (),
        *(
            (f"{group}={choice}",)
            for group in ("head", "loss", "augment", "schedule", "optimizer", "ema", "protocol")
            for choice in compose.choices(group)
            if "???" not in (compose.config_folder() / group / f"{choice}.yaml").read_text()  # label embeddings
        ),
    ],
    ids=lambda words: " ".join(words) or "alone",
)
def test_it_goes_with_whatever_goes_with_digits(words: tuple[str, ...]) -> None:
    def typed(dataset: str) -> Config:
        return make(["experiment=digits", f"dataset={dataset}", *words])

    many, plain = typed("digits_many"), typed("digits")
    assert (many.dataset.name, many.dataset.train, many.dataset.test) == ("digits_many", 24000, 4000)
    assert (many.head, many.loss, many.augment) == (plain.head, plain.loss, plain.augment)
