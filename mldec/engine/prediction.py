"""The prediction of many images: shown as they come, or written to files that an interrupted command continues."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mldec.data.image import decode
from mldec.engine import image_sheets, predictions
from mldec.engine.display import Display
from mldec.engine.prediction_files import MARKER, PredictionFiles
from mldec.engine.predictor import MAPS_BATCH, Prediction, Predictor
from mldec.engine.thresholds import read_thresholds
from mldec.errors import DataError, printable_name
from mldec.models.heads.maps import Weighting

THRESHOLD = 0.5  # of labels whose threshold is not set
SHOWN = 10  # images whose labels are printed where there is a file of all
SHOWN_BROKEN = 20
SECONDS = 15.0  # between two lines of progress where no bar can be drawn


@dataclass(frozen=True)
class Selection:
    """Which labels of an image are listed, and what is drawn of them."""

    threshold: float | np.ndarray  # labels with a score above it; or (N,), one per label
    top_k: int | None = None  # the best k labels instead
    all_scores: bool = False  # write the scores of all labels
    annotated: bool = False  # draw each image with its labels
    maps: Weighting | None = None  # draw a map of each listed label
    known: Mapping[str, int] | None = None  # labels of all images that are known already, see `Predictor.predict`
    batch_size: int = 32
    workers: int | None = None

    @property
    def drawings(self) -> list[str]:
        """The subdirectories that images are drawn into."""
        return [name for name, wanted in (("annotated", self.annotated), ("maps", self.maps)) if wanted]


def choose_threshold(
    predictor: Predictor, source: str | None, threshold: float | None
) -> tuple[float | np.ndarray, list[str]]:
    """One threshold for all labels, or (N,) from a `source` ("tuned" or a CSV file); and warnings about them.

    Raises DataError if there are no tuned thresholds, or if the file cannot be read.
    """
    default = THRESHOLD if threshold is None else threshold
    if source is None:
        return default, []
    if source == "tuned":
        found = predictor.tuned_thresholds(default)
    else:
        found = read_thresholds(Path(source).expanduser(), predictor.labels, default)
    if found.untuned:
        names = ", ".join(found.untuned[:5]) + (", …" if len(found.untuned) > 5 else "")
        return found.values, [
            f"thresholds={source}: {len(found.untuned)} of {len(predictor.labels)} labels are not in it and have "
            f"threshold={default:g}: {names}"
        ]
    unused = f"threshold={default:g}: thresholds={source} has one for each label"
    return found.values, [] if threshold is None else [unused]


def show_predictions(predictor: Predictor, paths: Sequence[str], selection: Selection, display: Display) -> int:
    """Print the labels of each image. Returns how many images could not be read."""
    errors = []
    with display.bar("predicting", len(paths)) as bar:
        stream = predictor.stream(
            paths, batch_size=selection.batch_size, workers=selection.workers, known=selection.known
        )
        for answers in stream:
            for answer in answers:
                if answer.scores is None:
                    errors.append(answer.error)
                else:
                    labels = predictor.name(answer.scores, selection.threshold, selection.top_k)
                    _say(answer.image, labels, display)
            bar.advance(len(answers))
    _say_errors(errors, display)
    return len(errors)


def write_predictions(
    predictor: Predictor,
    paths: Sequence[str],
    selection: Selection,
    files: PredictionFiles,
    display: Display,
    *,
    resume: bool | None,
    settings: Mapping[str, Any],
) -> int:
    """Write the labels of each image to files. Returns how many images could not be read or drawn.

    Args:
        resume: whether to continue an interrupted prediction; None: if it was made with the same `settings`.
        settings: what predictions depend on beside the images.
    """
    journal = predictions.Journal(files.journal, settings, paths, resume)
    if journal.done or journal.changed:
        display.say(f"note: resuming after {journal.done:,} images of an interrupted prediction")
    if journal.changed:
        display.say(f"note: {journal.changed:,} images changed since they were scored and are scored again")
    try:
        undrawn = _fill(journal, predictor, paths, selection, files, display)
    except BaseException:
        journal.close(finished=journal.done == 0)
        if journal.done:
            display.say(
                f"note: {journal.done:,} of {len(paths):,} images are kept in {files.journal}; "
                "the same command resumes from there"
            )
        raise
    for form, path in files.files.items():
        predictions.write(path, form, journal.records(), predictor.labels, all_scores=selection.all_scores)
        display.say(f"written to {path}")
    predictions.write_broken(files.broken, journal.records())
    if files.directory is not None:
        for name in selection.drawings:
            display.say(f"{name} in {files.directory / name}")
    if journal.broken:
        errors = (record["error"] for record in journal.records() if "error" in record)
        display.say(f"error: {journal.broken:,} of {len(paths):,} images could not be read: {files.broken}")
        _say_errors(itertools.islice(errors, SHOWN_BROKEN), display)
    if undrawn:
        display.say(f"error: {len(undrawn):,} of {len(paths):,} images could not be drawn; their scores are written")
        _say_errors(undrawn[:SHOWN_BROKEN], display)
    journal.close(finished=True)
    return journal.broken + len(undrawn)


def _fill(
    journal: predictions.Journal,
    predictor: Predictor,
    paths: Sequence[str],
    selection: Selection,
    files: PredictionFiles,
    display: Display,
) -> list[str]:
    """Predict what the journal does not hold yet, and draw it. Returns why images could not be drawn."""
    done, began = journal.done, time.monotonic()
    reported, printed = began, 0
    drawer = None if files.directory is None else _Drawer(predictor, selection, files.directory, paths)
    stamps: deque[Any] = deque()
    undrawn: list[str] = []

    def stamped() -> Iterator[str]:
        for number in list(journal.remaining):
            stamps.append(predictions.stamp(paths[number]))  # before it is read: what is replaced later differs
            yield paths[number]

    batch_size = selection.batch_size if selection.maps is None else min(selection.batch_size, MAPS_BATCH)
    stream = predictor.stream(
        stamped(), batch_size=batch_size, workers=selection.workers, maps=selection.maps, known=selection.known
    )
    with display.bar("predicting", len(paths), done) as bar:
        for answers in stream:
            records = []
            for answer in answers:
                labels: dict[str, float] = {}
                if answer.scores is not None:
                    labels = predictor.name(answer.scores, selection.threshold, selection.top_k)
                    if drawer is not None and (reason := drawer.draw(answer, labels)):
                        undrawn.append(reason)
                    printed += 1
                    if printed <= SHOWN:
                        _say(answer.image, labels, display)
                    elif printed == SHOWN + 1:
                        display.say("…")
                records.append(predictions.to_record(answer, labels, keep_scores=selection.all_scores))
            journal.add(records, [stamps.popleft() for _ in records])
            rate = (journal.done - done) / max(time.monotonic() - began, 1e-9)
            bar.advance(len(answers), f"{rate:.0f} images/s")
            if time.monotonic() - reported >= SECONDS:
                reported = time.monotonic()
                display.line(f"{journal.done:,} of {len(paths):,} images, {rate:.0f} images/s")
    return undrawn


class _Drawer:
    """Draws the images that `selection` wants into `directory`, placed as theirs are below the directory of all."""

    def __init__(self, predictor: Predictor, selection: Selection, directory: Path, paths: Sequence[str]) -> None:
        self._predictor, self._selection, self._directory = predictor, selection, directory
        self._common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])

    def draw(self, answer: Prediction, labels: Mapping[str, float]) -> str:
        """Draw a prediction. Returns why that failed, or "": one image does not stop that of all, a full disk does."""
        try:
            for kind in self._selection.drawings:
                self._draw(kind, answer, labels)
        except (DataError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            return f"{answer.image}: cannot be drawn: {getattr(error, 'strerror', None) or error}"
        return ""

    def _draw(self, kind: str, answer: Prediction, labels: Mapping[str, float]) -> None:
        folder, name = self._directory / kind, os.path.relpath(os.path.abspath(answer.image), self._common)
        image = decode(answer.image) if answer.pixels is None else answer.pixels
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        if kind == "annotated":
            ending, drawing = ".jpg", image_sheets.annotated(image, labels)
        else:
            assert answer.maps is not None
            maps = list(answer.maps[[self._predictor.labels.index(label) for label in labels]])
            captions = [[(f"{label} {100 * score:.0f}%", image_sheets.WHITE)] for label, score in labels.items()]
            view = self._predictor.view(*image.shape[:2])
            ending, drawing = ".png", image_sheets.maps_sheet(image, maps, captions, view)
        image_sheets.save_image(image_sheets.drawing_path(folder, name, ending), drawing)


def _say(path: str, labels: Mapping[str, float], display: Display) -> None:
    listed = ", ".join(f"{printable_name(name)} {100 * score:.0f}%" for name, score in labels.items())
    display.say(f"{printable_name(path)}: {listed or 'nothing found'}")


def _say_errors(errors: Iterable[str], display: Display) -> None:
    for error in errors:
        display.say(f"error: {printable_name(error)}")
