"""The chosen weights of a run scored on a split again, as `mldec evaluate` does, and the thresholds of its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.engine import build, config_properties, thresholds
from mldec.engine.checkpoint import Restored
from mldec.engine.device import choose_device, prepare_runtime
from mldec.engine.display import Display
from mldec.engine.evaluator import Result, Scores
from mldec.engine.predictor import Predictor
from mldec.engine.same_data import check_same_data
from mldec.engine.scoring import open_split, score_split
from mldec.errors import DataError, MldecError
from mldec.labels import LabelSpace


@dataclass(frozen=True)
class LabelThresholds:
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
    thresholds: LabelThresholds | str
    predictor: Predictor

    @property
    def single_label(self) -> bool:
        """Whether each image has one label, of which the best is given."""
        return config_properties.is_single_label(self.config)

    @property
    def positives(self) -> np.ndarray:
        """(N,): how many images have each label."""
        return np.count_nonzero(self.scores.targets == 1, axis=0)


def measure(
    restored: Restored,
    config: Config,
    split: str,
    folder: Path | None,
    display: Display,
    *,
    overrides: Collection[str] = (),
    allow_other_data: bool = False,
) -> MeasuredSplit:
    """Score `split` and, where thresholds by label have to be chosen, val.

    Args:
        config: that of the run as it is to be measured.
        folder: the run directory, which may hold thresholds.csv; None: thresholds by label are not needed.
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
        what = f"{config.dataset.name} {split}"
        return index, labels, *score_split(restored, config, index, labels, what=what, device=device, display=display)

    index, labels, scores, result = score(split)
    cuts: LabelThresholds | str
    if config_properties.is_single_label(config):
        cuts = "Each image has exactly one label, and the highest score is predicted: there are no thresholds."
    elif folder is None:
        cuts = "No thresholds by label were requested."
    elif (folder / thresholds.FILE).is_file():
        cuts = _read(folder / thresholds.FILE, labels, config.protocol.threshold)
    else:
        try:
            val_index, val_labels, val = (index, labels, scores) if split == "val" else score("val")[:3]
            if val_labels.names != labels.names:
                raise DataError(f"val has other labels than {split}")
            values = thresholds.tune_thresholds(val.scores, val.targets, config.protocol.threshold)
            origin = f"the {len(val_index):,} images of val, where the F1 of each label is highest"
            if val_index.fingerprint() == index.fingerprint():
                origin += ". They are evaluated on the same images, so these values are optimistically biased"
            cuts = LabelThresholds(values, origin)
        except MldecError as error:
            cuts = f"Thresholds by label are chosen on val, which could not be scored: {error}"
    # The last use of the network has the labels of the split, whatever val had.
    if restored.classifier.vocabulary is not None:
        build.set_query_labels(restored.classifier, labels.names, config.head.label_embeddings)
    predictor = Predictor(dataclasses.replace(restored, config=config, labels=labels), str(device))
    weights, step = restored.weights, restored.step
    return MeasuredSplit(config, split, weights, step, index, labels, scores, result, cuts, predictor)


def _read(path: Path, labels: LabelSpace, default: float) -> LabelThresholds | str:
    """Thresholds of a run directory; a sentence if they are damaged."""
    try:
        found = thresholds.read_thresholds(path, labels, default)
    except DataError as error:
        return f"There are no thresholds by label: {error}."
    rest = f"; {len(found.untuned):,} labels that it lacks keep the protocol's" if found.untuned else ""
    return LabelThresholds(found.values, f"{path.name} of the run, tuned on val{rest}")
