"""Division of multi-label data so that every part has its share of every label (Sechidis et al. 2011)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mldec.data.index import Ragged


def stratify(
    positives: Ragged, num_labels: int, shares: Sequence[float], *, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """The part of each image, by iterative stratification.

    The label with the fewest images left is distributed first, each of its images to the part that lacks that label
    most; so rare labels, which random parts distribute worst, are distributed best. Then come images without a label.

    Beyond the paper: as soon as no more images of a label are left than there are parts without it, they go to these
    parts, in their order. So the first part, which is the one to train on, has every label, even where that makes it
    larger than its share; the others come next, while they have room. Images of one group are distributed as one, the
    largest group first.

    Args:
        positives: (S,) lists of columns.
        num_labels: the number of columns.
        shares: of each part, all above 0; they sum to 1. The first part is the one that gets every label.
        seed: decides between equal parts.
        groups: (S,) integers; images with the same number get the same part. None: each image is its own group.

    Returns:
        (S,) int64 part of each image. Parts may be empty, of few images, or of few groups. Another order of the same
        images is another division, as another seed would be.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(positives)) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = _Units.of(positives, num_labels, groups)
    left = np.bincount(units.labels.values, minlength=num_labels)  # units that have a label and no part yet
    images = np.bincount(units.labels.values, units.counts.values, minlength=num_labels)
    division = _Division(units, rng, left, np.outer(shares, images), np.array(shares) * len(positives))
    owners = np.repeat(np.arange(len(units.sizes)), units.labels.counts)[np.argsort(units.labels.values, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(left)])

    while (waiting := division.left > 0).any():
        label = int(np.where(waiting, division.left, np.iinfo(np.int64).max).argmin())
        candidates = owners[starts[label] : starts[label + 1]]
        for unit in division.in_turn(candidates):
            division.give(unit, division.part_for(unit, label))
    for unit in division.in_turn(np.arange(len(units.sizes))):
        division.give(unit, division.neediest(unit, division.capacity))
    return division.parts[groups]


def joined(count: int, *pairs: np.ndarray) -> np.ndarray:
    """Groups of things that pairs connect, directly or through others.

    Args:
        count: of the things S.
        pairs: (P,2) integers from 0 to S-1 each.

    Returns:
        (S,) int64: the number of each one's group, from 0.
    """
    together = np.concatenate([np.empty((0, 2), np.int64), *pairs])
    if not len(together):
        return np.arange(count)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = together.T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def pairs_of_equal(values: Iterable[Hashable | None]) -> np.ndarray:
    """(P,2) int64: each position whose value was there before, and the first one that has it. None equals nothing."""
    first: dict[Hashable, int] = {}
    found = [
        (first[value], place)
        for place, value in enumerate(values)
        if value is not None and first.setdefault(value, place) != place
    ]
    return np.array(found, np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class _Units:
    """What is distributed as one: the groups (U,), which without any are the images.

    Attributes:
        sizes: (U,) images of each.
        labels: (U,) lists of the columns that they have, each once.
        counts: how many of a unit's images have each of these.
    """

    sizes: np.ndarray
    labels: Ragged
    counts: Ragged

    @classmethod
    def of(cls, positives: Ragged, num_labels: int, groups: np.ndarray) -> _Units:
        sizes = np.bincount(groups)
        images = np.repeat(np.arange(len(positives)), positives.counts)
        listed = np.unique(images * num_labels + positives.values)  # a list may repeat a column
        images, columns = np.divmod(listed, max(num_labels, 1))
        keys, counts = np.unique(groups[images] * num_labels + columns, return_counts=True)
        units, columns = np.divmod(keys, max(num_labels, 1))
        return cls(sizes, Ragged.from_rows(units, columns, len(sizes)), Ragged.from_rows(units, counts, len(sizes)))


class _Division:
    """Units with the parts that they have so far.

    Attributes:
        left: (N,) units with each label that have no part yet.
        lacking: (P,N) images with each label that the parts P are still to get; may be negative.
        capacity: (P,) images that they are still to get; may be negative.
        without: (N,) in how many parts each label is not.
        parts: (U,) int64; -1 for a unit without a part.
    """

    def __init__(
        self, units: _Units, rng: np.random.Generator, left: np.ndarray, lacking: np.ndarray, capacity: np.ndarray
    ) -> None:
        self.units, self.rng, self.left, self.lacking, self.capacity = units, rng, left, lacking, capacity
        self.has = np.zeros(lacking.shape, bool)
        self.without = np.full(lacking.shape[1], len(capacity))
        self.parts = np.full(len(units.sizes), -1, np.int64)

    def in_turn(self, candidates: np.ndarray) -> list[int]:
        """Those without a part, the largest first, equal ones in random order."""
        waiting = self.rng.permutation(candidates[self.parts[candidates] < 0])
        return waiting[np.argsort(-self.units.sizes[waiting], kind="stable")].tolist()

    def part_for(self, unit: int, label: int) -> int:
        """The part that a unit should get, as one of those with `label`."""
        own = self.units.labels[unit]
        scarce = own[self.left[own] <= self.without[own]]
        for part in range(len(self.capacity)) if len(scarce) else ():
            # Only the first part takes more than fits: it must have every label.
            if not self.has[part, scarce].all() and (part == 0 or self._fits(unit, part)):
                return part
        return self.neediest(unit, self.lacking[:, label])

    def neediest(self, unit: int, lacking: np.ndarray) -> int:
        """The part that lacks most (P,), of those where a group fits; among equals the one with most capacity."""
        if self.units.sizes[unit] > 1:
            fitting = [self._fits(unit, part) for part in range(len(lacking))]
            lacking = np.where(fitting, lacking, -np.inf) if any(fitting) else self.capacity
        best = np.flatnonzero(lacking > lacking.max() - 1e-9)
        if len(best) > 1:
            best = best[self.capacity[best] > self.capacity[best].max() - 1e-9]
        return int(best[0] if len(best) == 1 else self.rng.choice(best))

    def give(self, unit: int, part: int) -> None:
        """Put a unit into a part."""
        own = self.units.labels[unit]
        self.parts[unit] = part
        self.lacking[part, own] -= self.units.counts[unit]
        self.capacity[part] -= self.units.sizes[unit]
        self.left[own] -= 1
        self.without[own] -= ~self.has[part, own]
        self.has[part, own] = True

    def _fits(self, unit: int, part: int) -> bool:
        """Whether a part is nearer to its size with a unit than without it."""
        return bool(2 * self.capacity[part] >= self.units.sizes[unit])
