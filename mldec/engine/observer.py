"""What a run reports: records, curves and images in its directory, progress and a table of epochs on the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.data.loader import Batch
from mldec.engine import image_sheets, thresholds
from mldec.engine.display import Bar, Display
from mldec.engine.evaluator import Result, Scores, write_per_class
from mldec.engine.metric_writer import MetricWriter
from mldec.engine.thresholds import LabelThresholds
from mldec.engine.train_state import Progress
from mldec.errors import printable_name

SHOWN_BROKEN = 5


class Observer:
    """Writes what the trainer measures to the run directory and the terminal.

    Args:
        run_dir: the run directory; None on processes other than the main one, which write nothing.
        config: the experiment.
        display: the terminal.
        main_metric: the metric by which epochs are compared.
        total_steps: of the whole run.
        progress: where the run begins or resumes.
        processes: number of processes that train together; the displayed speed is that of all of them.
    """

    def __init__(
        self,
        run_dir: Path | None,
        config: Config,
        display: Display,
        *,
        main_metric: str,
        total_steps: int,
        progress: Progress,
        processes: int = 1,
    ) -> None:
        self.run_dir, self.config, self.display, self.total_steps = run_dir, config, display, total_steps
        self.main_metric, self.processes = main_metric, processes
        self.throughput = Throughput()
        self.bar = Bar(None, None)
        self.broken_shown = 0
        self._writer: MetricWriter | None = None
        if run_dir is not None:
            where = {"step": progress.step, "evaluations": progress.epochs}
            self._writer = MetricWriter(run_dir, tensorboard=config.runtime.tensorboard, **where)

    def sync(self) -> None:
        """Sync the records to disk."""
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()

    def data(self, train: ImageIndex, first: Batch) -> None:
        """Before the first step: the frequency of each label, and a sheet of augmented images."""
        if self._writer is None or self.run_dir is None:
            return
        self._writer.label_histogram("labels/train", train.positives_per_class())
        sheet = image_sheets.batch_sheet(first, train.labels)
        image_sheets.save_image(self.run_dir / "images" / "training.png", sheet)
        self._writer.image("train/augmented", sheet, 0)

    @contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A progress bar over a part of the run."""
        with self.display.bar(what, total, done) as self.bar:
            yield self.bar

    def broken(self, messages: Sequence[str]) -> None:
        """Name images that could not be decoded: the first few of a run. The records count all of them."""
        for message in messages:
            self.broken_shown += 1
            if self.broken_shown <= SHOWN_BROKEN:
                self.display.say(f"warning: {printable_name(message)}; another image replaces it")
            elif self.broken_shown == SHOWN_BROKEN + 1:
                self.display.say("warning: more images cannot be decoded; `mldec data verify` lists them all")

    def window(self, step: int, epoch: int, loss: float, lr: float, extra: Mapping[str, float]) -> None:
        """A train record: the steps since the previous one. `loss` is their mean."""
        speed, waiting = self.throughput.read()
        speed *= self.processes
        record = {"epoch": epoch, "loss": loss, "lr": lr, "images_per_second": speed, "data_wait": waiting}
        self._record("train", step, record | dict(extra))
        left = _clock((self.total_steps - step) * self.config.schedule.batch_size / max(speed, 1e-9))
        self.bar.advance(0, f"loss {loss:.4g} lr {lr:.1e} {speed:.0f} images/s wait {waiting:.0%} left {left}")
        self.display.line(
            f"step {step}/{self.total_steps}  epoch {epoch}  loss {loss:.4g}  lr {lr:.2e}  {speed:.0f} images/s  "
            f"waiting for data {waiting:.0%}  left {left}"
        )

    def epoch(self, progress: Progress, epoch: int, metrics: Mapping[str, Any], reported: str, seconds: float) -> None:
        """An eval record and a row of the table. `metrics` are those of the `raw` and, if any, `ema` weights."""
        loss, best = sum(progress.epoch_losses) / max(1, len(progress.epoch_losses)), progress.best
        record = {"epoch": epoch, "loss": loss, **metrics, "reported": reported, "best": best, "seconds": seconds}
        self._record("eval", progress.step, record)
        values = {name: f"{metrics[name].get(self.main_metric, math.nan):.2f}" for name in metrics}
        self.display.epoch_row(
            {
                "epoch": str(epoch),
                "loss": f"{loss:.4g}",
                f"raw {self.main_metric}": values["raw"],
                f"EMA {self.main_metric}": values.get("ema", "-"),
                f"best {self.main_metric}": f"{best:.2f}",
                "seconds": f"{seconds:.0f}",
            }
        )

    def predictions(self, step: int, index: ImageIndex, scores: Scores) -> None:
        """Precision-recall curves of the most frequent labels and a sheet of predictions, for TensorBoard."""
        if self._writer is None or not self.config.runtime.tensorboard:
            return
        self._writer.precision_recall("val/all_labels", scores.scores, scores.targets, step)
        support = (scores.targets == 1).sum(axis=0)
        for column in np.argsort(-support, kind="stable")[:5]:
            label = index.labels.names[column]
            self._writer.precision_recall(f"val/{label}", scores.scores[:, column], scores.targets[:, column], step)
        self._writer.image("val/predictions", self._predictions_sheet(index, scores), step)

    def thresholds(self, tuned: LabelThresholds, scores: Scores) -> None:
        """thresholds.csv: the thresholds that best.pt holds, with the F1 of the val scores that they were tuned on."""
        if self.run_dir is not None:
            thresholds.write_thresholds(self.run_dir / thresholds.FILE, tuned, scores.scores, scores.targets)

    def remove_thresholds(self) -> None:
        """Remove thresholds.csv of weights that are about to be replaced, or are lost."""
        if self.run_dir is not None:
            (self.run_dir / thresholds.FILE).unlink(missing_ok=True)

    def result(self, step: int, record: Mapping[str, Any], index: ImageIndex, scores: Scores, result: Result) -> None:
        """The end of a run: the test record, the table per class, and a sheet of predictions."""
        if self.run_dir is None:
            return
        self._record("test", step, record)
        write_per_class(self.run_dir / "per_class_ap.csv", result, scores, index.labels)
        sheet = self._predictions_sheet(index, scores)
        image_sheets.save_image(self.run_dir / "images" / "predictions.png", sheet)

    def _record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.record(kind, step, values)

    def _predictions_sheet(self, index: ImageIndex, scores: Scores) -> np.ndarray:
        return image_sheets.predictions_sheet(index, scores, self.config.dataset.image_size)


class Throughput:
    """Images/s and the share of time spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass `batches` on, counting their images and timing how long each was waited for."""
        self._reset()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            self._images += len(batch.ids)
            yield batch

    def read(self) -> tuple[float, float]:
        """(images/s, waiting share) and start anew."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        reading = self._images / elapsed, self._waited / elapsed
        self._reset()
        return reading

    def _reset(self) -> None:
        self._began, self._waited, self._images = time.perf_counter(), 0.0, 0


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
