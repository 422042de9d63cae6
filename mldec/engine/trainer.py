"""The training loop.

`Trainer.fit` is a run and `Trainer.train_step` one update of the weights: what happens, in the order in which it
happens. Everything random is a function of the seed and the step, and all else that a step depends on is in the
checkpoint; so a resumed run is the same run.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mldec.config import Config
from mldec.data.loader import Batch, EvalLoader, WorkerDied
from mldec.engine import build, run_state, thresholds
from mldec.engine.checkpoint import refuse_damaged, restore, save_checkpoint
from mldec.engine.device import autocast, choose_device, choose_precision, prepare_runtime
from mldec.engine.display import Display
from mldec.engine.distributed import ALONE, ProcessGroup
from mldec.engine.evaluator import Result, Scores, compute_metrics, compute_scores, headline
from mldec.engine.interrupt import Interrupted, stop_on_interrupt
from mldec.engine.mixing import answer_random_queries, mix
from mldec.engine.observer import Observer
from mldec.engine.optimizer import set_point
from mldec.engine.profiler import profile_steps
from mldec.engine.run_state import Progress
from mldec.engine.seeding import seed_device, seed_everything, step_seed
from mldec.errors import ConfigError, RunError, is_out_of_memory
from mldec.models.classifier import Classifier
from mldec.models.label_embeddings import LabelEmbeddings

MOST_SKIPPED = 50  # of steps in a row under fp16: far more than the scale needs to find its place


class Trainer:
    """One run: the objects that a Config describes, and the loop over them.

    Args:
        config: the experiment, validated.
        splits: its images.
        display: where progress is shown.
        fresh: take the weights that the config starts from; False for a run that `load` continues.
        label_embeddings: vectors of the labels, where the head uses any; None: from where the config says.
        group: the processes that share the run; all make a Trainer and call the same methods.

    Raises:
        ConfigError: what the config asks for does not fit the labels, the images or this machine.
        CheckpointError: weights to start from cannot be loaded.
    """

    def __init__(
        self,
        config: Config,
        splits: build.Splits,
        display: Display,
        *,
        fresh: bool = True,
        label_embeddings: LabelEmbeddings | None = None,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.config, self.splits, self.display, self.group = config, splits, display, group
        self.device = choose_device(config.runtime.device, group.local_rank if group.size > 1 else None)
        self.dtype = choose_precision(config.runtime.precision, self.device)
        self.memory_format = torch.channels_last if config.runtime.channels_last else torch.contiguous_format
        self.single_label = build.is_single_label(config)
        self.headline = headline(config.protocol, splits.labels, single_label=self.single_label)
        prepare_runtime(config.runtime, self.device)
        seed_everything(config.seed)

        make = build.build_classifier if fresh else build.build_bare_classifier
        self.classifier = make(config, splits.labels, label_embeddings)
        if loaded := getattr(self.classifier.backbone, "loaded", None):
            display.say(str(loaded))
        if fresh and config.init_from is not None:
            display.say(run_state.start_from(self.classifier, config.init_from, config.init_part))
        if config.runtime.sync_batch_norm and group.size > 1:
            if self.device.type != "cuda":
                raise ConfigError(
                    f"runtime.sync_batch_norm=true needs CUDA devices, found {self.device.type}; leave it out"
                )
            self.classifier = nn.SyncBatchNorm.convert_sync_batchnorm(self.classifier)
        self.classifier.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        # Parameters are shared: these forms are how the classifier is called in training, never how it is saved.
        self.network = group.parallel(self.classifier, self.device)
        self.network = cast(nn.Module, torch.compile(self.network)) if config.runtime.compile else self.network
        self.ema = build.build_ema(config, self.classifier)
        self.normalization = build.build_normalization(self.classifier)
        self.loss = build.build_loss(config)
        self.batches = build.build_train_loader(config, splits.train, self.device, group)
        self.val_batches = build.build_eval_loader(config, splits.val, self.device, group)
        self.schedule = build.build_schedule(config, len(self.batches))
        self.optimizer = build.build_optimizer(config, self.classifier)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress()
        self.skipped = 0  # steps in a row
        self.pending: list[Tensor] = []  # losses that are still on the device

    # The run ----------------------------------------------------------------------------------------------------------

    def fit(self, folder: Path) -> dict[str, Any]:
        """Train to the end of the schedule, then report the chosen weights on the test split. Returns that record.

        Writes to the run folder `folder`. Raises Interrupted after Ctrl-C and RunError where training cannot go on;
        what was saved before stays.
        """
        self.folder = folder
        self.observer = Observer(
            folder,
            self.config,
            self.display,
            headline=self.headline,
            total_steps=len(self.batches) * self.config.schedule.epochs,
            step=self.progress.step,
            evaluations=self.progress.epochs,
            processes=self.group.size,
        )
        try:
            with stop_on_interrupt() as self.stop, self._saved():
                self._forget_lost_best()
                if self.progress.step == 0:
                    self.save("last")
                    self.observer.data(self.splits.train, self.batches.first())
                while self.progress.epochs < self.config.schedule.epochs:
                    self.train_epoch()
                    self.finish_epoch()
                return self.report()
        finally:
            self.observer.close()

    def train_epoch(self) -> None:
        """The steps of this epoch that have not been made yet."""
        progress, runtime, steps = self.progress, self.config.runtime, len(self.batches)
        epoch, done = progress.epochs, progress.step - progress.epochs * steps
        self.network.train()
        with (
            self.observer.progress(f"epoch {epoch + 1}/{self.config.schedule.epochs}", steps, done) as bar,
            profile_steps(self.folder, enabled=runtime.profile) as profiler,
        ):
            for batch in self.observer.throughput.waiting(self.batches.batches(epoch, start=done)):
                self.pending.append(self.train_step(batch))
                progress.step += 1
                progress.broken += len(batch.broken)
                self.observer.broken(batch.broken)
                profiler.step()
                ends = progress.step == (epoch + 1) * steps
                recorded = ends or progress.step % runtime.log_every == 0
                stops = self._stops()
                saved = stops or progress.step % (runtime.checkpoint_every or math.inf) == 0
                if recorded or saved or self.device.type == "cpu":  # elsewhere reading the loss waits for the device
                    self._read_losses()
                if recorded:
                    self._record_window(epoch + 1)
                if stops:
                    raise Interrupted
                if saved:
                    self.save("last")
                bar.advance()

    def train_step(self, batch: Batch) -> Tensor:
        """One update from one batch, in `schedule.accumulate` parts. Returns the loss, a scalar on the device."""
        step, rank = self.progress.step, self.group.rank
        seed_device(self.device, step_seed(self.config.seed, step, rank))  # dropout and drop-path
        mixing = torch.Generator().manual_seed(step_seed(self.config.seed, step, rank, mixing=True))
        set_point(self.optimizer, self.schedule(self.progress.updates))

        total = torch.zeros((), device=self.device)
        for images_u8, labels, weight, exchange in self._parts(batch):
            images = self.normalization(images_u8).contiguous(memory_format=self.memory_format)
            mixup, cutmix = self.config.augment.mixup, self.config.augment.cutmix
            images, targets, known = mix(images, labels, mixup=mixup, cutmix=cutmix, generator=mixing)
            with exchange:
                with autocast(self.device, self.dtype):
                    logits = self.network(images)
                targets, known = answer_random_queries(targets, known, logits.shape[1])
                loss = self.loss(logits, targets, known) * weight
                # The process group's gradients are averaged; what is wanted is their sum.
                self.scaler.scale(loss * self.group.size).backward()
            total += loss.detach()
        self.group.all_reduce(total)

        if self.config.optimizer.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.classifier.parameters(), self.config.optimizer.clip_norm)
        if self._apply_gradients():
            self.progress.updates += 1
            self.skipped = 0
            if self.ema is not None:
                self.ema.update(self.classifier)
        else:
            self._count_skipped()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def finish_epoch(self) -> None:
        """Evaluate, if it is due; remember the best; save."""
        progress, epoch = self.progress, self.progress.epochs + 1
        if self._stops():
            raise Interrupted
        if progress.updates == 0:
            self.display.say("warning: no step has changed the weights: raw and EMA are still what they began with")
        metrics: dict[str, dict[str, float]] = {}
        if epoch % self.config.runtime.eval_every == 0 or epoch == self.config.schedule.epochs:
            began = time.perf_counter()
            results, scores = self._evaluate()
            metrics = self.group.broadcast({name: result.metrics for name, result in results.items()})
            reported = self._reported(metrics)
            value = metrics[reported].get(self.headline, math.nan)  # a few images may say nothing of it
            if progress.best_epoch == 0 or value > progress.best or math.isnan(progress.best):
                progress.best, progress.best_epoch = value, epoch
                with self.observer.thresholds(scores.get(reported), self.splits.labels):
                    self.save("best", reported=reported, metrics=metrics)
            seconds = time.perf_counter() - began
            self.observer.epoch(
                progress.step,
                epoch,
                progress.epoch_loss,
                metrics,
                reported=reported,
                best=progress.best,
                seconds=seconds,
            )
        progress.epochs, progress.epoch_losses = epoch, []
        self.save("last", metrics=metrics)

    def report(self) -> dict[str, Any]:
        """Score the best epoch's weights on the test split, as they come back from their checkpoint."""
        best = self.group.broadcast(restore(self.folder) if self.group.is_main else None)
        assert best is not None  # the main process's
        test_batches = build.build_eval_loader(self.config, self.splits.test, self.device, self.group)
        scores = self._scores(best.classifier.to(self.device), test_batches, "test")
        result = self.group.broadcast(self._metrics(scores) if self.group.is_main else None)
        assert result is not None
        record = {
            "protocol": self.config.protocol.name,
            "epoch": best.step // len(self.batches),  # that of these weights, whatever was the best once
            "weights": best.weights,
            **result.metrics,
        }
        if self.group.is_main:
            self.observer.result(self.progress.step, record, self.splits.test, scores, result)
        return record

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def _forget_lost_best(self) -> None:
        """Compare epochs anew where the weights of the best one so far are gone, and say so: no result is theirs."""
        progress = self.progress
        lost = None
        if progress.best_epoch > 0 and self.group.is_main:
            step = progress.best_epoch * len(self.batches)
            lost = run_state.lost_best(self.folder, step)
        lost = self.group.broadcast(lost)
        if lost is None:
            return
        remaining = self.config.schedule.epochs - progress.epochs
        then = "the best of the epochs from now on takes its place" if remaining else "the last epoch takes its place"
        self.display.say(f"warning: {lost}: the weights of the best epoch, {progress.best_epoch}, are lost; {then}")
        progress.best, progress.best_epoch = -math.inf, 0
        if self.group.is_main:
            (self.folder / thresholds.FILE).unlink(missing_ok=True)  # tuned for the weights that are lost
            best = self.folder / "checkpoints" / "best.pt"
            if not remaining and best.exists():  # else the next epoch replaces it
                best.replace(best.with_name("best.pt.unusable"))

    def save(self, name: str, *, reported: str | None = None, metrics: dict[str, Any] | None = None) -> None:
        """Write `checkpoints/<name>.pt`; `last` also holds what resuming needs. The main process's part of a process group.

        Raises RunError if the weights are damaged, or the file cannot be written.
        """
        refuse_damaged(self.classifier.state_dict(), self.progress.step)
        if self.group.is_main:
            self.observer.tracker.sync()
            content = run_state.contents(self, resumable=name == "last", reported=reported, metrics=metrics)
            save_checkpoint(self.folder / "checkpoints" / f"{name}.pt", content)

    def load(self, run: str | Path) -> None:
        """Take up the state that `last.pt` of a run folder holds. Raises CheckpointError if it is of another run."""
        run_state.load_state(self, run)

    # Parts of a step --------------------------------------------------------------------------------------------------

    def _parts(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, float, contextlib.AbstractContextManager[object]]]:
        """Images and targets of each part on the device, what its loss counts, and the context for its gradients: the
        group exchanges them after the last part."""
        parts, alone = self.config.schedule.accumulate, self.group.size == 1
        images, targets = batch.images.chunk(parts), batch.targets.chunk(parts)
        # Where there are fewer images than processes, some have none of their own, and count for nothing.
        total, own = (
            (len(batch.ids),) * 2 if alone else self.batches.num_images_of(self.progress.step % len(self.batches))
        )
        for number, (some, labels) in enumerate(zip(images, targets, strict=True), start=1):
            weight = len(some) / total if self.config.loss.reduction == "mean" else 1.0
            waits = not alone and number < len(images)
            exchange = cast(Any, self.network).no_sync() if waits else contextlib.nullcontext()
            some, labels = (part.to(self.device, non_blocking=True) for part in (some, labels))
            yield some, labels, weight if own else 0.0, exchange

    def _apply_gradients(self) -> bool:
        """Whether the optimizer stepped: under fp16 it does not where a gradient overflowed."""
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before

    def _count_skipped(self) -> None:
        """Refuse to go on where no gradient fits fp16 any more, which the scaler would skip for ever."""
        self.skipped += 1
        if self.skipped == MOST_SKIPPED:
            raise RunError(
                f"{MOST_SKIPPED} steps in a row changed no weight: their gradients are not finite in fp16, whatever "
                f"the scale (now {self.scaler.get_scale():g}). Use runtime.precision=bf16 or fp32, or a lower "
                f"schedule.max_lr than {self.config.schedule.max_lr:g}"
            )

    def _stops(self) -> bool:
        """Whether one of the processes was asked to stop; all must ask, and all get the same answer. A request that
        comes while they do is left for the next time."""
        if not self.group.any(self.stop.requested):
            return False
        self.stop.requested = True
        if self.group.any(self.stop.preempted):
            self.stop.preempted = True
        return True

    @contextlib.contextmanager
    def _saved(self) -> Iterator[None]:
        """Save where the run is asked to stop, and where it loses a loader process: both are found out between two
        steps. Still within `stop_on_interrupt`: the request may come several times, and the next must not end the
        saving."""
        try:
            yield
        except Interrupted:
            self.save("last")
            raise
        except WorkerDied as error:
            if self.group.size > 1:  # the others are not at this place
                raise
            if self.pending:
                self._read_losses()
            self.save("last")
            self.stop.check()
            raise WorkerDied(f"{error}. Saved at step {self.progress.step}: resume={self.folder} continues") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(self._out_of_memory()) from error

    def _read_losses(self) -> None:
        """Bring pending losses to the host and refuse to go on with one that is not finite."""
        values = torch.stack(self.pending).tolist()
        self.pending.clear()
        for step, value in enumerate(values, start=self.progress.step - len(values) + 1):
            if not math.isfinite(value):
                raise RunError(
                    f"the loss is {value} at step {step}. Try a lower schedule.max_lr than "
                    f"{self.config.schedule.max_lr:g}, optimizer.clip_norm=1, or runtime.precision=fp32; the last "
                    "checkpoint is from before"
                )
        self.progress.window += values

    def _record_window(self, epoch: int) -> None:
        progress = self.progress
        loss = sum(progress.window) / len(progress.window)
        progress.epoch_losses += progress.window
        progress.window = []
        extra: dict[str, float] = {}
        if self.scaler.is_enabled():
            extra = {"scale": self.scaler.get_scale(), "skipped": progress.step - progress.updates}
        if progress.broken:
            extra["broken"] = progress.broken
        self.observer.window(progress.step, epoch, loss, self.schedule(max(0, progress.updates - 1)).lr, extra)

    def _out_of_memory(self) -> str:
        schedule = self.config.schedule
        return (
            f"out of memory on {self.device} at step {self.progress.step + 1}. Lower "
            f"schedule.batch_size={schedule.batch_size}, raise schedule.accumulate={schedule.accumulate} (the same "
            f"batch in smaller parts), lower dataset.image_size={build.image_size(self.config)}, use "
            "runtime.precision=bf16, or fewer head.num_groups"
        )

    # Evaluation -------------------------------------------------------------------------------------------------------

    def _evaluate(self) -> tuple[dict[str, Result], dict[str, Scores]]:
        """Metrics and scores on val of the raw weights and, where there is one, of their average; the main process's."""
        results: dict[str, Result] = {}
        found: dict[str, Scores] = {}
        networks = {"raw": self.classifier if self.group.size > 1 else cast(Classifier, self.network)}
        if self.ema is not None:
            networks["ema"] = cast(Classifier, self.ema.module)
        for name, network in networks.items():
            self.group.sync_buffers(network.buffers())  # statistics of batch norm are each process's own
            scores = self._scores(network, self.val_batches, f"val {name}")
            if self.group.is_main:
                results[name], found[name] = self._metrics(scores), scores
        if self.group.is_main:
            self.observer.predictions(self.progress.step, self.splits.val, scores)
        return results, found

    def _scores(self, network: Classifier, batches: EvalLoader, what: str) -> Scores:
        """Scores for all labels, also for those that are not trained."""
        with self.observer.progress(what, len(batches)) as bar, network.querying(self.splits.labels.names):
            rounds = itertools.count(1)

            def on_batch(count: int) -> None:
                bar.advance()
                if next(rounds) <= batches.common and self._stops():
                    raise Interrupted

            return compute_scores(
                network,
                batches,
                self.normalization,
                device=self.device,
                dtype=self.dtype,
                softmax=build.uses_softmax(self.config),
                memory_format=self.memory_format,
                num_images=batches.num_images,
                on_batch=on_batch,
                group=self.group,
            )

    def _metrics(self, scores: Scores) -> Result:
        seen = self.splits.labels.seen
        return compute_metrics(scores, self.config.protocol, seen=seen, single_label=self.single_label)

    def _reported(self, metrics: dict[str, dict[str, float]]) -> str:
        """Which weights the protocol reports: the average where there is one, the raw ones, or the better of both."""
        if "ema" not in metrics or self.config.protocol.report == "raw":
            return "raw"
        if self.config.protocol.report == "ema":
            return "ema"
        return max(("raw", "ema"), key=lambda name: metrics[name].get(self.headline, math.nan))
