"""Property: a head that is trained on cached tokens is the head that is trained on images, and the cache holds just the
tokens that this needs, whatever interrupts, damages or shares it."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mldec.commands import evaluate
from mldec.data import token_store
from mldec.data.image import Normalization
from mldec.data.token_store import list_stores
from mldec.engine import data_splits, token_cache
from mldec.engine.checkpoint import load_checkpoint, read_last
from mldec.engine.config_checks import check_config
from mldec.engine.display import Display
from mldec.engine.evaluator import Scores, compute_metrics
from mldec.engine.interrupt import Interrupted
from mldec.engine.predictor import load
from mldec.engine.stored_config import check_resumed, confine
from mldec.engine.token_cache import TokenCache
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace
from tests.curve import C_TRAN, SDL, SMALLER, make, make_trainer, with_head
from tests.engine.test_distributed import train
from tests.engine.test_trainer import interrupt_at
from tests.same import assert_same_run, assert_same_tensors, timeless

FROZEN = ("backbone.freeze=all", "cache.batch_size=32")
TOKENS = ("cache.tokens=true", "cache.dtype=float32")
PLAIN = ("augment=none",)  # then tokens are those of the images themselves
AUGMENTED = ("augment.rotate=20", "cache.views=2")
IMAGES_PER_SHARD = 20


@pytest.fixture
def words(small_digits, tmp_path) -> list[str]:
    """Overrides of a frozen run with a cache of its own."""
    return [*small_digits, *FROZEN, f"dataset.cache={tmp_path / 'cache'}"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """About 20 of the 96 images a shard."""
    monkeypatch.setattr(token_store.TokenShape, "images_per_shard", property(lambda _: IMAGES_PER_SHARD))


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images are computed at once, each time; the first of a run is one empty image."""
    counts: list[int] = []
    compute = TokenCache._compute
    monkeypatch.setattr(
        TokenCache, "_compute", lambda self, images: [counts.append(len(images)), compute(self, images)][1]
    )
    return counts


def prepared(words) -> TokenCache:
    """The cache of a run, nothing of it computed."""
    runner = make_trainer(make([*TOKENS, *words]))
    return TokenCache(runner.config, runner.splits, runner.state.model, runner.scorer)


def fill(cache: TokenCache, should_stop=lambda: False) -> bool:
    return cache.fill(Display(quiet=True).bar, should_stop)


def keys(words) -> dict[tuple[str, int], str]:
    return {(view.split, view.number): view.store.key for view in prepared(words).views}


def fit(words, folder: Path) -> dict:
    return make_trainer(make(words)).fit(folder)


def weights(folder: Path) -> dict:
    content = load_checkpoint(folder / "checkpoints" / "last.pt")
    return {name: content[name] for name in ("model", "ema", "optimizer", "resume") if name in content}


# The same head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant",
    [
        ("head=gap", "ema=none"),
        ("head=gap", "head.dropout=0.3", "schedule.accumulate=2"),
        ("head=ml_decoder", "head.dim=32", "head.ffn_dim=32", "head.num_heads=4", "head.dropout=0.2"),
        ("backbone=timm", "backbone.model=test_vit", "head.dropout=0"),
    ],
)
def test_the_cache_changes_no_bit_of_a_run(words, variant, tmp_path):
    if "head=gap" in variant:
        words = [word for word in words if not word.startswith("head.")]
    if "backbone=timm" in variant:
        words = [word for word in words if not word.startswith(("backbone.widths", "backbone.blocks"))]
    words = [*words, *PLAIN, *variant]
    fit(words, tmp_path / "images")
    fit([*words, *TOKENS], tmp_path / "tokens")
    assert_same_tensors(weights(tmp_path / "tokens"), weights(tmp_path / "images"))
    assert timeless(tmp_path / "tokens") == timeless(tmp_path / "images")
    assert (tmp_path / "tokens" / "thresholds.csv").read_text() == (tmp_path / "images" / "thresholds.csv").read_text()


def test_dropout_and_the_class_token_of_a_transformer_come_from_the_cache_too(words, tmp_path):
    words = [word for word in words if not word.startswith(("backbone.widths", "backbone.blocks", "head."))]
    words += [*PLAIN, "backbone=timm", "backbone.model=test_vit", "head=gap", "head.source=both", "head.dropout=0.2"]
    words += ["schedule.epochs=1"]
    fit(words, tmp_path / "images")
    fit([*words, *TOKENS], tmp_path / "tokens")
    assert_same_tensors(weights(tmp_path / "tokens"), weights(tmp_path / "images"))


def test_half_precision_moves_scores_by_next_to_nothing(words, tmp_path, monkeypatch):
    """On a few images one swapped pair moves mAP by more than that, so scores are compared."""
    words = [*words, *PLAIN, "cache.tokens=true"]
    found = {}
    for dtype in ("float16", "float32"):
        runner = make_trainer(make([*words, f"cache.dtype={dtype}"]))
        record = runner.fit(tmp_path / dtype)
        assert runner.tokens is not None
        scores = runner._scores(runner.state.model.eval(), runner.tokens.eval_loader("test"), "test")
        found[dtype] = scores.scores, record["mAP"]
    assert np.abs(found["float16"][0] - found["float32"][0]).max() < 2e-3
    assert found["float16"][1] == pytest.approx(found["float32"][1], abs=0.05)
    sizes = {store.bytes for store in list_stores(tmp_path / "cache" / "tokens")}
    assert len(sizes) == 2 * 2  # train, and val and test of equal size, in both types


@pytest.fixture(scope="module")
def half_tokens(tmp_path_factory) -> Path:
    """A cache in float16 that several heads read."""
    return tmp_path_factory.mktemp("half_tokens")


@pytest.mark.parametrize(
    "head",
    [
        C_TRAN,
        (*SDL, "loss=sdl"),
        ("head=add_gcn", "head.dim=8", "loss=distribution_balanced"),
        ("head=ssgrl", "head.hidden=8", "head.output_dim=8", "head.label_embeddings.source=random:8"),
    ],
)
def test_heads_of_other_methods_read_tokens_in_half_precision(words, head, half_tokens, tmp_path):
    words = with_head([*words, *PLAIN, *SMALLER, f"dataset.cache={half_tokens}", "schedule.epochs=1"], head)
    runner = make_trainer(make([*words, "cache.tokens=true"]))
    record = runner.fit(tmp_path / "run")
    assert {view.store.shape.dtype for view in runner.tokens.views} == {"float16"}  # the default
    metrics = evaluate.evaluate(tmp_path / "run", batch_size=32).metrics  # of the images
    assert all(math.isfinite(value) for value in (*metrics.values(), record["mAP"]))


def test_evaluation_and_prediction_use_the_whole_network_and_agree(words, tmp_path):
    run = tmp_path / "run"
    record = fit([*words, *PLAIN, *TOKENS], run)
    shutil.rmtree(tmp_path / "cache")
    found = evaluate.evaluate(run, batch_size=32)
    assert found.metrics == {name: pytest.approx(record[name], abs=1e-4) for name in found.metrics}
    assert not (tmp_path / "cache" / "tokens").exists()
    predictor = load(run)
    index = data_splits.build_split(predictor.config, "test")
    scores = predictor.scores([index.path(row) for row in range(len(index))])
    rows = np.arange(len(index))
    result = compute_metrics(Scores(rows, scores, index.targets(rows)), predictor.config.protocol)
    assert result.metrics["mAP"] == pytest.approx(record["mAP"], abs=1e-3)


# Resuming -------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one(words, tmp_path):
    config = make([*words, *AUGMENTED, *TOKENS, "schedule.epochs=3"])
    make_trainer(config).fit(tmp_path / "whole")
    for stop in (2, 4):
        runner = make_trainer(config)
        if stop > 2:
            runner.load(read_last(tmp_path / "parts"))
        interrupt_at(runner, stop)
        with pytest.raises(Interrupted):
            runner.fit(tmp_path / "parts")
    runner = make_trainer(config)
    runner.load(read_last(tmp_path / "parts"))
    runner.fit(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_ctrl_c_while_tokens_are_computed_leaves_a_run_to_resume(words, tmp_path, monkeypatch, computed):
    config = make([*words, *PLAIN, *TOKENS, "schedule.epochs=1", "cache.batch_size=10"])
    runner = make_trainer(config)
    write, written = token_store.TokenStore.write, []

    def interrupted(store, shard, values):
        write(store, shard, values)
        written.append(shard)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(token_store.TokenStore, "write", interrupted)
    with pytest.raises(Interrupted):
        runner.fit(tmp_path / "parts")
    assert load_checkpoint(tmp_path / "parts" / "checkpoints" / "last.pt")["step"] == 0
    assert written == [0, 1]
    monkeypatch.setattr(token_store.TokenStore, "write", write)
    before = sum(computed)
    runner = make_trainer(config)
    runner.load(read_last(tmp_path / "parts"))
    runner.fit(tmp_path / "parts")
    assert sum(computed) - before == 1 + (96 - 2 * IMAGES_PER_SHARD) + 24 + 24  # what was missing, each image once
    make_trainer(make([*words, *PLAIN, *TOKENS, "schedule.epochs=1", "cache.batch_size=10"])).fit(tmp_path / "whole")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_what_a_resumed_run_may_not_change(words):
    config = make([*words, *TOKENS])
    for override in ("cache.tokens=false", "cache.views=3", "cache.dtype=float16"):
        changed = make([*words, *TOKENS, override])
        with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}: .* add allow_schedule_change=true"):
            check_resumed(config, changed, allow_schedule_change=False)
        assert check_resumed(config, changed, allow_schedule_change=True)
    assert check_resumed(config, make([*words, *TOKENS, "cache.max_gb=1"]), allow_schedule_change=False)


def test_a_stored_run_does_not_decide_how_much_is_written(words, caplog):
    config = make([*words, *TOKENS, "cache.max_gb=500"])
    caplog.set_level("INFO")
    assert confine(config, (), "run").cache.max_gb == 20
    assert "note: cache.max_gb=500 is stored in run and not used" in caplog.text
    assert confine(config, ("cache.max_gb",), "run").cache.max_gb == 500
    assert confine(make([*words, *TOKENS, "cache.max_gb=1"]), (), "run").cache.max_gb == 1


# What is computed -----------------------------------------------------------------------------------------------------


def test_each_epoch_shows_its_view_which_is_the_same_in_all_runs(words, computed):
    words = [*words, *AUGMENTED]
    first, other = prepared(words), make_trainer(make([*words, *TOKENS, "seed=7"]))
    other.state.model.backbone.load_state_dict(first.backbone.state_dict())  # random ones follow the seed
    second = TokenCache(other.config, other.splits, other.state.model, other.scorer)
    assert fill(first)
    assert sum(computed) == 2 + 2 * 96 + 2 * 24
    computed.clear()
    assert fill(second)
    assert computed == []
    assert second.computed == 0
    stores = [view.store for view in second.views if view.split == "train"]
    assert not torch.equal(stores[0].read(range(96)), stores[1].read(range(96)))
    loader = second.train_loader()
    orders = set()
    for epoch in range(4):
        for batch in loader.batches(epoch):
            assert torch.equal(batch.images, stores[epoch % 2].read(batch.ids.numpy()))
            orders.add(tuple(batch.ids.tolist()))
    assert len(orders) == 4 * 3
    # A view is a function of the row alone: computed in other parts, in any number of processes, it is the same.
    (view,) = (view for view in first.views if (view.split, view.number) == ("train", 1))
    expected = view.store.read(range(40, 60))
    (view.store.folder / "00002.shard").unlink()
    assert fill(first)
    assert torch.equal(view.store.read(range(40, 60)), expected)
    assert sum(computed) == 20


def test_the_key_has_all_that_tokens_depend_on_and_nothing_else(words, tmp_path):
    root = tmp_path / "digits"
    small = ["dataset.train=8", "dataset.val=4", "dataset.test=4", f"dataset.root={root}"]
    words = [*words, *AUGMENTED, *small]
    known = keys(words)
    assert set(known) == {("train", 0), ("train", 1), ("val", 0), ("test", 0)}
    assert len(set(known.values())) == 4
    kept = ["head.dim=16", "loss=bce", "schedule.epochs=5", "runtime.workers=2", "schedule.batch_size=4", "ema=none"]
    assert keys([*words, *kept, "optimizer.weight_decay=0.1", "protocol.holdout=0.5"]) == known
    changed = {
        "dataset.image_size=48": 4,
        "cache.dtype=float16": 4,
        "cache.batch_size=8": 4,
        "runtime.precision=bf16": 4,
        "runtime.channels_last=true": 4,
        "backbone.widths=[8,32]": 4,
        "seed=3": 4,  # other random weights
        "augment.rotate=10": 2,
        "dataset.crop=0.9": 2,  # of evaluation
    }
    for override, count in changed.items():
        other = {**known, **keys([*words, override])}
        assert sum(other[view] != key for view, key in known.items()) == count, override
    index = data_splits.build_split(make(words), "val")
    os.utime(index.path(0), ns=(1, 1))
    assert {view for view, key in keys(words).items() if key != known[view]} == {("val", 0)}
    known = keys(words)
    Path(index.path(0)).write_bytes(Path(index.path(0)).read_bytes())  # other content of the same size
    os.utime(index.path(0), ns=(1, 1))  # with the former time, as an archive sets it
    assert {view for view, key in keys(words).items() if key != known[view]} == {("val", 0)}


def test_labels_are_not_among_what_tokens_depend_on(words):
    cache = prepared([*words, *PLAIN])
    index = cache.splits.val
    fewer = index.with_labels(LabelSpace(index.labels.names[:3]))
    other = TokenCache(
        cache.config,
        cache.splits._replace(val=fewer),
        make_trainer(make([*words, *PLAIN])).state.model,
        cache._images,
    )
    assert [view.store.key for view in other.views] == [view.store.key for view in cache.views]


def test_normalization_changes_the_key(words):
    cache = prepared([*words, *PLAIN])
    images = dataclasses.replace(cache._images, normalization=Normalization((0.5,) * 3, (0.5,) * 3))
    model = make_trainer(make([*words, *PLAIN])).state.model
    other = TokenCache(cache.config, cache.splits, model, images)
    assert not {view.store.key for view in other.views} & {view.store.key for view in cache.views}


def test_with_limits_only_the_images_that_are_used_are_computed(words, computed, tmp_path):
    limits = ["runtime.limit_train_batches=2", "runtime.limit_eval_batches=1", "schedule.batch_size=8"]
    words = [*words, *PLAIN, *limits]
    record = fit([*words, *TOKENS], tmp_path / "tokens")
    assert 1 + 16 + 8 + 8 <= sum(computed) <= 1 + 32 + 8 + 8
    assert record == fit(words, tmp_path / "images")
    assert_same_tensors(weights(tmp_path / "tokens")["model"], weights(tmp_path / "images")["model"])


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_damage_is_repaired_and_nothing_else_computed(words, computed, caplog):
    cache = prepared([*words, *PLAIN])
    assert fill(cache)
    store = cache.views[0].store
    expected = store.read(range(96))
    path = store.folder / "00003.shard"
    path.write_bytes(path.read_bytes()[:-40])
    computed.clear()
    again = prepared([*words, *PLAIN])
    assert fill(again)
    assert sum(computed) == 1 + IMAGES_PER_SHARD
    assert f"{path} is damaged" in caplog.text
    assert torch.equal(again.views[0].store.read(range(96)), expected)


def test_more_than_allowed_is_refused_before_anything_is_written(words, tmp_path):
    with pytest.raises(ConfigError, match=r"more than cache\.max_gb=0\.001; use cache\.max_gb=0\.01, a smaller"):
        fill(prepared([*words, *AUGMENTED, "cache.max_gb=0.001"]))
    assert not list_stores(tmp_path / "cache" / "tokens")


def test_a_disk_without_space_is_refused_before_anything_is_written(words, tmp_path, monkeypatch):
    cache = prepared([*words, *PLAIN])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(token_cache.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ConfigError, match=r"only 1\.0 kB are free there; use dataset\.cache=FOLDER"):
        fill(cache)
    assert not list_stores(tmp_path / "cache" / "tokens")
    monkeypatch.undo()


@pytest.mark.parametrize(
    "override",
    ["backbone.freeze=none", "augment.mixup=0.2", "augment.repeats=2", "runtime.overfit=true", "dataset.on_error=skip"],
)
def test_runs_that_need_images_are_refused(words, override):
    config = make([*words, *TOKENS, override])
    with pytest.raises(ConfigError, match=r"cache\.tokens=true needs .*; set that, or cache\.tokens=false"):
        check_config(config)


def test_an_empty_cache_folder_is_not_the_current_directory(words):
    with pytest.raises(ConfigError, match=r"dataset\.cache= is empty; name a folder"):
        check_config(make([*words, "dataset.cache="]))


def test_a_broken_image_is_named(words, tmp_path):
    words = [*words, *PLAIN, "dataset.train=8", "dataset.val=4", "dataset.test=4", f"dataset.root={tmp_path / 'new'}"]
    cache = prepared(words)
    path = cache.splits.val.path(2)
    Path(path).write_bytes(b"no image")
    with pytest.raises(DataError, match=os.path.basename(path)):
        fill(prepared(words))


# Several processes ----------------------------------------------------------------------------------------------------


def test_several_loader_processes_read_one_cache(words, tmp_path):
    for workers in (0, 2):
        fit([*words, *AUGMENTED, *TOKENS, f"runtime.workers={workers}"], tmp_path / str(workers))
    assert timeless(tmp_path / "0") == timeless(tmp_path / "2")
    assert_same_tensors(weights(tmp_path / "0"), weights(tmp_path / "2"))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from a server")
def test_two_processes_fill_and_read_one_cache(words, tmp_path):
    words = [*words, *PLAIN, "schedule.epochs=1", "head.dropout=0", "plugins=[tests.engine.small_shards]"]
    train(tmp_path / "images", words, 2)
    train(tmp_path / "tokens", [*words, *TOKENS], 2)
    assert timeless(tmp_path / "tokens") == timeless(tmp_path / "images")
    assert_same_tensors(weights(tmp_path / "tokens")["model"], weights(tmp_path / "images")["model"])
    stores = list_stores(tmp_path / "cache" / "tokens")
    assert {store.title["split"] for store in stores} == {"train", "val", "test"}
    assert all(store.written == store.shards > 1 for store in stores)
