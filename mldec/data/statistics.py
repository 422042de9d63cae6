"""Statistics of a split: labels per image, images per label, labels that co-occur, sizes of images."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mldec.data.dataset import name_some
from mldec.data.image import read_size
from mldec.data.index import ImageIndex
from mldec.errors import DataError, counted

SAMPLE = 1000  # images whose size is read
SHOWN = 10  # labels at either end, and pairs, in the text
PANEL = 25  # labels in the image's table of co-occurrence


@dataclass(frozen=True)
class Summary:
    """Figures of an index.

    Attributes:
        names: (N,) labels.
        images: S.
        present, absent, unknown: (N,) in how many images each label is.
        labels_per_image: (most + 1,) number of images with 0, 1, 2, … labels.
        together: (M,M) in how many images two of the `frequent` labels both are; the diagonal has the single labels.
        frequent: (M,) columns of the labels with most images, most frequent first.
        sizes: (P,2) width and height of images drawn at random, or of all.
        unreadable: how many of those drawn cannot be read.
    """

    names: tuple[str, ...]
    images: int
    present: np.ndarray
    absent: np.ndarray
    unknown: np.ndarray
    labels_per_image: np.ndarray
    frequent: np.ndarray
    together: np.ndarray
    sizes: np.ndarray
    unreadable: int

    @property
    def mean_labels(self) -> float:
        """Mean number of labels per image."""
        return float(np.arange(len(self.labels_per_image)) @ self.labels_per_image / self.images)

    def pairs(self, most: int = SHOWN) -> list[tuple[int, int, int]]:
        """(column, other column, images) of the labels that co-occur most."""
        upper = np.triu(self.together, 1)
        order = np.argsort(-upper, axis=None, kind="stable")[:most]
        places = zip(*np.unravel_index(order, upper.shape), strict=True)
        return [(int(self.frequent[i]), int(self.frequent[j]), int(upper[i, j])) for i, j in places if upper[i, j]]

    def describe(self) -> str:
        """The figures as text."""
        none = int((self.present == 0).sum())
        lines = [
            f"images        {self.images:,}",
            f"labels          {len(self.names):,}" + (f", {none:,} of them in no image" if none else ""),
            f"labels/image  mean {self.mean_labels:.2f}, most {len(self.labels_per_image) - 1}, "
            f"none in {counted(int(self.labels_per_image[0]), 'image')}",
        ]
        if self.unknown.any():
            share = self.unknown.sum() / (self.images * len(self.names))
            lines.append(f"unknown         {share:.1%} of all (image, label) pairs")
        if len(self.sizes):
            width, height = np.median(self.sizes, axis=0)
            least, most = self.sizes.min(axis=1).min(), self.sizes.max()
            broken = f"; {self.unreadable} cannot be read" if self.unreadable else ""
            lines.append(
                f"sizes           median {width:.0f} x {height:.0f}, shortest side {least}, longest {most} "
                f"({counted(len(self.sizes), 'image')} read{broken})"
            )
        present, order = self.present, np.argsort(-self.present, kind="stable")
        rows = [(self.names[c], f"{present[c]:>10,}  {present[c] / self.images:7.2%}") for c in order if present[c]]
        lines += ["", "most frequent", *_table(rows[:SHOWN])]
        if len(rows) > SHOWN:
            lines += ["", "rarest", *_table(rows[SHOWN:][-SHOWN:])]
        if none:
            absent = [self.names[c] for c in np.flatnonzero(present == 0)]
            lines += ["", f"in no image: {name_some(absent, none, SHOWN)}"]
        pairs = []
        for a, b, count in self.pairs():
            lift = count * self.images / (present[a] * present[b])
            figures = f"{count:>10,}  {lift:7.1f} x as often as if independent"
            pairs.append((f"{self.names[a]} + {self.names[b]}", figures))
        return "\n".join([*lines, *(["", "together", *_table(pairs)] if pairs else [])])

    def to_mapping(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "images": self.images,
            "labels_per_image": self.labels_per_image.tolist(),
            "mean_labels_per_image": self.mean_labels,
            "labels": [
                {"label": name, "present": int(present), "absent": int(absent), "unknown": int(unknown)}
                for name, present, absent, unknown in zip(
                    self.names, self.present, self.absent, self.unknown, strict=True
                )
            ],
            "together": [
                {"labels": [self.names[a], self.names[b]], "images": count} for a, b, count in self.pairs(100)
            ],
            "sizes": {"looked_at": len(self.sizes), "unreadable": self.unreadable, "width_height": self.sizes.tolist()},
        }


def summarize(index: ImageIndex, *, on_done: Callable[[int], None] = lambda count: None) -> Summary:
    """Count an index; `on_done` is called with the number of images whose size was read since its last call."""
    size = len(index)
    rows, columns = (np.concatenate(parts) for parts in zip(*index.present_pairs(), strict=True))
    present, absent, unknown = index.states_per_class()
    frequent = np.argsort(-present, kind="stable")[:200]
    sizes, unreadable = _sizes(index, on_done)
    return Summary(
        names=index.labels.names,
        images=size,
        present=present,
        absent=absent,
        unknown=unknown,
        labels_per_image=np.bincount(np.bincount(rows, minlength=size)),
        frequent=frequent,
        together=count_together(rows, columns, frequent, size),
        sizes=sizes,
        unreadable=unreadable,
    )


def count_together(rows: np.ndarray, columns: np.ndarray, frequent: np.ndarray, size: int) -> np.ndarray:
    """In how many images two labels both are.

    Args:
        rows, columns: (P,) the image and the label of each present pair, each pair once.
        frequent: (M,) the labels that are counted.
        size: the number of images.

    Returns (M,M) counts in the order of `frequent`; the diagonal has the single labels.
    """
    from scipy.sparse import csr_array

    place = np.full(int(columns.max(initial=0)) + 1, -1)
    used = frequent[frequent < len(place)]
    place[used] = np.arange(len(used))
    kept = place[columns] >= 0
    entries = (np.ones(kept.sum(), np.int64), (rows[kept], place[columns[kept]]))
    matrix = csr_array(entries, shape=(size, len(frequent)))
    return np.asarray((matrix.T @ matrix).todense())


def draw_statistics(summary: Summary, path: Path, *, title: str) -> None:
    """Write an image of four panels: images per label, labels per image, labels together, sizes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    figure = Figure(figsize=(15, 11), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: {summary.images:,} images, {len(summary.names):,} labels", fontsize=15)
    panels = figure.subplots(2, 2)
    _draw_frequencies(panels[0, 0], summary)
    _bars(panels[0, 1], summary.labels_per_image)
    panels[0, 1].set(title=f"Labels per image (mean {summary.mean_labels:.2f})", xlabel="labels", ylabel="images")
    panels[0, 1].xaxis.get_major_locator().set_params(integer=True)
    _draw_together(panels[1, 0], summary, figure)
    panels[1, 1].set(title=f"Sizes of {len(summary.sizes):,} images", xlabel="width in pixels", ylabel="height")
    if len(summary.sizes):
        panels[1, 1].scatter(*summary.sizes.T, s=12, alpha=0.35, color=COLOUR, linewidths=0)
        top = 1.05 * summary.sizes.max()
        panels[1, 1].set(xlim=(0, top), ylim=(0, top), aspect="equal")
    else:
        panels[1, 1].set(title="No size could be read", xticks=[], yticks=[], xlabel="", ylabel="")
    for panel in panels[0]:
        if panel.get_yscale() == "linear":
            panel.yaxis.get_major_locator().set_params(integer=True)
            panel.yaxis.set_major_formatter("{x:,.0f}")
    for panel in (*panels[0], panels[1, 1]):
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):  # of characters that the font lacks: they become boxes
        figure.savefig(path)


COLOUR = "#2b6ca3"


def _bars(panel: Any, counts: np.ndarray) -> None:
    """A bar for each count, or one outline of all where they are too many to be told apart: a bar takes 1 ms."""
    if len(counts) <= 300:
        panel.bar(range(len(counts)), counts, color=COLOUR, width=0.85 if len(counts) <= 100 else 1.0)
    else:
        panel.fill_between(range(len(counts)), counts, step="mid", color=COLOUR, linewidth=0)


def _draw_frequencies(panel: Any, summary: Summary) -> None:
    order = np.argsort(-summary.present, kind="stable")
    counts = summary.present[order]
    panel.set(title="Images per label", ylabel="images")
    _bars(panel, counts)
    panel.margins(x=0.01)
    if counts[0] > 50 * max(counts[-1], 1):
        panel.set_yscale("symlog", linthresh=1)
        panel.set_ylim(bottom=0)
    if len(counts) <= 40:
        names = [_short(summary.names[column]) for column in order]
        panel.set_xticks(range(len(counts)), names, rotation=60, ha="right", fontsize=9)
    else:
        panel.set_xlabel("labels, most frequent first")


def _draw_together(panel: Any, summary: Summary, figure: Any) -> None:
    count = int(min(PANEL, (summary.present > 0).sum()))
    panel.set_title("Where the label of a row is present, how often is that of a column?")
    if count == 0:
        panel.set_axis_off()
        return
    together = summary.together[:count, :count]
    shares = together / np.maximum(np.diagonal(together)[:, None], 1)
    np.fill_diagonal(shares, np.nan)
    image = panel.imshow(shares, cmap="viridis", vmin=0, vmax=np.nan_to_num(shares).max() or 1)
    names = [_short(summary.names[column]) for column in summary.frequent[:count]]
    panel.set_xticks(range(count), names, rotation=60, ha="right", fontsize=8)
    panel.set_yticks(range(count), names, fontsize=8)
    figure.colorbar(image, ax=panel, fraction=0.046)


def _short(name: str) -> str:
    """A label as matplotlib may show it: no formula, no more than a few words."""
    name = name.replace("$", r"\$")
    return name if len(name) <= 22 else name[:21] + "…"


def _sizes(index: ImageIndex, on_done: Callable[[int], None]) -> tuple[np.ndarray, int]:
    rows = np.random.default_rng(0).permutation(len(index))[:SAMPLE]
    found = []
    for row in np.sort(rows):
        with contextlib.suppress(DataError):
            found.append(read_size(index.path(row)))
        on_done(1)
    return np.array(found, np.int64).reshape(-1, 2), len(rows) - len(found)


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}  {figures}" for name, figures in rows]
