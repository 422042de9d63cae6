"""Property: what is read is what was written, or it is written again; nothing else is touched."""

from __future__ import annotations

import errno
import os
import pickle
import threading

import numpy as np
import pytest
import torch

from mldec.data import token_store
from mldec.data.token_store import DESCRIPTION, TokenShape, TokenStore, delete_store, list_stores
from mldec.errors import ConfigError, DataError, RunError

SHAPE = TokenShape(images=7, prefix=1, tokens=4, channels=3, grid=(2, 2), dtype="float32")
VALUES = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)
TITLE = {"dataset": "digits"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Two images a shard: 0 1 | 2 3 | 4 5 | 6."""
    monkeypatch.setattr(token_store, "SHARD_BYTES", 2 * SHAPE.image_bytes)


def store_in(root, shape=SHAPE, **depends):
    return TokenStore(root, shape, {"network": "a", **depends})


def fill(store, *shards):
    """Write some shards, or all that are missing."""
    with store.lock(lambda: False) as held:
        assert held
        store.prepare(TITLE)
        for shard in shards or store.missing():
            store.write(shard, VALUES[store.shape.rows(shard)])
    return store


@pytest.mark.parametrize("rows", [range(7), [6, 0, 3, 3], [2]])
def test_what_was_written_is_read(tmp_path, rows):
    store = fill(store_in(tmp_path))
    expected = torch.from_numpy(VALUES[list(rows)])
    assert torch.equal(store.read(rows), expected)
    assert torch.equal(pickle.loads(pickle.dumps(store)).read(rows), expected)  # as in a loader process
    assert store.missing() == []
    assert store.missing_bytes() == 0


def test_shards_that_are_there_stay(tmp_path):
    store = store_in(tmp_path)
    assert store.missing() == [0, 1, 2, 3]
    assert store.missing_bytes() == SHAPE.bytes
    fill(store, 1, 3)
    assert store.missing() == [0, 2]
    assert store.missing_bytes() == 4 * SHAPE.image_bytes
    before = (store.folder / "00001.shard").stat()
    fill(store)
    assert (store.folder / "00001.shard").stat().st_ino == before.st_ino


def test_other_dependencies_shapes_and_types_have_other_names(tmp_path):
    shapes = [SHAPE, TokenShape(7, 1, 4, 3, (2, 2), "float16"), TokenShape(7, 0, 5, 3, None, "float32")]
    keys = {store_in(tmp_path, shape).key for shape in shapes}
    assert len({*keys, store_in(tmp_path, view=1).key}) == 4
    assert store_in(tmp_path).key in keys


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def swap(path):
    path.write_bytes(path.with_name("00002.shard").read_bytes())


def take_from_another_store(path):
    other = fill(store_in(path.parent.parent, network="b"))
    path.write_bytes((other.folder / path.name).read_bytes())


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("damage", [cut, flip, swap, take_from_another_store, link])
def test_a_damaged_shard_is_found_and_written_again(tmp_path, damage, caplog):
    store = fill(store_in(tmp_path))
    path = store.folder / "00001.shard"
    damage(path)
    linked = path.with_name("elsewhere").read_bytes() if path.is_symlink() else None
    assert store.missing() == [1]
    assert f"warning: {path} is damaged; its tokens are computed anew" in caplog.text
    fill(store)
    assert not path.is_symlink()
    if linked is not None:
        assert path.with_name("elsewhere").read_bytes() == linked
    assert torch.equal(store.read(range(7)), torch.from_numpy(VALUES))


def test_a_folder_that_is_a_link_is_not_written_to(tmp_path):
    store, elsewhere = store_in(tmp_path / "tokens"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    store.folder.parent.mkdir()
    store.folder.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a symbolic link"):
        fill(store)
    assert list(elsewhere.iterdir()) == []
    assert list_stores(tmp_path / "tokens") == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    values = VALUES[:2].copy()
    values[1, 0, 0] = value
    with pytest.raises(RunError, match=r"tokens of images 0 to 1 are not finite in float32; use cache\.dtype=float32"):
        store_in(tmp_path).write(0, values)


@pytest.mark.parametrize("values", [VALUES[:1], VALUES[:2].astype(np.float16), VALUES[:2, :4]])
def test_a_shard_has_the_shape_and_type_of_the_store(tmp_path, values):
    with pytest.raises(ValueError, match="a shard of float32"):
        store_in(tmp_path).write(0, values)


def test_a_full_disk_leaves_what_was_written_and_says_what_to_do(tmp_path, monkeypatch):
    store = fill(store_in(tmp_path), 0)
    monkeypatch.setattr(store, "_digest", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(
        RunError, match=r"00001\.shard: tokens cannot be written: .*free some space \(mldec cache clear"
    ):
        store.write(1, VALUES[2:4])
    monkeypatch.undo()
    monkeypatch.setattr(token_store, "SHARD_BYTES", 2 * SHAPE.image_bytes)
    assert store.missing() == [1, 2, 3]
    assert {path.name for path in store.folder.iterdir()} == {".lock", DESCRIPTION, "00000.shard"}


def test_tokens_deleted_before_they_are_read_are_an_error_in_words(tmp_path):
    store = fill(store_in(tmp_path))
    (store.folder / "00002.shard").unlink()
    with pytest.raises(DataError, match="tokens were deleted while a run used them; resume the run"):
        store.read([0])


def test_one_process_at_a_time_fills_a_store(tmp_path):
    store = store_in(tmp_path)
    asked = []
    with store.lock(lambda: False) as held:
        assert held
        with store.lock(lambda: asked.append(1) is not None) as second:
            assert not second
        assert asked
    with store.lock(lambda: False) as held:
        assert held


def test_who_waits_for_a_store_that_is_deleted_locks_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "POLL", 0.01)
    store = fill(store_in(tmp_path))
    waits, found = threading.Event(), []

    def patience():
        waits.set()
        return True

    def wait():
        with store.lock(patience) as held:
            found.append((held, (store.folder / ".lock").exists()))

    with store.lock(lambda: False):
        thread = threading.Thread(target=wait)
        thread.start()
        waits.wait()
        for path in store.folder.iterdir():
            path.unlink()
        store.folder.rmdir()
    thread.join()
    assert found == [(True, True)]


# All stores -----------------------------------------------------------------------------------------------------------


def test_stores_are_listed_with_the_last_used_first(tmp_path):
    whole, part = fill(store_in(tmp_path)), fill(store_in(tmp_path, view=1), 0, 3)
    (tmp_path / "other").mkdir()
    for number, path in enumerate([*whole.folder.iterdir(), *part.folder.iterdir()]):
        os.utime(path, (number, number))
    whole.mark_used()
    first, second = list_stores(tmp_path)
    assert (first.key, first.shards, first.written, first.title) == (whole.key, 4, 4, TITLE)
    assert (second.key, second.shards, second.written) == (part.key, 4, 2)
    assert second.bytes == 3 * SHAPE.image_bytes + 2 * token_store.DIGEST_BYTES
    assert list_stores(tmp_path / "nowhere") == []


def test_deleting_frees_the_space_and_spares_what_others_wrote(tmp_path):
    store = fill(store_in(tmp_path))
    note, odd, outside = store.folder / "note.txt", store.folder / "mine.shard", tmp_path / "outside"
    for path in (note, odd, outside):
        path.write_text("mine")
    (store.folder / "00009.shard").symlink_to(outside)
    (store.folder / "00003.shard").unlink()
    (found,) = list_stores(tmp_path)
    assert delete_store(found) >= 6 * SHAPE.image_bytes
    assert {path.name for path in store.folder.iterdir()} == {"note.txt", "mine.shard", "00009.shard"}
    assert outside.read_text() == "mine"
    assert list_stores(tmp_path) == []


def test_deleting_takes_the_folder_too(tmp_path):
    store = fill(store_in(tmp_path))
    delete_store(*list_stores(tmp_path))
    assert not store.folder.exists()


def test_a_store_that_is_being_filled_is_not_deleted(tmp_path):
    store = fill(store_in(tmp_path))
    with (
        store.lock(lambda: False),
        pytest.raises(RunError, match="another process computes these tokens now; wait for its end, or stop it"),
    ):
        delete_store(*list_stores(tmp_path))
    assert store.missing() == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"title": 3, "shape": {}}', '{"title": {}, "shape": {"images": 1}}'])
def test_folders_with_another_description_are_no_stores(tmp_path, text):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / DESCRIPTION).write_text(text)
    store = fill(store_in(tmp_path))
    store.folder.rename(tmp_path / "renamed")
    assert list_stores(tmp_path) == []
