"""Training on seen labels and asking for all: nothing unseen is trained or chosen on, and runs can be taken up."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mldec.engine import build, config_checks, data_splits
from mldec.engine.checkpoint import load_checkpoint, read_last, restore, save_checkpoint
from mldec.engine.evaluator import compute_metrics, compute_scores, describe, main_metric
from mldec.engine.interrupt import Interrupted
from mldec.engine.metric_writer import read_records
from mldec.engine.mixing import answer_random_queries
from mldec.engine.predictor import load
from mldec.errors import CheckpointError, ConfigError, DataError
from mldec.labels import LabelSpace
from mldec.models.label_embeddings import LabelEmbeddingsConfig
from tests.curve import make, make_trainer, small_experiment
from tests.engine.test_trainer import assert_same_tensors, interrupt_at, timeless

OVERRIDES = [
    "head=zero_shot",
    "head.fc=label_embeddings",
    "head.label_embeddings.source=random:12",
    "dataset.zero_shot=report",
    *("head.dim=32", "head.ffn_dim=32", "head.num_heads=4", "head.dropout=0.1"),
]
VARIED = ["head.query_noise=0.3", "head.random_queries=3", "head.query_cutout=0.2", "head.num_groups=20"]


@pytest.fixture(scope="module")
def zero_shot(digits_root):
    return [*small_experiment(digits_root), *OVERRIDES]


@pytest.fixture(scope="module")
def run(zero_shot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero_shot") / "run"
    trainer = make_trainer(make([*zero_shot, "schedule.epochs=1"]))
    trainer.fit(folder)
    return folder, trainer


def test_training_knows_the_seen_labels_alone(zero_shot):
    splits = data_splits.build_splits(make(zero_shot))
    assert (len(splits.train.labels), len(splits.val.labels), len(splits.test.labels)) == (64, 80, 80)
    assert splits.train.labels == splits.labels.trained()
    assert (splits.train.targets(range(96)) >= 0).all()
    assert (splits.val.targets(range(24))[:, ~np.array(splits.labels.seen)] == -1).all()
    trainer = make_trainer(make(zero_shot))
    assert next(iter(trainer.batches.batches(0))).targets.shape[1] == 64
    assert trainer.state.model.vocabulary.names == splits.train.labels.names
    assert set(trainer.state.model.vocabulary.known.names) == set(splits.labels.names)


def test_a_head_without_words_is_trained_and_evaluated_on_what_is_seen(small_digits, caplog):
    caplog.set_level("INFO")
    splits = data_splits.build_splits(make([*small_digits, "dataset.zero_shot=report"]))
    assert [len(index.labels) for index in splits] == [64, 64, 64]
    assert not splits.labels.has_unseen
    assert "cannot predict unseen labels: only seen labels are trained" in caplog.text


def test_the_epoch_is_chosen_by_the_seen_labels_unless_the_protocol_says_otherwise(run):
    folder, trainer = run
    assert trainer.main_metric == "seen_mAP"
    records = read_records(folder / "metrics.jsonl")
    val = next(record for record in records if record["kind"] == "eval")["ema"]
    assert not any(name.startswith("zsl") for name in val)  # val does not know the unseen labels
    test = records[-1]
    assert {"seen_mAP", "zsl_mAP", "zsl_chance", "gzsl_mAP", "gzsl_F1@3", "zsl_mAP_with_unseen"} <= set(test)
    assert test["gzsl_mAP"] == test["mAP"]
    labels = LabelSpace(["a", "b"], seen=[True, False])
    paper = make(["dataset=nuswide_zsl", "dataset.root=x", "protocol=paper"]).protocol
    assert main_metric(paper, labels) == "zsl_mAP"
    assert main_metric(paper, labels.trained()) == "mAP"


def test_evaluation_asks_for_all_labels_and_training_goes_on_with_its_own(run):
    folder, trainer = run
    assert trainer.state.model.vocabulary.names == trainer.splits.train.labels.names
    assert trainer.state.ema.module.vocabulary.names == trainer.splits.train.labels.names
    lines = (folder / "per_class_ap.csv").read_text().splitlines()
    assert len(lines) == 81


def test_a_checkpoint_has_the_words_and_needs_no_file_of_them(zero_shot, tmp_path):
    np.save(tmp_path / "words.npy", np.random.default_rng(0).normal(size=(80, 12)))
    config = make([*zero_shot, "schedule.epochs=1", f"head.label_embeddings.source={tmp_path / 'words.npy'}"])
    trainer = make_trainer(config)
    trainer.fit(tmp_path / "run")
    (tmp_path / "words.npy").unlink()
    restored = restore(tmp_path / "run", weights="raw", which="last")
    assert restored.labels == trainer.splits.labels
    words = restored.classifier.vocabulary
    assert words.known.equals(trainer.state.model.vocabulary.known)
    assert words.known.source == str(tmp_path / "words.npy")
    images = torch.rand(2, 3, 64, 64)
    everything = trainer.splits.labels.names
    with trainer.state.model.querying(everything), restored.classifier.querying(everything):
        assert torch.equal(restored.classifier(images), trainer.state.model.eval()(images))
    content = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert content["label_embeddings"]["names"][:64] == list(trainer.splits.train.labels.names)
    assert content["seen"] == list(trainer.splits.labels.seen)


@pytest.mark.parametrize("variant", [[], VARIED])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(zero_shot, tmp_path, variant):
    config = make([*zero_shot, *variant])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(config).fit(whole)
    runner = make_trainer(config)
    interrupt_at(runner, 4)
    with pytest.raises(Interrupted):
        runner.fit(parts)
    runner = make_trainer(config)
    runner.load(read_last(parts))
    runner.fit(parts)
    assert timeless(parts) == timeless(whole)
    ours, theirs = (load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (parts, whole))
    assert_same_tensors(ours, theirs)


def test_resuming_with_other_words_is_refused(run, zero_shot):
    folder, _ = run
    trainer = make_trainer(make([*zero_shot, "schedule.epochs=1", "head.label_embeddings.seed=1"]))
    with pytest.raises(
        CheckpointError, match=r"trained with other label embeddings than random:12 has now.*init_from="
    ):
        trainer.load(read_last(folder))


def test_random_queries_are_answered_with_present():
    targets, known = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    wide, also = answer_random_queries(targets, known, 5)
    assert wide.tolist() == [[1, 0, 1, 1, 1]]
    assert also.tolist() == [[True, False, True, True, True]]
    assert answer_random_queries(targets, known, 2) == (targets, known)


def test_every_augmentation_and_combination_learns_the_first_batch(zero_shot):
    """The loss of a fixed batch falls under each of Table 3's rows and Table 8's combinations."""
    rows = [[], VARIED, ["head.fc=shared"], ["head.fc=group", "head.num_groups=16"]]
    rows += [["head.queries=learnable", "head.num_groups=16"], ["head.fc=shared", "head.num_groups=16"]]
    for row in rows:
        trainer = make_trainer(make([*zero_shot, *row, "schedule.epochs=4", "head.dropout=0.0"]))
        batch = trainer.batches.first()
        losses = []
        for _ in range(12):
            losses.append(float(trainer.train_step(batch)))
            trainer.state.progress.step += 1
        assert losses[-1] < 0.8 * losses[0], row


def test_starting_from_a_backbone_alone_leaves_the_head_as_drawn(run, zero_shot):
    folder, trained = run
    fresh = make_trainer(make(zero_shot))
    started = make_trainer(make([*zero_shot, f"init_from={folder}", "init_part=backbone"]))
    assert_same_tensors(dict(started.state.model.head.state_dict()), dict(fresh.state.model.head.state_dict()))
    best = restore(folder)
    assert_same_tensors(dict(started.state.model.backbone.state_dict()), dict(best.classifier.backbone.state_dict()))
    assert not torch.equal(
        next(fresh.state.model.backbone.parameters()), next(trained.state.model.backbone.parameters())
    )


def test_words_of_the_run_that_is_started_from_do_not_come_along(run, zero_shot):
    folder, _ = run
    started = make_trainer(make([*zero_shot, f"init_from={folder}", "head.label_embeddings.seed=3"]))
    assert started.state.model.vocabulary.known.equals(
        build.build_label_embeddings(started.config, started.splits.labels)
    )


def test_a_part_without_a_start_is_a_warning(zero_shot):
    assert any(
        "init_part=backbone" in line for line in config_checks.find_unused(make([*zero_shot, "init_part=backbone"]))
    )


def test_scores_of_labels_do_not_depend_on_which_are_asked_for(run):
    folder, trainer = run
    predictor = load(folder)
    paths = [trainer.splits.test.path(row) for row in range(5)]
    predictor.set_labels(trainer.splits.labels.names)
    everything = predictor.scores(paths)
    some = ["white nine", "red zero", "blue two"]
    predictor.set_labels(some)
    columns = [trainer.splits.labels.index(name) for name in some]
    np.testing.assert_allclose(predictor.scores(paths), everything[:, columns], atol=1e-6)
    predictor.set_labels([*some, "purple eleven"])  # which no file listed: a vector is read for it
    found = predictor.scores(paths)
    assert found.shape == (5, 4)
    np.testing.assert_allclose(found[:, :3], everything[:, columns], atol=1e-6)


def test_the_predictor_gives_what_the_evaluation_gave(run):
    folder, trainer = run
    predictor = load(folder, weights="best")
    labels = trainer.splits.labels
    predictor.set_labels(labels.names)
    test = trainer.splits.test
    scores = predictor.scores([test.path(row) for row in range(len(test))])
    loader = build.build_eval_loader(trainer.config, test, torch.device("cpu"))
    expected = compute_scores(predictor.model, predictor.scorer, loader)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    metrics = compute_metrics(expected, trainer.config.protocol, seen=labels.seen).metrics
    record = read_records(folder / "metrics.jsonl")[-1]
    assert metrics["zsl_mAP"] == pytest.approx(record["zsl_mAP"])
    text = describe(metrics, single_label=False)
    assert "unseen labels (ZSL)" in text
    assert f"{metrics['zsl_chance_with_unseen']:.2f}" in text


def test_predictions_are_named_and_sorted(run):
    folder, trainer = run
    predictor = load(folder)
    path = Path(trainer.splits.test.path(0))
    (best,) = predictor.predict([path], top_k=3)
    assert len(best) == 3
    assert list(best.values()) == sorted(best.values(), reverse=True)
    (sure,) = predictor.predict([path], threshold=0.2)
    scores = predictor.scores([path])[0]
    assert set(sure) == {name for name, score in zip(predictor.labels.names, scores, strict=True) if score > 0.2}
    assert predictor.scores([]).shape == (0, 64)


def test_maps_belong_to_labels_and_are_distributions(run):
    folder, trainer = run
    predictor = load(folder)
    path = trainer.splits.test.path(0)
    maps = predictor.maps([path], "attention")
    assert maps.shape[:2] == (1, 64)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-5)
    predictor.set_labels(["blue one", "red three"])
    columns = [trainer.splits.train.labels.index(name) for name in ("blue one", "red three")]
    np.testing.assert_allclose(predictor.maps([path], "attention"), maps[:, columns], atol=1e-6)


def test_without_words_there_is_one_clear_error(small_digits, tmp_path):
    words = [word for word in small_digits if not word.startswith("head.")]
    trainer = make_trainer(make([*words, "schedule.epochs=1", "head=gap"]))
    trainer.fit(tmp_path / "run")
    predictor = load(tmp_path / "run")
    with pytest.raises(DataError, match="trained without label embeddings"):
        predictor.set_labels(["zebra"])
    with pytest.raises(DataError, match="pooling has no attention"):
        predictor.maps([trainer.splits.test.path(0)], "attention")


def test_words_of_another_width_are_refused(run, tmp_path):
    folder, _ = run
    predictor = load(folder)
    (tmp_path / "other.txt").write_text("zebra 1 2 3\n")
    predictor.take_label_embeddings_from(str(tmp_path / "other.txt"))
    with pytest.raises(DataError, match=r"width 3, the network was trained with width 12 \(random:12\)"):
        predictor.set_labels(["zebra"])


def test_another_source_of_words_keeps_templates_and_aliases_and_drops_the_names_of_rows(run):
    predictor = load(run[0])
    stored = LabelEmbeddingsConfig(source="a.npy", names="a.txt", templates=("a {}",), aliases="b.tsv")
    predictor.label_embeddings_config = stored
    predictor.take_label_embeddings_from("a.npy")
    assert predictor.label_embeddings_config == stored
    predictor.take_label_embeddings_from("b.txt")
    assert predictor.label_embeddings_config == dataclasses.replace(stored, source="b.txt", names=None)
    with pytest.raises(ConfigError, match="label_embeddings=: source: missing"):
        predictor.take_label_embeddings_from("")


@pytest.mark.parametrize("report", ["raw", "better"])
def test_images_that_say_nothing_of_the_main_metric_are_no_error(zero_shot, tmp_path, report):
    """A limit on evaluation may leave out every image with an unseen label."""
    words = [word for word in zero_shot if not word.startswith("dataset.zero_shot")]
    words += ["dataset.zero_shot=choose", "protocol.zero_shot=zsl", "schedule.epochs=1"]
    trainer = make_trainer(make([*words, f"protocol.report={report}"]))
    unseen = ~np.array(trainer.splits.labels.seen)
    nothing = np.flatnonzero(~(trainer.splits.val.targets(range(24))[:, unseen] == 1).any(axis=1))
    trainer.splits = trainer.splits._replace(val=trainer.splits.val.subset(nothing))
    trainer.val_batches = build.build_eval_loader(trainer.config, trainer.splits.val, torch.device("cpu"))
    trainer.fit(tmp_path / "run")
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    val = next(record for record in records if record["kind"] == "eval")
    assert "zsl_mAP" not in val["raw"]
    assert records[-1]["epoch"] == 1


def test_a_checkpoint_whose_words_are_not_vectors_is_refused(run, tmp_path):
    folder, _ = run
    content = copy.deepcopy(load_checkpoint(folder / "checkpoints" / "best.pt"))
    for words in ({"names": ["a"]}, [1, 2], {"names": ["a"], "vectors": torch.zeros(2, 12), "source": "x"}):
        save_checkpoint(tmp_path / "broken.pt", {**content, "label_embeddings": words})
        with pytest.raises((CheckpointError, DataError)):
            restore(tmp_path / "broken.pt")


def test_vectors_are_looked_up_for_trained_labels_first(zero_shot):
    config = make(zero_shot)
    labels = LabelSpace(["a", "b", "c"], seen=[False, True, True])
    assert build.build_label_embeddings(config, labels).names == ("b", "c", "a")
    classifier = build.build_classifier(config, labels)
    with pytest.raises(DataError):
        build.set_query_labels(classifier, ["a", "a"], LabelEmbeddingsConfig(source="random:12"))
    build.set_query_labels(classifier, ["a", "d"], LabelEmbeddingsConfig(source="random:12"))
    assert classifier.vocabulary.names == ("a", "d")


def test_what_has_no_effect_or_no_meaning_is_said(zero_shot, small_digits):
    plain = config_checks.find_unused(make([*small_digits, "head.normalize=unit"]))
    assert any(line.startswith("head.normalize=unit") for line in plain)
    seeded = config_checks.find_unused(
        make([*zero_shot, "head.label_embeddings.source=x.txt", "head.label_embeddings.seed=3"])
    )
    assert any(line.startswith("head.label_embeddings.seed") for line in seeded)
    aliased = config_checks.find_unused(make([*zero_shot, "head.label_embeddings.aliases=x.tsv"]))
    assert any(line.startswith("head.label_embeddings.aliases=x.tsv: without effect") for line in aliased)
    assert not any(
        "label_embeddings.seed" in line
        for line in config_checks.find_unused(make([*zero_shot, "head.label_embeddings.seed=3"]))
    )
    words = [*zero_shot, "loss=ce", "dataset.max_digits=1", "head.random_queries=3"]
    with pytest.raises(ConfigError, match=r"head.random_queries=3: each adds a positive target"):
        config_checks.check_config(make(words))
