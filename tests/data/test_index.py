import pickle
from pathlib import Path

import numpy as np
import pytest

from mldec.data.index import ImageIndex, Ragged
from mldec.errors import DataError
from mldec.labels import LabelSpace

LABELS = LabelSpace(["cat", "dog", "bird", "fish"])
SAMPLES = [
    ("a.jpg", [0, 2], [1], [3]),
    ("ü/b.jpg", [], [], []),
    ("c.jpg", [3], [0, 1, 2], []),
    ("d.jpg", [1], [1, 2], [1, 2]),
]


def build(default: int = 0) -> ImageIndex:
    return ImageIndex.build(SAMPLES, root="/data", labels=LABELS, default=default)


def slow_targets(rows: list[int], default: int) -> np.ndarray:
    targets = np.full((len(rows), 4), default, np.int8)
    for place, row in enumerate(rows):
        _, positives, negatives, unknown = SAMPLES[row]
        for columns, value in ((negatives, 0), (unknown, -1), (positives, 1)):
            for column in columns:
                targets[place, column] = value
    return targets


@pytest.mark.parametrize("default", [0, -1])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 3, 0], [1], []])
def test_targets_equal_a_plain_loop(rows: list[int], default: int) -> None:
    targets = build(default).targets(rows)
    assert targets.dtype == np.int8
    np.testing.assert_array_equal(targets, slow_targets(rows, default))


def test_a_subset_keeps_paths_and_targets_in_the_order_asked_for() -> None:
    index = build()
    part = index.subset([2, 0, 1])
    assert [part.path(row) for row in range(3)] == ["/data/c.jpg", "/data/a.jpg", "/data/ü/b.jpg"]
    np.testing.assert_array_equal(part.targets([0, 1, 2]), index.targets([2, 0, 1]))


def test_dropping_the_unannotated_keeps_images_with_a_positive() -> None:
    part = build().drop_unannotated()
    assert [part.path(row) for row in range(len(part))] == ["/data/a.jpg", "/data/c.jpg", "/data/d.jpg"]


def test_positives_per_class_counts_images_not_entries() -> None:
    index = ImageIndex.build([("a", [1, 1], [], []), ("b", [1, 3], [], [])], root="/", labels=LABELS)
    assert index.positives_per_class().tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("default", [0, -1])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_states_per_class_are_those_of_the_targets(default: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mldec.data.index.CHUNK_ROWS", chunk)
    rng = np.random.default_rng(default + 1)
    samples = [(f"{i}", *(rng.integers(0, 4, rng.integers(0, 4)).tolist() for _ in range(3))) for i in range(40)]
    index = ImageIndex.build(samples, root="/", labels=LABELS, default=default)
    targets = index.targets(range(40))
    for counts, state in zip(index.states_per_class(), (1, 0, -1), strict=True):
        assert counts.tolist() == (targets == state).sum(axis=0).tolist()
    assert index.positives_per_class().tolist() == (targets == 1).sum(axis=0).tolist()
    pairs = [
        pair for rows, columns in index.present_pairs() for pair in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    assert pairs == [tuple(pair) for pair in np.argwhere(targets == 1).tolist()]


def test_the_fingerprint_follows_content_and_not_the_folder() -> None:
    elsewhere = ImageIndex.build(SAMPLES, root="/elsewhere", labels=LABELS)
    assert build().fingerprint() == elsewhere.fingerprint()
    others = [
        build(default=-1),
        build().subset([0, 1, 3, 2]),
        ImageIndex.build([("A.jpg", [0, 2], [1], [3]), *SAMPLES[1:]], root="/data", labels=LABELS),
        ImageIndex.build([("a.jpg", [0, 2], [1, 3], []), *SAMPLES[1:]], root="/data", labels=LABELS),
        ImageIndex.build(SAMPLES, root="/data", labels=LabelSpace(["cat", "dog", "bird", "cod"])),
    ]
    assert len({index.fingerprint() for index in [build(), *others]}) == 6


def test_pickling_keeps_everything() -> None:
    index = build()
    assert pickle.loads(pickle.dumps(index)).fingerprint() == index.fingerprint()


def test_memory_mapped_arrays_travel_by_name(tmp_path: Path) -> None:
    values = np.arange(1_000_000, dtype=np.int32) % 4
    np.save(tmp_path / "values.npy", values)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    lists = Ragged(np.array([0, 1_000_000]), mapped)
    message = pickle.dumps(lists)
    assert len(message) < 2000
    copy = pickle.loads(message)
    assert isinstance(copy.values, np.memmap)
    np.testing.assert_array_equal(copy.values, values)
    part = pickle.loads(pickle.dumps(Ragged(np.array([0, 3]), mapped[5:8])))  # a view does not know its own place
    assert part.values.tolist() == [1, 2, 3]


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", "C:\\a.jpg", "a\\..\\b.jpg"])
def test_paths_that_leave_the_folder_are_refused(path: str) -> None:
    with pytest.raises(DataError, match="leaves the dataset's folder"):
        ImageIndex.build([(path, [], [], [])], root="/data", labels=LABELS)


@pytest.mark.parametrize("path", ["", " ", None, 3, ["a.jpg"]])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(DataError, match="expected text such as"):
        ImageIndex.build([(path, [], [], [])], root="/data", labels=LABELS)  # type: ignore[list-item]


def test_a_image_is_one_however_its_path_is_spelled() -> None:
    assert list(ImageIndex.build([("./a//b.jpg", [], [], [])], root="/data", labels=LABELS).names()) == ["a/b.jpg"]
    with pytest.raises(DataError, match=r"'a/b.jpg' is listed twice"):
        ImageIndex.build([("a/b.jpg", [], [], []), ("a/./b.jpg", [], [], [])], root="/data", labels=LABELS)


def test_inconsistent_content_is_refused() -> None:
    with pytest.raises(DataError, match="columns 4 to 4; there are 4 labels"):
        ImageIndex.build([("a", [4], [], [])], root="/", labels=LABELS)
    with pytest.raises(DataError, match="no image"):
        ImageIndex.build([], root="/", labels=LABELS)
    with pytest.raises(DataError, match="default=1"):
        build(default=1)


@pytest.mark.parametrize("default", [0, -1])
@pytest.mark.parametrize("names", [["cat", "dog", "bird", "fish"], ["fish", "cat"], ["dog"], ["bird", "fish", "cat"]])
def test_some_labels_in_any_order_keep_their_targets(names: list[str], default: int) -> None:
    index = build(default)
    part = index.with_labels(LabelSpace(names))
    columns = [LABELS.index(name) for name in names]
    np.testing.assert_array_equal(part.targets(range(4)), index.targets(range(4))[:, columns])
    assert [part.path(row) for row in range(4)] == [index.path(row) for row in range(4)]


def test_labels_that_are_not_there_are_named() -> None:
    with pytest.raises(DataError, match="no label 'dogs'; did you mean dog"):
        build().with_labels(LabelSpace(["cat", "dogs"]))


@pytest.mark.parametrize("default", [0, -1])
@pytest.mark.parametrize("hidden", [["cat"], ["dog", "fish"], ["fish", "bird", "dog", "cat"][:3]])
def test_hidden_labels_are_unknown_and_the_others_as_they_were(hidden: list[str], default: int) -> None:
    index = build(default)
    expected = index.targets(range(4))
    expected[:, [LABELS.index(name) for name in hidden]] = -1
    part = index.with_unknown(hidden)
    np.testing.assert_array_equal(part.targets(range(4)), expected)
    np.testing.assert_array_equal(part.targets([3, 1]), expected[[3, 1]])
    assert part.labels is index.labels


def test_cooccurrence_counts_the_images_in_which_both_labels_are_present():
    rng = np.random.default_rng(0)
    targets = (rng.random((2500, 7)) < 0.3).astype(np.int64)  # more rows than are handled at a time
    samples = [
        (f"{row}.jpg", [*np.flatnonzero(given), *np.flatnonzero(given)[:1]], [], [])
        for row, given in enumerate(targets)
    ]
    index = ImageIndex.build(samples, root="/images", labels=LabelSpace([f"label {n}" for n in range(7)]))
    np.testing.assert_array_equal(index.cooccurrence(), targets.T @ targets)
    np.testing.assert_array_equal(np.diag(index.cooccurrence()), index.positives_per_class())
    empty = ImageIndex.build([("a.jpg", [], [], [])], root="/images", labels=LabelSpace(["a", "b"]))
    np.testing.assert_array_equal(empty.cooccurrence(), np.zeros((2, 2)))


@pytest.mark.parametrize("default", [0, -1])
@pytest.mark.parametrize("chunk", [7, 100])
def test_an_image_does_not_count_for_a_pair_of_which_a_label_is_unknown(default, chunk, monkeypatch):
    """To mark a label as unknown in an image is to remove that image from what is counted of the label's pairs."""
    monkeypatch.setattr("mldec.data.index.CHUNK_ROWS", chunk)
    rng = np.random.default_rng(-default)
    targets = rng.choice([-1, 0, 0, 1], (60, 6)).astype(np.int8)
    targets[:, 5] = -1  # never known
    samples = []
    for row, given in enumerate(targets):
        present, listed = np.flatnonzero(given == 1), np.flatnonzero(given != default)  # which present ones beat
        samples.append((f"{row}.jpg", present, *(([], listed) if default == 0 else (listed, []))))
    labels = LabelSpace([f"label {n}" for n in range(6)])
    index = ImageIndex.build(samples, root="/images", labels=labels, default=default)
    np.testing.assert_array_equal(index.targets(range(60)), targets)
    found = index.cooccurrence()
    np.testing.assert_array_equal(np.diag(found), index.positives_per_class())
    for i in range(6):
        for j in range(6):
            rows = np.flatnonzero((targets[:, i] >= 0) & (targets[:, j] >= 0))
            known = index.subset(rows).cooccurrence() if len(rows) else np.zeros((6, 6))
            share = known[i, j] / max(known[i, i], 1)
            np.testing.assert_allclose(found[i, j], share * found[i, i], rtol=1e-12, err_msg=f"{i} {j}")
            both = (targets[rows][:, [i, j]] == 1).all(axis=1).sum()
            assert share == both / max((targets[rows, i] == 1).sum(), 1)
