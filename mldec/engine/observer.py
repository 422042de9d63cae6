"""What a run tells: records, curves and images in its folder, progress and a table of epochs on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.data.loader import Batch
from mldec.engine import build, image_sheets, thresholds
from mldec.engine.display import Bar, Display
from mldec.engine.evaluator import Result, Scores, write_per_class
from mldec.engine.throughput import Throughput
from mldec.engine.tracking import Tracker
from mldec.labels import LabelSpace

SHOWN_BROKEN = 5


class Observer:
    """Puts what the trainer measured where people and programs look for it.

    Args:
        folder: the run folder.
        config: the experiment.
        headline: the metric by which epochs are compared.
        display: the terminal.
        total_steps: of the whole run.
        step, evaluations: what was done before, where a run is resumed.
        processes: that train as this one does, by which the speed is multiplied.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        display: Display,
        *,
        headline: str,
        total_steps: int,
        step: int,
        evaluations: int,
        processes: int = 1,
    ) -> None:
        self.folder, self.config, self.display, self.total_steps = folder, config, display, total_steps
        self.size = build.image_size(config)
        self.headline, self.processes = headline, processes
        self.throughput = Throughput()
        self.bar = Bar(None, None)
        self.broken_shown = 0
        self.tracker = Tracker(folder, tensorboard=config.runtime.tensorboard, step=step, evaluations=evaluations)

    def close(self) -> None:
        """Flush and close the files."""
        self.tracker.close()

    def data(self, train: ImageIndex, first: Batch) -> None:
        """Before the first step: how often each label occurs, and what the network will see."""
        self.tracker.label_histogram("labels/train", train.positives_per_class())
        sheet = image_sheets.batch_sheet(first, train.labels)
        image_sheets.save_image(self.folder / "images" / "training.png", sheet)
        self.tracker.image("train/augmented", sheet, 0)

    @contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar over a part of the run."""
        with self.display.bar(what, total, done) as self.bar:
            yield self.bar

    def broken(self, messages: Sequence[str]) -> None:
        """Say which images could not be decoded: the first few of a run; the records count them all."""
        for message in messages:
            self.broken_shown += 1
            if self.broken_shown <= SHOWN_BROKEN:
                self.display.say(f"warning: {message}; another image stands in for it")
            elif self.broken_shown == SHOWN_BROKEN + 1:
                self.display.say("warning: more images cannot be decoded; `mldec data verify` lists them all")

    def window(self, step: int, epoch: int, loss: float, lr: float, extra: Mapping[str, float]) -> None:
        """The steps since the last record, of which `loss` is the mean."""
        speed, waiting = self.throughput.read()
        speed *= self.processes
        record = {"epoch": epoch, "loss": loss, "lr": lr, "images_per_second": speed, "data_wait": waiting}
        self.tracker.record("train", step, record | dict(extra))
        left = _clock((self.total_steps - step) * self.config.schedule.batch_size / max(speed, 1e-9))
        self.bar.advance(0, f"loss {loss:.4g} lr {lr:.1e} {speed:.0f} images/s wait {waiting:.0%} left {left}")
        self.display.line(
            f"step {step}/{self.total_steps}  epoch {epoch}  loss {loss:.4g}  lr {lr:.2e}  {speed:.0f} images/s  "
            f"waiting for data {waiting:.0%}  left {left}"
        )

    def epoch(
        self,
        step: int,
        epoch: int,
        loss: float,
        metrics: Mapping[str, Any],
        *,
        reported: str,
        best: float,
        seconds: float,
    ) -> None:
        """An evaluated epoch: a record, and a row of the table. `metrics` holds those of `raw` and, if any, `ema`."""
        record = {"epoch": epoch, "loss": loss, **metrics, "reported": reported, "best": best, "seconds": seconds}
        self.tracker.record("eval", step, record)
        values = {name: f"{metrics[name].get(self.headline, math.nan):.2f}" for name in metrics}
        self.display.epoch_row(
            {
                "epoch": str(epoch),
                "loss": f"{loss:.4g}",
                f"raw {self.headline}": values["raw"],
                f"EMA {self.headline}": values.get("ema", "-"),
                f"best {self.headline}": f"{best:.2f}",
                "seconds": f"{seconds:.0f}",
            }
        )

    def predictions(self, step: int, index: ImageIndex, scores: Scores) -> None:
        """Curves of the most frequent labels and images with what was found in them, for TensorBoard."""
        if not self.config.runtime.tensorboard:
            return
        self.tracker.precision_recall("val/all_labels", scores.scores, scores.targets, step)
        support = (scores.targets == 1).sum(axis=0)
        for column in np.argsort(-support, kind="stable")[:5]:
            label = index.labels.names[column]
            self.tracker.precision_recall(f"val/{label}", scores.scores[:, column], scores.targets[:, column], step)
        self.tracker.image("val/predictions", image_sheets.predictions_sheet(index, scores, self.size), step)

    @contextmanager
    def thresholds(self, scores: Scores | None, labels: LabelSpace) -> Iterator[None]:
        """Around the saving of the best weights so far, whose scores of val these are: thresholds tuned on them.

        Those of earlier weights go first, so that none ever lie beside weights that they do not belong to. Nothing is
        written of images with one label each, nor where there are no scores: on all but the main process.
        """
        path = self.folder / thresholds.FILE
        path.unlink(missing_ok=True)
        yield
        if scores is not None and not build.is_single_label(self.config):
            thresholds.write_tuned(path, labels, scores.scores, scores.targets, self.config.protocol.threshold)

    def result(self, step: int, record: Mapping[str, Any], index: ImageIndex, scores: Scores, result: Result) -> None:
        """The end of a run: the figures on the test split, by class, and a sheet of predictions."""
        self.tracker.record("test", step, record)
        write_per_class(self.folder / "per_class_ap.csv", result, scores, index.labels)
        sheet = image_sheets.predictions_sheet(index, scores, self.size)
        image_sheets.save_image(self.folder / "images" / "predictions.png", sheet)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
