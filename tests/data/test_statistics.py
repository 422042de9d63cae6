"""Properties: every figure equals a count over the targets; any labels can be drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mldec.data.index import ImageIndex
from mldec.data.statistics import draw_statistics, summarize
from mldec.labels import LabelSpace


def random_index(folder: Path, size: int = 60, labels: int = 7, default: int = 0) -> ImageIndex:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(size):
        states = rng.choice([1, 0, -1, None], labels, p=[0.3, 0.1, 0.1, 0.5])
        lists = [[column for column in range(labels) if states[column] == state] for state in (1, 0, -1)]
        samples.append((f"{number}.png", lists[0] * 2, lists[1], lists[2]))
        Image.new("L", (20 + number, 40)).save(folder / f"{number}.png")
    return ImageIndex.build(
        samples, root=str(folder), labels=LabelSpace([f"l{i}" for i in range(labels)]), default=default
    )


@pytest.mark.parametrize("default", [0, -1])
def test_figures_equal_counts_over_the_targets(tmp_path: Path, default: int) -> None:
    index = random_index(tmp_path, default=default)
    (tmp_path / "3.png").write_bytes(b"broken")
    done: list[int] = []
    summary = summarize(index, on_done=done.append)
    targets = index.targets(range(60))
    for name, state in (("present", 1), ("absent", 0), ("unknown", -1)):
        np.testing.assert_array_equal(getattr(summary, name), (targets == state).sum(axis=0))
    present = (targets == 1).astype(int)
    np.testing.assert_array_equal(summary.labels_per_image, np.bincount(present.sum(axis=1)))
    assert summary.mean_labels == pytest.approx(present.sum(axis=1).mean())
    ordered = present[:, summary.frequent]
    assert (np.diff(ordered.sum(axis=0)) <= 0).all()
    np.testing.assert_array_equal(summary.together, ordered.T @ ordered)
    a, b, count = summary.pairs(1)[0]
    assert count == (present[:, a] & present[:, b]).sum() == np.triu(present.T @ present, 1).max()
    assert (len(summary.sizes), summary.unreadable, sum(done)) == (59, 1, 60)
    assert sorted(summary.sizes[:, 0]) == [20 + number for number in range(60) if number != 3]
    mapping = json.loads(json.dumps(summary.to_mapping()))
    assert mapping["labels"][2]["present"] == present[:, 2].sum()
    text = summary.describe()
    assert "images        60" in text
    assert ("unknown" in text) == (targets == -1).any()


def test_thousands_of_labels_take_no_square_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [(f"{i}.jpg", rng.integers(0, 9605, 6).tolist(), [], []) for i in range(2000)]
    index = ImageIndex.build(samples, root=str(tmp_path), labels=LabelSpace([f"l{i}" for i in range(9605)]), default=-1)
    summary = summarize(index)
    assert summary.together.shape == (200, 200)
    assert summary.unreadable == 1000
    assert "of them in no image" in summary.describe()


@pytest.mark.parametrize("labels", [["a"], ["$x^", "猫", "<b>", "a" * 90, "_"], [f"l{i}" for i in range(300)]])
def test_any_labels_can_be_drawn(tmp_path: Path, labels: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    samples = [(f"{i}.jpg", [i % len(labels)], [], []) for i in range(20)]
    index = ImageIndex.build(samples, root=str(tmp_path), labels=LabelSpace(labels))
    draw_statistics(summarize(index), tmp_path / "new" / "x.png", title="mine")
    assert Image.open(tmp_path / "new" / "x.png").size == (1650, 1210)
    assert capfd.readouterr().err == ""
    empty = ImageIndex.build([("a.jpg", [], [], [])], root=str(tmp_path), labels=LabelSpace(labels))
    draw_statistics(summarize(empty), tmp_path / "y.png", title="mine")


def test_axes_of_counts_say_where_their_marks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an image is no count: a mark at 2.5 must not be called 2."""
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path: figures.append(figure))
    samples = [(f"{i}.jpg", [0] if i < 19 else [1, 2], [], []) for i in range(26)]
    draw_statistics(
        summarize(ImageIndex.build(samples, root="/", labels=LabelSpace("abc"))), tmp_path / "x.png", title="mine"
    )
    figures[0].canvas.draw()
    for panel in figures[0].axes[:2]:
        marks = dict(zip([mark.get_text() for mark in panel.get_yticklabels()], panel.get_yticks(), strict=True))
        assert len(marks) > 2
        assert all(float(text) == place for text, place in marks.items())
