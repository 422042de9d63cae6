"""Property: `mldec cache` computes what a run reads, says what is there, and deletes that and nothing else."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mldec.commands.main import run
from mldec.data import token_store
from mldec.data.token_store import list_stores
from mldec.engine.token_cache import TokenCache

FROZEN = ["backbone.freeze=all", "augment=none"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(token_store.TokenShape, "images_per_shard", property(lambda _: 20))


@pytest.fixture
def words(small_digits):
    return [*small_digits, *FROZEN]


def stores(folder: Path) -> list[token_store.StoredTokens]:
    return list_stores(folder / "tokens")


def test_what_is_built_is_listed_read_and_deleted(words, tmp_path, capsys, monkeypatch):
    cache = tmp_path / "my cache"
    assert run(["cache", "build", *words, f"folder={cache}"]) == 0
    out = capsys.readouterr().out
    assert "computed 144 images" in out
    assert f"'dataset.cache=\"{cache}\"' cache.tokens=true" in out
    assert run(["cache", "build", *words, f"folder={cache}"]) == 0
    assert "\ncomplete; nothing was missing\n" in capsys.readouterr().out

    with monkeypatch.context() as patch:
        patch.setattr(TokenCache, "_shards", lambda *_: pytest.fail("nothing is left to compute"))
        train = ["train", *words, "cache.tokens=true", f'dataset.cache="{cache}"', "schedule.epochs=1"]
        assert run([*train, f"run_dir={tmp_path / 'run'}"]) == 0

    (last,) = (cache / "tokens").glob("*/00004.shard")  # of train alone
    last.unlink()
    capsys.readouterr()
    assert run(["cache", "list", f"folder={cache}"]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    columns = "dataset  split  view  backbone  image size  images  on disk  computed  last used  key"
    assert head.split() == columns.split()
    assert sorted(row.split()[1] for row in rows) == ["test", "train", "val"]
    train = next(row for row in rows if " train " in row)
    assert "resnet_digits" in train
    assert " 96 " in train
    assert "4 of 5 shards" in train
    assert all("  all  " in row for row in rows if row is not train)
    assert {row.split()[-1] for row in rows} == {store.key for store in stores(cache)}
    assert total.endswith(f"B in {cache / 'tokens'}")

    val = next(store for store in stores(cache) if store.title["split"] == "val")
    assert run(["cache", "clear", f"folder={cache}", f"key={val.key}"]) == 0
    assert capsys.readouterr().out.startswith("deleted 1 of 1: ")
    assert {store.title["split"] for store in stores(cache)} == {"train", "test"}
    assert run(["cache", "clear", f"folder={cache}", "dataset=coco"]) == 2
    assert "dataset=coco: no tokens of it" in capsys.readouterr().err
    assert run(["cache", "clear", f"folder={cache}", f"key={val.key}"]) == 2
    assert "no such tokens" in capsys.readouterr().err
    (cache / "tokens" / "mine").mkdir()
    (cache / "tokens" / "mine" / "00000.shard").write_text("mine")
    with stores_lock(cache, "train"):
        assert run(["cache", "clear", f"folder={cache}", "dataset=digits"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("deleted 1 of 2: ")
    assert "another process computes these tokens now" in captured.err
    assert run(["cache", "clear", f"folder={cache}"]) == 0
    assert stores(cache) == []
    assert (cache / "tokens" / "mine" / "00000.shard").exists()
    assert run(["cache", "list", f"folder={cache}"]) == 0


def stores_lock(cache: Path, split: str):
    """The lock that a process holds which computes the tokens of a split."""
    store = next(store for store in stores(cache) if store.title["split"] == split)
    return token_store._locked(store.folder, lambda: False)


def test_a_stop_keeps_what_was_computed(words, tmp_path, capsys, monkeypatch):
    write = token_store.TokenStore.write

    def interrupted(store, shard, values):
        write(store, shard, values)
        os.kill(os.getpid(), signal.SIGINT)

    command = ["cache", "build", *words, f"folder={tmp_path / 'cache'}"]
    with monkeypatch.context() as patch:
        patch.setattr(token_store.TokenStore, "write", interrupted)
        assert run(command) == 130
    assert "stopped after 20 images; the same command computes the rest" in capsys.readouterr().out
    assert run(command) == 0
    assert "computed 124 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld"], "did you mean build"),
        (["list", "folder=nowhere"], "folder=nowhere: no such directory"),
        (["build", "experiment=digits"], "cache.tokens=true needs backbone.freeze=all"),
        (["build", "experiment=digits", *FROZEN, "runtime.devices=2"], "runtime.devices=2: the cache is built by one"),
        (["build", "experiment=digits", *FROZEN, "folder=a", "dataset.cache=b"], "leave one of both out"),
        (["clear", "experiment=digits"], "no such option of mldec cache clear"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["cache", *arguments]) == 2
    assert message in capsys.readouterr().err
