"""Properties of the loop: it learns, a resumed run is the same run, and it stops in words when it cannot go on."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch

from mldec.engine import build, config_checks, data_splits
from mldec.engine.checkpoint import StoredCheckpoint, load_checkpoint, read_last, restore
from mldec.engine.display import Display
from mldec.engine.interrupt import Interrupted
from mldec.engine.metric_writer import read_records
from mldec.engine.thresholds import read_thresholds, tune_thresholds
from mldec.engine.trainer import Trainer
from mldec.errors import CheckpointError, RunError
from mldec.losses import BinaryCrossEntropy
from tests.curve import C_TRAN, SDL, SMALLER, curve, make, make_trainer, small_experiment, with_head
from tests.same import assert_same_run, assert_same_tensors, timeless

GOLDEN = Path(__file__).parent.parent / "golden"


def interrupt_at(runner: Trainer, step: int) -> None:
    """Send Ctrl-C to this process while step `step` is being made."""
    make_step = runner.train_step

    def interrupted(batch):
        if runner.state.progress.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return make_step(batch)

    runner.train_step = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("variant", "stops"),
    [
        ((), (2, 4)),  # within the first epoch, within the second
        (
            ("ema.warmup=false", "optimizer=sgd", "schedule.cycle_momentum=true", "schedule.max_lr=1e-3"),
            (3,),
        ),  # at a boundary
        (("augment.mixup=0.4", "augment.cutmix=1.0", "schedule.accumulate=2", "optimizer.clip_norm=1.0"), (5,)),
        (("schedule=timm_cosine", "schedule.warmup_epochs=1"), (2, 4)),  # one rate an epoch
        (("schedule=multi_step", "schedule.milestones=[1]", "optimizer=rmsprop", "augment=multi_scale_crop"), (2, 4)),
        # A head that is told labels at random, one with batch norm, one that gives details; a loss of counts.
        ((*C_TRAN, *SMALLER, "schedule.accumulate=2", "schedule.epochs=1"), (2,)),
        (("head=add_gcn", "head.dim=8", *SMALLER, "loss=distribution_balanced", "schedule.epochs=1"), (2,)),
        ((*SDL, *SMALLER, "loss=sdl", "schedule.epochs=1"), (2,)),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(small_digits, tmp_path, variant, stops):
    config = make(with_head(small_digits, variant))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(config).fit(whole)

    for stop in stops:
        runner = make_trainer(config)
        if (parts / "checkpoints").exists():
            runner.load(read_last(parts))
        interrupt_at(runner, stop)
        with pytest.raises(Interrupted):
            runner.fit(parts)
        assert load_checkpoint(parts / "checkpoints" / "last.pt")["step"] == stop
    runner = make_trainer(config)
    runner.load(read_last(parts))
    assert runner.state.progress.step == stops[-1]
    runner.fit(parts)

    assert_same_run(parts, whole)


def test_the_number_of_workers_changes_nothing(small_digits, tmp_path):
    for workers in (0, 1, 4):
        make_trainer(make([*small_digits, f"runtime.workers={workers}", "schedule.epochs=1"])).fit(
            tmp_path / str(workers)
        )
    ours = load_checkpoint(tmp_path / "0" / "checkpoints" / "last.pt")
    for workers in ("1", "4"):
        assert timeless(tmp_path / "0") == timeless(tmp_path / workers)
        theirs = load_checkpoint(tmp_path / workers / "checkpoints" / "last.pt")
        assert_same_tensors(ours["model"], theirs["model"])
        assert_same_tensors(ours["ema"], theirs["ema"])


def test_twenty_steps_match_the_stored_curve(digits_root):
    """A refactoring must not move the loss; tests/golden/README.md says how the curve is written anew."""
    losses = curve(digits_root)
    assert losses == pytest.approx(json.loads((GOLDEN / "loss_curve.json").read_text())["losses"], rel=2e-3)
    assert losses[-1] < losses[0] / 2


def test_accumulated_parts_make_the_step_of_the_whole_batch(digits_root):
    """Sum losses add up and mean losses are weighted, also where the last part is smaller; needs a net without batch
    norm.
    """
    for loss in ("asl", "bce"):
        weights = []
        for accumulate in (1, 4):
            config = make(
                [
                    *small_experiment(digits_root),
                    "backbone=timm",
                    "backbone.model=test_vit",
                    "head.dropout=0",
                    f"loss={loss}",
                    f"schedule.accumulate={accumulate}",
                    "optimizer=sgd",
                    "optimizer.momentum=0",
                    "schedule.max_lr=1e-3",
                ]
            )
            runner = make_trainer(config)
            runner.network.train()
            runner.train_step(next(iter(runner.batches.batches(0))))
            weights.append(torch.cat([p.detach().flatten() for p in runner.state.model.parameters()]))
        torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_bfloat16_follows_the_float32_curve(small_digits, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        make_trainer(make([*small_digits, f"runtime.precision={precision}"])).fit(tmp_path / precision)
        records = read_records(tmp_path / precision / "metrics.jsonl")
        losses[precision] = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize("option", ["runtime.channels_last=true", "runtime.deterministic=true"])
def test_memory_format_and_deterministic_kernels_change_no_result(small_digits, tmp_path, option):
    losses = []
    for name, words in (("plain", []), ("option", [option])):
        make_trainer(make([*small_digits, "schedule.epochs=1", *words])).fit(tmp_path / name)
        records = read_records(tmp_path / name / "metrics.jsonl")
        losses.append([record["loss"] for record in records if record["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_one_batch_is_learned_to_zero_loss(digits_root, tmp_path):
    words = ["debug=overfit", "schedule.epochs=4", "schedule.batch_size=16", "head.dropout=0"]
    config = make([*small_experiment(digits_root), *words])
    make_trainer(config).fit(tmp_path)
    losses = [record["loss"] for record in read_records(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert losses[-1] < 0.02 * losses[0]


class RememberingLoss(BinaryCrossEntropy):
    """Cross-entropy of logits from which a running mean of earlier ones is subtracted."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def terms(self, logits, present, weights):
        self.mean.lerp_(logits.detach().mean(), 0.5)
        return super().terms(logits - self.mean, present, weights)


def test_what_a_loss_remembers_is_resumed(small_digits, tmp_path, monkeypatch):
    config = make([*small_digits, *SMALLER, "loss=bce", "schedule.epochs=1"])
    make_trainer(config).fit(tmp_path / "plain")
    monkeypatch.setattr(build, "build_loss", lambda config, index: RememberingLoss())
    make_trainer(config).fit(tmp_path / "whole")
    runner = make_trainer(config)
    interrupt_at(runner, 2)
    with pytest.raises(Interrupted):
        runner.fit(tmp_path / "parts")
    path, stopped = read_last(tmp_path / "parts")
    assert stopped["resume"]["loss"]["mean"] == runner.loss.mean != 0
    runner = make_trainer(config)
    with pytest.raises(CheckpointError, match=r"of another network, optimizer or loss .* \"mean\""):
        runner.load(read_last(tmp_path / "plain"))  # which has no loss that remembers
    runner.load(StoredCheckpoint(path, stopped))
    runner.fit(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    monkeypatch.undo()
    assert "loss" not in read_last(tmp_path / "plain").content["resume"]
    with pytest.raises(CheckpointError, match=r"Unexpected key.* \"mean\""):
        make_trainer(config).load(read_last(tmp_path / "parts"))
    other = make_trainer(make([*small_digits, *SMALLER, "loss=distribution_balanced", "schedule.epochs=1"]))
    other.load(read_last(tmp_path / "parts"))  # of another loss nothing is taken
    assert other.loss.label_counts.tolist() == other.splits.train.positives_per_class().tolist()


@pytest.mark.parametrize("loss", ["hinge_ranking", "distribution_balanced"])
def test_losses_of_pairs_and_of_counts_train(small_digits, tmp_path, loss):
    record = make_trainer(make([*small_digits, f"loss={loss}", "augment.mixup=0.2"])).fit(tmp_path)
    assert 0 < record["mAP"] <= 100


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_images_of_one_label_are_compared_by_top_1(small_digits, tmp_path, loss):
    words = ["dataset.max_digits=1", f"loss={loss}", "loss.label_smoothing=0.1", "augment.mixup=0.2"]
    words.append("augment.cutmix=1.0")
    config = make([*small_digits, *words])
    config_checks.check_config(config)
    record = make_trainer(config).fit(tmp_path)
    assert 0 <= record["top1"] <= record["top5"] <= 100
    assert "CF1" not in record
    assert not (tmp_path / "thresholds.csv").exists()
    evaluations = [entry for entry in read_records(tmp_path / "metrics.jsonl") if entry["kind"] == "eval"]
    best = max(evaluations, key=lambda entry: entry["ema"]["top1"])
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["metrics"]["ema"]["top1"] == best["ema"]["top1"]


def test_the_run_folder_holds_what_is_promised(small_digits, tmp_path):
    config = make([*small_digits, "runtime.tensorboard=true"])
    record = make_trainer(config).fit(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "metrics.jsonl",
        "per_class_ap.csv",
        "thresholds.csv",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "images/training.png",
        "images/predictions.png",
    } <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not [name for name in names if "partial" in name]
    kinds = [entry["kind"] for entry in read_records(tmp_path / "metrics.jsonl")]
    assert kinds.count("eval") == 2
    assert kinds[-1] == "test"
    assert record["protocol"] == "standard"
    assert 0 <= record["mAP"] <= 100


def test_the_reported_weights_follow_the_protocol(small_digits, tmp_path):
    for protocol, report in (("standard", "ema"), ("paper", "better"), ("standard", "raw")):
        folder = tmp_path / f"{protocol}_{report}"
        config = make([*small_digits, f"protocol={protocol}", f"protocol.report={report}"])
        make_trainer(config).fit(folder)
        evaluations = [entry for entry in read_records(folder / "metrics.jsonl") if entry["kind"] == "eval"]
        for entry in evaluations:
            expected = {"ema": "ema", "raw": "raw"}.get(report) or max(("raw", "ema"), key=lambda w: entry[w]["mAP"])
            assert entry["reported"] == expected
        best = max(evaluations, key=lambda entry: entry[entry["reported"]]["mAP"])
        assert restore(folder).weights == best["reported"]
        assert load_checkpoint(folder / "checkpoints" / "best.pt")["metrics"]["raw"] == best["raw"]


@pytest.mark.parametrize("words", [(), ("runtime.limit_eval_batches=1", "runtime.eval_batch_size=8", "protocol=paper")])
def test_thresholds_are_tuned_on_val_for_the_weights_that_are_best(small_digits, tmp_path, words):
    """Which may be those of an earlier epoch than the last."""
    trainer = make_trainer(make([*small_digits, "schedule.epochs=3", *words]))
    evaluate, kept = trainer._evaluate, []

    def falling():
        metrics, scores = evaluate()
        kept.append(scores)
        for values in metrics.values():
            values["mAP"] = [30.0, 20.0, 10.0][len(kept) - 1] if words else 10.0 * len(kept)
        return metrics, scores

    trainer._evaluate = falling
    trainer.fit(tmp_path)
    best = restore(tmp_path)
    scores = kept[trainer.state.progress.best_epoch - 1][best.weights]
    expected = tune_thresholds(scores.scores, scores.targets, trainer.config.protocol.threshold)
    assert trainer.state.progress.best_epoch == (1 if words else 3)
    assert read_thresholds(tmp_path / "thresholds.csv", best.labels).values.tolist() == expected.tolist()


def test_thresholds_never_lie_beside_weights_that_they_do_not_belong_to(small_digits, tmp_path, monkeypatch):
    trainer = make_trainer(make(small_digits))
    save = trainer._save
    (tmp_path / "thresholds.csv").write_text("of an earlier best epoch")

    def killed(name, *content):
        save(name, *content)
        if name == "best":
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(tmp_path)
    assert (tmp_path / "checkpoints" / "best.pt").exists()
    assert not (tmp_path / "thresholds.csv").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(small_digits, tmp_path):
    runner = make_trainer(make(small_digits))
    make_step = runner.train_step

    def poisoned(batch):
        if runner.state.progress.step == 3:
            next(iter(runner.state.model.parameters())).data.fill_(math.nan)
        return make_step(batch)

    runner.train_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"the loss is nan at step 4\. .*schedule\.max_lr"):
        runner.fit(tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert kept["step"] == 3
    assert all(value.isfinite().all() for value in kept["model"].values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(small_digits, tmp_path, bad):
    """Its loss was fine, and no other step shows the damage before the weights would be saved."""
    runner = make_trainer(make([*small_digits, "runtime.checkpoint_every=1"]))
    weight = next(iter(runner.state.model.parameters()))

    def poison(gradient):
        return torch.full_like(gradient, bad) if runner.state.progress.step == 1 else gradient

    weight.register_hook(poison)
    with pytest.raises(RunError, match=r"tensors of the network are not finite after step 2 .*\.weight"):
        runner.fit(tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert kept["step"] == 1
    assert all(value.isfinite().all() for value in kept["model"].values())


def test_a_run_in_which_nothing_moved_says_so(small_digits, tmp_path, capsys):
    config = make(small_digits)
    runner = Trainer(config, data_splits.build_splits(config), Display())
    runner._optimizer_step = lambda: False  # type: ignore[method-assign]
    runner.fit(tmp_path)
    assert "no step has changed the weights: raw and EMA" in capsys.readouterr().err


def test_running_out_of_memory_says_what_to_lower(small_digits, tmp_path):
    runner = make_trainer(make(small_digits))

    def exhausted(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    runner.train_step = exhausted  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"out of memory .* step 1\..*schedule\.batch_size=32.*schedule\.accumulate=1"):
        runner.fit(tmp_path)


def test_a_skipped_step_moves_neither_the_schedule_nor_the_average(small_digits, tmp_path):
    runner = make_trainer(make(small_digits))
    runner._optimizer_step = lambda: False  # type: ignore[method-assign]
    before = [p.clone() for p in runner.state.ema.module.parameters()]
    batch = next(iter(runner.batches.batches(0)))
    runner.train_step(batch)
    runner.state.progress.step += 1
    runner.train_step(batch)
    assert runner.state.optimizer.param_groups[0]["lr"] == runner.schedule(0).lr != runner.schedule(1).lr
    assert runner.state.progress.updates == 0
    assert runner.state.ema.updates == 0
    assert all(torch.equal(a, b) for a, b in zip(before, runner.state.ema.module.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "lamb"])
def test_the_loss_scaler_skips_what_overflows_and_goes_on_after(small_digits, tmp_path, optimizer):
    """fp16 needs CUDA, but its scaler can be driven to overflow anywhere."""
    words = [f"optimizer={optimizer}", "schedule.max_lr=1e-3", "optimizer.clip_norm=10"]
    runner = make_trainer(make([*small_digits, *words]))
    runner.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1000)
    runner.fit(tmp_path)
    records = [record for record in read_records(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert runner.state.progress.step == 6
    assert runner.state.progress.updates == runner.state.ema.updates < 6
    assert records[-1]["skipped"] == 6 - runner.state.progress.updates
    assert records[-1]["scale"] == 2.0 ** (126 - records[-1]["skipped"])
    runner.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before = [p.clone() for p in runner.state.model.parameters()]
    runner.train_step(runner.batches.first())
    assert any(not torch.equal(a, b) for a, b in zip(before, runner.state.model.parameters(), strict=True))
    assert all(p.isfinite().all() for p in runner.state.model.parameters())


def test_init_from_takes_the_reported_weights_and_says_what_it_loaded(small_digits, tmp_path, capsys):
    first = make(small_digits)
    make_trainer(first).fit(tmp_path / "first")
    second = make([*small_digits, f"init_from={tmp_path / 'first'}", "head.num_groups=20"])
    runner = Trainer(second, data_splits.build_splits(second), Display())
    source = restore(tmp_path / "first").classifier
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, runner.state.model.backbone.state_dict()[name]), name
    said = capsys.readouterr().out
    assert "tensors loaded" in said
    assert "mismatched" in said


def test_a_run_of_other_labels_is_not_resumed(small_digits, tmp_path):
    make_trainer(make(small_digits)).fit(tmp_path)
    runner = make_trainer(make([*small_digits, "dataset.colours=7"]))
    with pytest.raises(CheckpointError, match="other labels"):
        runner.load(read_last(tmp_path))


def test_a_run_whose_every_step_is_skipped_ends_in_words(small_digits, tmp_path, monkeypatch):
    trainer = make_trainer(make([*small_digits, "schedule.epochs=20"]))
    monkeypatch.setattr(trainer, "_optimizer_step", lambda: False)
    with pytest.raises(RunError, match=r"50 steps in a row changed no weight: .* Use runtime\.precision=bf16"):
        trainer.fit(tmp_path)
    assert trainer.state.progress.updates == 0


def test_every_step_has_chances_of_its_own(small_digits):
    """At this rate weights stay what they are: only dropout tells two steps on one batch apart, and a step repeats."""
    trainer = make_trainer(make([*small_digits, "head.dropout=0.5", "schedule.max_lr=1e-30"]))
    trainer.network.train()
    batch = trainer.batches.first()
    found = []
    for step in (0, 1, 2, 1):
        trainer.state.progress.step = step
        found.append(float(trainer.train_step(batch)))
    assert found[1] == found[3]
    assert len(set(found)) == 3


def test_the_last_figures_are_those_of_the_test_split(small_digits, tmp_path):
    trainer = make_trainer(make([*small_digits, "schedule.epochs=1"]))
    trainer.fit(tmp_path)
    with (tmp_path / "per_class_ap.csv").open(newline="", encoding="utf-8") as file:
        positives = [int(row["positives"]) for row in csv.DictReader(file)]
    assert positives == trainer.splits.test.positives_per_class().tolist()
    assert positives != trainer.splits.val.positives_per_class().tolist()


def test_init_from_another_network_is_refused(small_digits, tmp_path):
    """Tensors of networks of one family have equal shapes, in other places."""
    make_trainer(make(small_digits)).fit(tmp_path / "first")
    overrides = [word for word in small_digits if not word.startswith("backbone.")]
    other = make([*overrides, "backbone=resnet18", "backbone.pretrained=false", f"init_from={tmp_path / 'first'}"])
    with pytest.raises(CheckpointError, match=r"its backbone is resnet_digits, this one's is resnet18"):
        make_trainer(other)


def test_init_from_leaves_the_graph_of_labels_to_each_run(small_digits, tmp_path):
    """It counts the training images of a run, which other ones may not have."""
    words = [word for word in small_digits if not word.startswith("head.")]
    words += ["head=ml_gcn", "head.label_embeddings.source=random:8", "schedule.epochs=1"]
    first = make_trainer(make([*words, "runtime.limit_train_batches=1"]))
    with torch.no_grad():
        first.state.model.head.adjacency.fill_(3.0)
        first.state.model.head.weight1.fill_(3.0)
    first.fit(tmp_path / "first")
    second = make_trainer(make([*words, f"init_from={tmp_path / 'first'}"]))
    plain = make_trainer(make([*words]))
    assert torch.equal(second.state.model.head.adjacency, plain.state.model.head.adjacency)
    assert not torch.equal(second.state.model.head.weight1, plain.state.model.head.weight1)
