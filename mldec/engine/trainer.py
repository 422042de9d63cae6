"""The training loop.

`Trainer.fit` is a run, `Trainer.train_step` one update of the weights. Everything random is a function of the seed and
the step, and everything else that a step depends on is in the checkpoint (`TrainState`). A resumed run is therefore the
same run, bit for bit on the CPU.
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
from mldec.engine import build, checkpoint
from mldec.engine.checkpoint import Restored, StoredCheckpoint
from mldec.engine.config_properties import uses_cooccurrence, uses_softmax
from mldec.engine.data_splits import Splits
from mldec.engine.device import autocast, choose_device, choose_precision, prepare_runtime
from mldec.engine.display import Display
from mldec.engine.distributed import SINGLE_PROCESS, ProcessGroup
from mldec.engine.evaluator import Result, Scores, compute_metrics, compute_scores, f1_at_tuned, main_metric
from mldec.engine.inference import ImageScorer
from mldec.engine.interrupt import Interrupted, stop_on_interrupt
from mldec.engine.mixing import answer_random_queries, mix
from mldec.engine.observer import Observer
from mldec.engine.optimizer import apply_schedule
from mldec.engine.profiler import profile_steps
from mldec.engine.run_directory import checkpoint_path, run_directory_of
from mldec.engine.seeding import seed_device, seed_everything, step_seed
from mldec.engine.thresholds import LabelThresholds, tune_thresholds
from mldec.engine.token_cache import TokenCache
from mldec.engine.train_state import TrainState
from mldec.errors import CheckpointError, ConfigError, RunError, first_lines, is_out_of_memory, option
from mldec.models.classifier import Classifier
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.tokens import HeadOutput

MAX_SKIPPED = 50  # consecutive steps skipped under fp16: the loss scale adapts within far fewer
SHOWN_LINES = 6  # of torch's message about a state that does not fit


class Trainer:
    """One run: the objects that a Config describes, and the loop over them.

    Args:
        config: the experiment, validated.
        splits: its images.
        display: where progress is shown.
        fresh: initialise the weights as the config says; False for a run that `load` resumes.
        label_embeddings: embeddings of the labels, if the head uses any; None: from the source that the config names.
        group: the processes that share the run; each makes a Trainer and calls the same methods.

    Raises:
        ConfigError: the config does not fit the labels, the images or this machine.
        CheckpointError: initial weights cannot be loaded.
    """

    def __init__(
        self,
        config: Config,
        splits: Splits,
        display: Display,
        *,
        fresh: bool = True,
        label_embeddings: LabelEmbeddings | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.config, self.splits, self.display, self.group = config, splits, display, group
        self.device = choose_device(config.runtime.device, group.local_rank if group.size > 1 else None)
        self.dtype = choose_precision(config.runtime.precision, self.device)
        self.memory_format = torch.channels_last if config.runtime.channels_last else torch.contiguous_format
        self.single_label = config.dataset.single_label
        self.main_metric = main_metric(config.protocol, splits.labels, single_label=self.single_label)
        prepare_runtime(config.runtime, self.device)
        seed_everything(config.seed)

        model = self._build_model(fresh, label_embeddings)
        # How the model is called in training. Parameters are shared; checkpoints hold those of the bare model.
        self.network = group.parallel(model, self.device)
        self.network = cast(nn.Module, torch.compile(self.network)) if config.runtime.compile else self.network
        self._use_normalization(model)
        self.loss = build.build_loss(config, splits.train).to(self.device)
        ema = build.build_ema(config, model)
        self.batches = build.build_train_loader(config, splits.train, self.device, group)
        self.val_batches = build.build_eval_loader(config, splits.val, self.device, group)
        self.schedule = build.build_schedule(config, len(self.batches))
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.state = TrainState(model, ema, build.build_optimizer(config, model), scaler, self.loss)
        self.tokens: TokenCache | None = None  # that `fit` reads in place of images
        self.skipped = 0  # consecutive steps without an update
        self.pending: list[Tensor] = []  # losses that are still on the device

    def _use_normalization(self, model: Classifier) -> None:
        normalization, softmax = build.build_normalization(model), uses_softmax(self.config)
        self.scorer = ImageScorer(normalization, self.device, self.dtype, softmax, self.memory_format)

    def _use_tokens(self) -> None:
        """From here on read the tokens of all images in place of these, after computing those that are missing."""
        self.tokens = TokenCache(self.config, self.splits, self.state.model, self.scorer, self.group)
        self.display.say(self.tokens.describe())
        if not self.tokens.fill(self.display.counted, self._should_stop):
            raise Interrupted
        self.batches, self.val_batches = self.tokens.train_loader(), self.tokens.eval_loader("val")
        self.scorer = self.tokens.scorer

    def _build_model(self, fresh: bool, label_embeddings: LabelEmbeddings | None) -> Classifier:
        config = self.config
        counts = self.splits.train.cooccurrence() if fresh and uses_cooccurrence(config) else None
        model = build.build_classifier(
            config, self.splits.labels, label_embeddings, cooccurrence=counts, pretrained=fresh
        )
        if loaded := getattr(model.backbone, "loaded", None):
            self.display.say(str(loaded))
        if fresh and config.init_from is not None:
            adopt = config.backbone.normalize == "auto" and not config.backbone.pretrained
            self.display.say(
                checkpoint.init_weights(
                    model, config.init_from, config.init_part, network=config.backbone.network, adopt=adopt
                )
            )
        if config.runtime.sync_batch_norm and self.group.size > 1:
            if self.device.type != "cuda":
                raise ConfigError(
                    f"runtime.sync_batch_norm=true needs CUDA devices, found {self.device.type}; leave it out"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    # The run ----------------------------------------------------------------------------------------------------------

    def fit(self, run_dir: Path) -> dict[str, Any]:
        """Train to the end of the schedule, then evaluate the best epoch's weights on the test split.

        The main process writes to `run_dir`; the other processes write nothing.

        Returns:
            The test record: protocol, epoch, weights ("raw" or "ema") and the metrics.

        Raises:
            Interrupted: after Ctrl-C or a signal of the scheduler; the current step is saved.
            RunError: training cannot continue; earlier checkpoints are kept.
        """
        self.run_dir = run_dir
        self.observer = Observer(
            run_dir if self.group.is_main else None,
            self.config,
            self.display,
            main_metric=self.main_metric,
            total_steps=len(self.batches) * self.config.schedule.epochs,
            progress=self.state.progress,
            processes=self.group.size,
        )
        # Errors are handled within stop_on_interrupt: a second signal must not end the saving of the first.
        with stop_on_interrupt() as self.stop:
            try:
                return self._run()
            except Interrupted:
                self.save_last()
                raise
            except WorkerDied as error:
                self._save_after_worker_died(error)
                raise
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise RunError(self._out_of_memory()) from error
            finally:
                self.observer.close()

    def _run(self) -> dict[str, Any]:
        progress = self.state.progress
        self._discard_lost_best()
        if progress.step == 0:
            self.save_last()
            self.observer.data(self.splits.train, self.batches.first())
        if self.config.cache.tokens:
            self._use_tokens()
        while progress.epochs < self.config.schedule.epochs:
            self.train_epoch()
            self.finish_epoch()
        return self.test()

    def train_epoch(self) -> None:
        """The remaining steps of the current epoch."""
        progress, runtime, steps = self.state.progress, self.config.runtime, len(self.batches)
        epoch, done = progress.epochs, progress.step - progress.epochs * steps
        self.network.train()
        with (
            self.observer.progress(f"epoch {epoch + 1}/{self.config.schedule.epochs}", steps, done) as bar,
            profile_steps(self.run_dir, enabled=runtime.profile and self.group.is_main) as profile_step,
        ):
            for batch in self.observer.throughput.timed(self.batches.batches(epoch, start=done)):
                self.pending.append(self.train_step(batch))
                progress.step += 1
                progress.broken += len(batch.broken)
                self.observer.broken(batch.broken)
                profile_step()
                is_last = progress.step == (epoch + 1) * steps
                recorded = is_last or progress.step % runtime.log_every == 0
                stops = self._should_stop()
                saved = stops or progress.step % (runtime.checkpoint_every or math.inf) == 0
                if recorded or saved or self.device.type == "cpu":  # reading the loss waits for other devices
                    self._read_losses()
                if recorded:
                    self._record_window(epoch + 1)
                if stops:
                    raise Interrupted
                if saved:
                    self.save_last()
                bar.advance()

    def train_step(self, batch: Batch) -> Tensor:
        """One optimizer step on one batch, in `schedule.accumulate` micro-batches.

        Returns the loss of the whole batch over all processes, a scalar on the device.
        """
        state, step, rank = self.state, self.state.progress.step, self.group.rank
        seed_device(self.device, step_seed(self.config.seed, step, rank))  # dropout and drop path
        mixing = torch.Generator().manual_seed(step_seed(self.config.seed, step, rank, mixing=True))
        apply_schedule(state.optimizer, self.schedule(state.progress.updates))

        mixup, cutmix = self.config.augment.mixup, self.config.augment.cutmix
        total = torch.zeros((), device=self.device)
        for images_u8, labels, rows, weight, sync in self._micro_batches(batch):
            inputs, targets, known = self.scorer.prepare(images_u8), labels, labels >= 0
            if mixup or cutmix:
                inputs, targets, known = mix(inputs, labels, mixup=mixup, cutmix=cutmix, generator=mixing)
            given = None  # labels that the head is told, which the loss then leaves out
            if state.model.reads_known_labels:
                given = cast(Any, state.model.head).draw_known(labels, mixing)
                known = known & (given < 0)
            with sync:
                with autocast(self.device, self.dtype):
                    output = self.network(inputs) if given is None else self.network(inputs, given)
                logits, details = output if isinstance(output, HeadOutput) else (output, {})
                targets, known = answer_random_queries(targets, known, logits.shape[1])
                loss = self.loss(logits, targets, known, rows=rows, step=step, details=details) * weight
                # DistributedDataParallel averages gradients over the processes; the batch needs their sum.
                state.scaler.scale(loss * self.group.size).backward()
            total += loss.detach()
        self.group.all_reduce(total)

        if self.config.optimizer.clip_norm is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), self.config.optimizer.clip_norm)
        if self._optimizer_step():
            state.progress.updates += 1
            self.skipped = 0
            if state.ema is not None:
                state.ema.update(state.model)
        else:
            self._count_skipped()
        state.optimizer.zero_grad(set_to_none=True)
        return total

    def finish_epoch(self) -> None:
        """Evaluate if it is due, save the weights if they are the best so far, and save the state."""
        progress, epoch = self.state.progress, self.state.progress.epochs + 1
        if self._should_stop():
            raise Interrupted
        if progress.updates == 0:
            self.display.say("warning: no step has changed the weights: raw and EMA weights are the initial ones")
        metrics: dict[str, dict[str, float]] = {}
        if epoch % self.config.runtime.eval_every == 0 or epoch == self.config.schedule.epochs:
            began = time.perf_counter()
            metrics, scores = self._evaluate()
            reported = self._reported(metrics)
            value = metrics[reported].get(self.main_metric, math.nan)  # undefined on a few images without positives
            if progress.best_epoch == 0 or value > progress.best or math.isnan(progress.best):
                progress.best, progress.best_epoch = value, epoch
                self.save_best(reported, metrics, scores.get(reported))
            self.observer.epoch(progress, epoch, metrics, reported, seconds=time.perf_counter() - began)
        progress.epochs, progress.epoch_losses = epoch, []
        self.save_last(metrics)

    def test(self) -> dict[str, Any]:
        """Evaluate best.pt, read back from disk, on the test split. Returns the test record."""
        best = self.group.from_main(lambda: checkpoint.restore(self.run_dir))
        if self.tokens is None:
            test_batches = build.build_eval_loader(self.config, self.splits.test, self.device, self.group)
        else:
            test_batches = self.tokens.eval_loader("test")
        scores = self._scores(best.classifier.to(self.device), test_batches, "test")
        result, tuned = self.group.from_main(lambda: (self._metrics(scores), self._f1_at_tuned(best, scores)))
        record = {
            "protocol": self.config.protocol.name,
            "epoch": best.step // len(self.batches),  # of these weights, in case an earlier best.pt was lost
            "weights": best.weights,
            **result.metrics,
            **tuned,
        }
        self.observer.result(self.state.progress.step, record, self.splits.test, scores, result)
        return record

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def save_last(self, metrics: dict[str, Any] | None = None) -> None:
        """Write last.pt, from which the run can be resumed. Only the main process writes.

        Raises RunError if a weight is not finite, or the file cannot be written.
        """
        ema, report = self.state.ema, self.config.protocol.report
        reported = "raw" if ema is None or report == "raw" else "ema"
        self._save("last", reported, metrics)

    def save_best(self, reported: str, metrics: dict[str, Any], val: Scores | None) -> None:
        """Write best.pt: the weights, without what resuming needs, and thresholds tuned on their scores of val.

        `reported`: "raw" or "ema", the weights whose metric is compared. Raises as `save_last`.
        """
        thresholds = None
        if val is not None and self.group.is_main and not self.single_label:
            values = tune_thresholds(val.scores, val.targets, self.config.protocol.threshold)
            thresholds = LabelThresholds(self.splits.labels, values)
        self.observer.remove_thresholds()  # of the previous best weights
        self._save("best", reported, metrics, thresholds)
        if thresholds is not None and val is not None:
            self.observer.thresholds(thresholds, val)

    def load(self, stored: StoredCheckpoint) -> None:
        """Continue from last.pt of a run.

        What a loss remembers is left behind if the run continues with another one. Raises CheckpointError if it has
        other labels, label embeddings, network, optimizer or steps per epoch, or if the state of the loss does not fit.
        """
        path, content = stored
        restart = f"start a new run with {option('init_from', run_directory_of(path))}"
        if content["labels"] != list(self.splits.labels.names):
            raise CheckpointError(f"{path} was trained on other labels than {self.config.dataset.name} has now")
        embeddings, own = checkpoint.stored_label_embeddings(content), self.state.model.label_embeddings
        if embeddings is not None and own is not None and not embeddings.equals(own):
            source = self.config.head.label_embeddings.source
            raise CheckpointError(f"{path} was trained with other label embeddings than {source} has now; {restart}")
        progress, steps = content["resume"]["progress"], len(self.batches)
        if not progress["epochs"] * steps <= progress["step"] <= (progress["epochs"] + 1) * steps:
            raise CheckpointError(
                f"{path} is at step {progress['step']} in epoch {progress['epochs'] + 1}, but an epoch now has {steps} "
                f"steps: the images or schedule.batch_size changed; {restart}"
            )
        checkpoint.set_normalization(self.state.model, content)
        self._use_normalization(self.state.model)
        try:
            same_loss = content["config"]["loss"]["name"] == self.config.loss.name
            self.state.load_state_dict(content, same_loss=same_loss)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = first_lines(error, SHOWN_LINES)
            raise CheckpointError(
                f"{path}: the training state is damaged, or of another network, optimizer or loss "
                f"({type(error).__name__}: {reason}); {restart}"
            ) from error

    def _save(
        self, name: str, reported: str, metrics: dict[str, Any] | None, thresholds: LabelThresholds | None = None
    ) -> None:
        state, progress = self.state.state_dict(), self.state.progress
        checkpoint.check_finite(state["model"], progress.step)
        if not self.group.is_main:
            return
        if name == "best":
            del state["resume"]
        self.observer.sync()  # the records of these steps reach the disk first
        chosen: dict[str, Any] = {"reported": reported, "metrics": metrics, "thresholds": thresholds}
        content = checkpoint.pack(self.config, self.splits.labels, self.state.model, step=progress.step, **chosen)
        checkpoint.save_checkpoint(checkpoint_path(self.run_dir, name), content | state)

    def _save_after_worker_died(self, error: WorkerDied) -> None:
        """Save the completed steps of a single process and raise WorkerDied with the resume command.

        Other processes of a group are at another step, so that nothing is saved.
        """
        if self.group.size > 1:
            return
        if self.pending:
            self._read_losses()
        self.save_last()
        self.stop.check()
        step = self.state.progress.step
        raise WorkerDied(f"{error}. Saved at step {step}; continue with {option('resume', self.run_dir)}") from error

    def _discard_lost_best(self) -> None:
        """Select the best epoch anew if the weights of the previous best one are missing or damaged."""
        progress = self.state.progress
        if progress.best_epoch == 0:
            return
        step = progress.best_epoch * len(self.batches)
        lost = self.group.from_main(lambda: checkpoint.describe_lost_best(self.run_dir, step))
        if lost is None:
            return
        is_over = progress.epochs >= self.config.schedule.epochs
        instead = "the last epoch is used instead" if is_over else "the best of the remaining epochs is used instead"
        self.display.say(f"warning: {lost}: the weights of the best epoch, {progress.best_epoch}, are lost; {instead}")
        progress.best, progress.best_epoch = -math.inf, 0
        if self.group.is_main:
            self.observer.remove_thresholds()
            best = checkpoint_path(self.run_dir, "best")
            if is_over and best.exists():  # otherwise the next epoch replaces it
                best.replace(best.with_name("best.pt.unusable"))

    # Parts of a step --------------------------------------------------------------------------------------------------

    def _micro_batches(
        self, batch: Batch
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, float, contextlib.AbstractContextManager[object]]]:
        """For each micro-batch: images, targets and rows of the index on the device, the weight of its loss, and the
        context of its backward pass. Gradients are only exchanged between processes after the last micro-batch."""
        parts, is_single = self.config.schedule.accumulate, self.group.size == 1
        chunks = [tensor.chunk(parts) for tensor in (batch.images, batch.targets, batch.ids)]
        # A last batch with fewer images than processes leaves some without images: they get a copy of weight 0.
        total, own = (
            (len(batch.ids),) * 2
            if is_single
            else self.batches.num_images_of(self.state.progress.step % len(self.batches))
        )
        for number, tensors in enumerate(zip(*chunks, strict=True), start=1):
            weight = len(tensors[0]) / total if self.config.loss.reduction == "mean" else 1.0
            waits = not is_single and number < len(chunks[0])
            sync = cast(Any, self.network).no_sync() if waits else contextlib.nullcontext()
            part, labels, rows = (tensor.to(self.device, non_blocking=True) for tensor in tensors)
            yield part, labels, rows, weight if own else 0.0, sync

    def _optimizer_step(self) -> bool:
        """Whether the optimizer changed the weights: under fp16 the scaler skips steps whose gradients overflow."""
        scaler = self.state.scaler
        before = scaler.get_scale()
        scaler.step(self.state.optimizer)
        scaler.update()
        return scaler.get_scale() >= before

    def _count_skipped(self) -> None:
        """Raise RunError if no loss scale makes the gradients finite: the scaler would skip every further step."""
        self.skipped += 1
        if self.skipped == MAX_SKIPPED:
            raise RunError(
                f"{MAX_SKIPPED} steps in a row changed no weight: their gradients are not finite in fp16 at any loss "
                f"scale (now {self.state.scaler.get_scale():g}). Use runtime.precision=bf16 or fp32, or a lower "
                f"schedule.max_lr than {self.config.schedule.max_lr:g}"
            )

    def _should_stop(self) -> bool:
        """Whether any process received a signal to stop. A collective call: all processes get the same answer.

        A signal that arrives during the call counts at the next one.
        """
        if not self.group.any(self.stop.requested):
            return False
        self.stop.requested = True
        if self.group.any(self.stop.preempted):
            self.stop.preempted = True
        return True

    def _read_losses(self) -> None:
        """Copy pending losses to the host. Raises RunError if one is not finite."""
        progress = self.state.progress
        values = torch.stack(self.pending).tolist()
        self.pending.clear()
        for step, value in enumerate(values, start=progress.step - len(values) + 1):
            if not math.isfinite(value):
                raise RunError(
                    f"the loss is {value} at step {step}. Try a lower schedule.max_lr than "
                    f"{self.config.schedule.max_lr:g}, optimizer.clip_norm=1, or runtime.precision=fp32; the last "
                    "checkpoint is from an earlier step"
                )
        progress.window += values

    def _record_window(self, epoch: int) -> None:
        progress, scaler = self.state.progress, self.state.scaler
        loss = sum(progress.window) / len(progress.window)
        progress.epoch_losses += progress.window
        progress.window = []
        extra: dict[str, float] = {}
        if scaler.is_enabled():
            extra = {"scale": scaler.get_scale(), "skipped": progress.step - progress.updates}
        if progress.broken:
            extra["broken"] = progress.broken
        self.observer.window(progress.step, epoch, loss, self.schedule(max(0, progress.updates - 1)).lr, extra)

    def _out_of_memory(self) -> str:
        schedule = self.config.schedule
        return (
            f"out of memory on {self.device} at step {self.state.progress.step + 1}. Lower "
            f"schedule.batch_size={schedule.batch_size}, raise schedule.accumulate={schedule.accumulate} (the same "
            f"batch in smaller parts), lower dataset.image_size={self.config.dataset.image_size}, use "
            "runtime.precision=bf16, or fewer head.num_groups"
        )

    # Evaluation -------------------------------------------------------------------------------------------------------

    def _evaluate(self) -> tuple[dict[str, dict[str, float]], dict[str, Scores]]:
        """Metrics on val of the raw and, if any, the EMA weights, and, on the main process, their scores."""
        metrics: dict[str, dict[str, float]] = {}
        found: dict[str, Scores] = {}
        networks = {"raw": self.state.model if self.group.size > 1 else cast(Classifier, self.network)}
        if self.state.ema is not None:
            networks["ema"] = cast(Classifier, self.state.ema.module)
        for name, network in networks.items():
            self.group.sync_buffers(network.buffers())  # each process has its own batch norm statistics
            scores = self._scores(network, self.val_batches, f"val {name}")
            if self.group.is_main:
                metrics[name], found[name] = self._metrics(scores).metrics, scores
        if self.group.is_main:
            self.observer.predictions(self.state.progress.step, self.splits.val, scores)
        return self.group.broadcast(metrics), found

    def _scores(self, network: Classifier, batches: EvalLoader, description: str) -> Scores:
        """Scores of all labels, including those that are not trained."""
        with self.observer.progress(description, len(batches)) as bar, network.querying(self.splits.labels.names):
            rounds = itertools.count(1)

            def on_batch(count: int) -> None:
                bar.advance()
                if next(rounds) <= batches.common and self._should_stop():  # batches that every process has
                    raise Interrupted

            return compute_scores(
                network, self.scorer, batches, num_images=batches.num_images, on_batch=on_batch, group=self.group
            )

    def _metrics(self, scores: Scores) -> Result:
        seen = self.splits.labels.seen
        return compute_metrics(scores, self.config.protocol, seen=seen, single_label=self.single_label)

    def _f1_at_tuned(self, best: Restored, scores: Scores) -> dict[str, float]:
        """`CF1_tuned` and `OF1_tuned` at the thresholds that were tuned on val; nothing where there are none."""
        if best.thresholds is None or self.single_label:
            return {}
        found = f1_at_tuned(scores, best.thresholds.of(self.splits.labels, self.config.protocol.threshold))
        return {f"{name}_tuned": value for name, value in found.items()}

    def _reported(self, metrics: dict[str, dict[str, float]]) -> str:
        """The weights whose metrics the protocol reports: raw, EMA, or the better of both."""
        if "ema" not in metrics:
            return "raw"
        if self.config.protocol.report in metrics:
            return self.config.protocol.report
        return max(("raw", "ema"), key=lambda name: metrics[name].get(self.main_metric, math.nan))
