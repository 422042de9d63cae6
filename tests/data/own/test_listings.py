"""Properties: what a reader of an export lists becomes an index, whatever the format."""

from pathlib import Path

import pytest

from mldec.data import table
from mldec.data.own.listing import Entry, Listing
from mldec.data.table import TableConfig, build_table
from mldec.errors import DataError

ENTRIES = [
    Entry("images/a.jpg", ["dog"], ["cat"], [], "train", line=1),
    Entry("images/b.jpg", ["cat"], [], ["dog"], "val", line=2),
    Entry("images/a.jpg", ["bird"], split="train", line=3),
    Entry("c.jpg", [], split="train", folder="FOLDER/images/deep", line=4),
]


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("images/a.jpg", "images/b.jpg", "images/deep/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    path = tmp_path / "annotations" / "export.json"
    path.parent.mkdir()
    path.write_text("{}")
    entries = [
        Entry(e.path, e.present, e.absent, e.unknown, e.split, e.folder and e.folder.replace("FOLDER", str(tmp_path)))
        for e in ENTRIES
    ]

    def recognise(source: str, **settings: object) -> Listing:
        labels = ("dog", "cat", "bird", "fish")
        return Listing(source, "a tool's JSON", str(tmp_path), lambda: iter(entries), labels, (str(path),))

    monkeypatch.setattr(table, "recognise", recognise)
    table._read_outline.cache_clear()
    return path


@pytest.mark.parametrize("whole", [False, True])
def test_a_listing_becomes_an_index(export: Path, tmp_path: Path, whole: bool) -> None:
    config = TableConfig(name="table", train=str(tmp_path if whole else export))
    assert config.splits == ("train", "val")
    for _ in range(2):  # read, and from the cache
        train, val = (build_table(config, split=split) for split in config.splits)
        assert train.labels.names == ("dog", "cat", "bird", "fish")
        assert list(train.names()) == ["images/a.jpg", "images/deep/c.jpg"]
        assert train.targets([0, 1]).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
        assert val.targets([0]).tolist() == [[-1, 1, 0, 0]]
        assert train.root == str(tmp_path)
    unlisted = build_table(TableConfig(name="table", train=str(export), unlisted="unknown"), split="train")
    assert unlisted.targets([0]).tolist() == [[1, 0, 1, -1]]


def test_what_is_not_recognised_is_named(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "recognise", lambda path, **settings: None)
    with pytest.raises(DataError, match=r"export\.json: is no table .* and no export that is known"):
        build_table(TableConfig(name="table", train=str(export)), split="train")
