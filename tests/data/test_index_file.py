"""Property: whatever the bytes of an index say, what is opened is an index of this dataset, or it is refused."""

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig
from mldec.data.index import ImageIndex
from mldec.data.index_file import _checksum, _map_array, open_index, save_index
from mldec.errors import DataError
from mldec.labels import LabelSpace

SAMPLES = [("a.jpg", [0, 2], [1], []), ("sub/ü..jpg", [], [], []), ("c.jpg", [1], [0, 2], [])]
ROOT = "/data/set"


def make(root: str = ROOT, samples: list[Any] = SAMPLES) -> ImageIndex:
    labels = LabelSpace(["cat", "dog", "bird"], seen=[True, False, True])
    return ImageIndex.build(samples, root=root, labels=labels)


Change = Callable[[bytearray, dict[str, Any], dict[str, Any]], Any]


def forge(path: Path, change: Change) -> None:
    """Change an index as somebody would who knows the format: with a sound checksum."""
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8:begin]), bytearray(raw[begin:])
    notes = json.loads(header.pop("__metadata__")["mldec"])
    notes = change(body, header, notes) or notes
    write(path, header, notes, body)
    if "checksum" in notes:
        with contextlib.suppress(Exception):
            arrays = {name: _map_array(str(path), name, place, 8 + length(path)) for name, place in header.items()}
            write(path, header, notes | {"checksum": _checksum(notes, arrays)}, body)


def write(path: Path, header: dict[str, Any], notes: Any, body: bytes) -> None:
    content = json.dumps({"__metadata__": {"mldec": json.dumps(notes)}} | header).encode()
    content += b" " * (-len(content) % 8)
    path.unlink()  # what is mapped stays
    path.write_bytes(struct.pack("<Q", len(content)) + content + body)


def length(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:8], "little")


def array(name: str, **place: Any) -> Change:
    return lambda body, header, notes: header[name].update(place)


def put(name: str, content: bytes, at: int = 0) -> Change:
    """Overwrite bytes of an array."""

    def change(body: bytearray, header: dict[str, Any], notes: dict[str, Any]) -> None:
        begin = header[name]["data_offsets"][0] + at
        body[begin : begin + len(content)] = content

    return change


def field(name: str, value: Any) -> Change:
    return lambda body, header, notes: notes.update({name: value})


FORGERIES = {
    "other numbers": array("positives.values", dtype="F32"),
    "other integers": array("positives.values", dtype="U32"),
    "text": array("paths.values", dtype="O"),
    "two dimensions": array("positives.values", shape=[1, 3]),
    "less than nothing": array("positives.values", shape=[-1]),
    "beyond the end": array("positives.values", shape=[2**40]),
    "no whole number": array("positives.values", shape=[3.0]),
    "true": array("positives.values", shape=[True]),
    "place beyond the end": array("positives.values", data_offsets=[2**46, 2**46 + 12]),
    "place before the beginning": array("positives.values", data_offsets=[-64, -52]),
    "place of another array": array("positives.values", data_offsets=[0, 12]),
    "a list of a third of its rows": array("negatives.offsets", shape=[2]),
    "paths of nothing": lambda body, header, notes: (
        [header.pop(f"paths.{part}") for part in ("offsets", "values")] and None
    ),
    "offsets that fall": put("positives.offsets", struct.pack("<q", 3), at=8),
    "offsets below zero": put("positives.offsets", struct.pack("<q", -3)),
    "offsets beyond the values": put("positives.offsets", struct.pack("<q", 99), at=24),
    "column of no label": put("positives.values", struct.pack("<i", 3)),
    "column below zero": put("positives.values", struct.pack("<i", -1)),
    "path out of the folder": put("paths.values", b"../.."),
    "absolute path": put("paths.values", b"/"),
    "path of Windows": put("paths.values", b"c:"),
    "path with NUL": put("paths.values", b"\0", at=1),
    "path that is no UTF-8": put("paths.values", b"\xff"),
    "path that begins within a letter": put("paths.offsets", struct.pack("<q", 10), at=8),
    "another root": field("root", "/etc"),
    "a root above": field("root", ".."),
    "a root that is no text": field("root", 7),
    "no label": field("labels", []),
    "one label twice": field("labels", ["cat", "cat", "bird"]),
    "labels that are no text": field("labels", [1, 2, 3]),
    "too few labels": field("labels", ["cat"]),
    "seen of another length": field("seen", [True]),
    "seen of numbers": field("seen", [1, 0, 1]),
    "another default": field("default", 5),
    "default that is no number": field("default", "0"),
    "gaps that are no gaps": field("gaps", {"missing": 1}),
    "gaps elsewhere": field("gaps", {"missing": 1, "listed": 2, "folders": {"../..": 1}}),
    "messages that are no text": field("messages", [7]),
    "messages that are no list": field("messages", "cut from 2 paths"),
    "messages with control characters": field("messages", ["t.csv: \x1b[2J"]),
    "messages of several lines": field("messages", ["t.csv: read\nerror: none"]),
    "long messages": field("messages", ["a" * 2001]),
    "many messages": field("messages", ["a"] * 101),
    "another version": field("version", 1),
    "a field too many": field("more", 1),
    "a field missing": lambda body, header, notes: notes.pop("seen") and None,
    "no arrays": lambda body, header, notes: header.clear(),
    "an array missing": lambda body, header, notes: header.pop("positives.values") and None,
    "an array too many": lambda body, header, notes: header.update(more=header["negatives.values"]),
    "a name that no index has": lambda body, header, notes: header.update(more=header.pop("negatives.values")),
    "bytes after the arrays": lambda body, header, notes: body.extend(bytes(64)),
    "other notes": lambda body, header, notes: {"checksum": 0},
    "a list of notes": lambda body, header, notes: [1],
    "deep notes": lambda body, header, notes: deep(),
}


def deep() -> Any:
    value: Any = []
    for _ in range(400):
        value = [value]
    return value


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_index_is_refused(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "x.index"
    save_index(make(), str(path), ROOT)
    forge(path, lambda body, header, notes: None)
    assert open_index(str(path), ROOT)[0].fingerprint() == make().fingerprint()
    forge(path, change)
    with pytest.raises((ValueError, DataError)):
        open_index(str(path), ROOT)


def test_a_header_of_any_depth_or_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    content = b"[" * 100_000
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    with pytest.raises(ValueError, match="is damaged, or no index"):
        open_index(str(path), ROOT)
    notes = json.dumps({"__metadata__": {"mldec": "[" * 100_000}}).encode()
    path.write_bytes(struct.pack("<Q", len(notes)) + notes)
    with pytest.raises(ValueError, match="is damaged, or no index"):
        open_index(str(path), ROOT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**32))
        file.truncate(2**33)
    with pytest.raises(ValueError, match="too large"):
        open_index(str(path), ROOT)


def test_the_root_is_the_one_that_is_expected(tmp_path: Path) -> None:
    """A dataset whose images lie elsewhere says where; a cached index cannot say another place."""
    path = tmp_path / "x.index"
    save_index(make("/elsewhere"), str(path), ROOT, root="/elsewhere")
    assert open_index(str(path), ROOT, "/elsewhere")[0].root == "/elsewhere"
    for root in (None, "/other"):
        with pytest.raises(ValueError, match="its root"):
            open_index(str(path), ROOT, root)
    with pytest.raises(ValueError, match="its root"):
        save_index(make("/elsewhere"), str(path), ROOT)
    assert not path.exists()


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, st.lists(st.integers(0, 2), max_size=3)), min_size=1, max_size=5))
def test_whatever_can_be_built_can_be_kept(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    labels = LabelSpace(["cat", "dog", "bird"])
    try:
        index = ImageIndex.build([(name, columns, [], []) for name, columns in rows], root=ROOT, labels=labels)
    except DataError:  # a name twice, or of a file that there cannot be
        return
    path = tmp_path_factory.mktemp("kept") / "x.index"
    assert save_index(index, str(path), ROOT).fingerprint() == index.fingerprint()


def test_no_folder_of_the_dataset_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in its .mldec came with it, maybe from a stranger."""
    monkeypatch.delenv("MLDEC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = tmp_path / "data"
    for name, *_ in SAMPLES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    config = DatasetConfig(name="mine", root=str(root))
    cached(config, "train", [str(root)], lambda: make(str(root)))
    (kept,) = (tmp_path / "home" / "mldec").iterdir()
    forged = make(str(root), [(name, [0], [], []) for name, *_ in SAMPLES])
    (kept.parent / kept.name).unlink()
    stat = os.stat(root)
    save_index(forged, str(root / ".mldec" / kept.name), str(root))
    os.utime(root, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    index = cached(config, "train", [str(root)], lambda: make(str(root)))
    assert index.fingerprint() == make(str(root)).fingerprint()


def test_two_datasets_of_equal_sizes_and_times_are_two(tmp_path: Path) -> None:
    """Archives note times, so folders of one form can be told apart by their place only."""
    for name, label in (("one", 0), ("two", 1)):
        root = tmp_path / name
        root.mkdir()
        (root / "a.jpg").touch()
        os.utime(root, (10**9, 10**9))
        index = make(str(root), [("a.jpg", [label, label, label], [], [])])
        config = DatasetConfig(name="mine", root=str(root), cache=str(tmp_path / "cache"))
        assert cached(config, "train", [str(root)], lambda: index).positives[0][0] == label  # noqa: B023


def test_a_relative_cache_home_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mldec.data.cache import user_cache_folder

    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(user_cache_folder()).startswith(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert user_cache_folder() == str(tmp_path / "mine" / "mldec")
