"""The chosen weights of a run scored on a split again, as `mldec evaluate` does, and the thresholds of its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.engine import build
from mldec.engine.checkpoint import Restored
from mldec.engine.data_splits import check_same_data
from mldec.engine.device import choose_device, prepare_runtime
from mldec.engine.display import Display
from mldec.engine.evaluation import open_split, score_split
from mldec.engine.evaluator import Result, Scores
from mldec.engine.predictor import Predictor
from mldec.engine.thresholds import tune_thresholds
from mldec.errors import DataError, MldecError
from mldec.labels import LabelSpace


@dataclass(frozen=True)
class ExplainedThresholds:
    """One for each label (N,), and a sentence about where they come from."""

    values: np.ndarray
    origin: str


@dataclass(frozen=True)
class MeasuredSplit:
    """The predictions of a run's weights for a split, and their metrics.

    Attributes:
        config: as it was measured, with the overrides of the command line.
        weights, step: which ones, and of which step.
        index, labels, scores, result: the images, their labels, scores and metrics.
        thresholds: those tuned by label, or a sentence that explains why there are none.
        predictor: the network, for maps.
    """

    config: Config
    split: str
    weights: str
    step: int
    index: ImageIndex
    labels: LabelSpace
    scores: Scores
    result: Result
    thresholds: ExplainedThresholds | str
    predictor: Predictor

    @property
    def single_label(self) -> bool:
        """Whether each image has one label, of which the best is given."""
        return self.config.dataset.single_label

    @property
    def positives(self) -> np.ndarray:
        """(N,): how many images have each label."""
        return np.count_nonzero(self.scores.targets == 1, axis=0)


def measure_split(
    restored: Restored,
    config: Config,
    split: str,
    display: Display,
    *,
    by_label: bool = True,
    overrides: Collection[str] = (),
    allow_other_data: bool = False,
) -> MeasuredSplit:
    """Score `split` and, where thresholds by label have to be chosen, val.

    Args:
        config: that of the run as it is to be measured.
        by_label: whether thresholds by label are needed: those of the checkpoint or, without any, tuned on val.
        overrides: keys of the settings that the user changed.
        allow_other_data: accept images or labels that are not those of the run.

    Raises DataError if images or annotations cannot be read, or are not those of the run.
    """
    device = choose_device(config.runtime.device)
    prepare_runtime(config.runtime, device)

    def score(split: str) -> tuple[ImageIndex, LabelSpace, Scores, Result]:
        index, labels = open_split(restored, config, split)
        if other := check_same_data(restored.path, split, index, overrides=overrides, allowed=allow_other_data):
            display.say(f"note: {other}")
        return index, labels, *score_split(restored, config, index, labels, split, device=device, display=display)

    index, labels, scores, result = score(split)
    cuts: ExplainedThresholds | str
    if config.dataset.single_label:
        cuts = "Each image has exactly one label, and the highest score is predicted: there are no thresholds."
    elif not by_label:
        cuts = "No thresholds by label were requested."
    elif restored.thresholds is not None:
        tuned = restored.thresholds.of(labels, config.protocol.threshold)
        rest = f"; {len(tuned.untuned):,} labels that it lacks keep the protocol's" if tuned.untuned else ""
        cuts = ExplainedThresholds(tuned.values, f"{restored.path.name} of the run, tuned on val{rest}")
    else:
        try:
            val_index, val_labels, val = (index, labels, scores) if split == "val" else score("val")[:3]
            if val_labels.names != labels.names:
                raise DataError(f"val has other labels than {split}")
            values = tune_thresholds(val.scores, val.targets, config.protocol.threshold)
            origin = f"the {len(val_index):,} images of val, where the F1 of each label is highest"
            if val_index.fingerprint() == index.fingerprint():
                origin += ". They are evaluated on the same images, so these values are optimistically biased"
            cuts = ExplainedThresholds(values, origin)
        except MldecError as error:
            cuts = f"Thresholds by label are chosen on val, which could not be scored: {error}"
    # The last use of the network has the labels of the split, whatever val had.
    if restored.classifier.vocabulary is not None:
        build.set_query_labels(restored.classifier, labels.names, config.head.label_embeddings)
    predictor = Predictor(dataclasses.replace(restored, config=config, labels=labels), str(device))
    weights, step = restored.weights, restored.step
    return MeasuredSplit(config, split, weights, step, index, labels, scores, result, cuts, predictor)
