"""Near-duplicates: images that are the same but for their size, compression, brightness or a narrow border.

A hash finds candidates, a thumbnail decides. The hash is that of C. Zauner, "Implementation and Benchmarking of
Perceptual Image Hash Functions" (thesis, Hagenberg 2010), section 3.2.1: of the discrete cosine transform of a grey
image of 32 x 32 pixels, the 8 x 8 lowest frequencies but for the first row and column, and of each whether it is above
their median. Hashes that differ in few bits are found with several tables (multi-index hashing: M. Norouzi, A. Punjani,
D. Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012), not by comparing each with each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mldec.data.image import decode
from mldec.data.index import ImageIndex
from mldec.data.verify import Problem, for_each_image
from mldec.errors import DataError

SIDE = 32  # pixels of the grey image that is hashed
THUMBNAIL = 16  # pixels of the side of what is compared
# Measured on 10,500 photographs of COCO: the hashes of 11 of 55 million pairs differ in at most 10 bits. One of these
# is of the same moment; its thumbnails correlate by 0.85, those of the others by at most 0.49. With the broad shades,
# which many photographs share, others were as close as that one. docs/own-data.md says which changes are found.
DISTANCE = 10  # bits of 64
CORRELATION = 0.7
SHADES = 4.0  # standard deviation in pixels of the blurred thumbnail that is taken away

TABLES = 4  # of 16 bits each; with DISTANCE below 12, one of the four differs in at most REACH bits
REACH = 2
CHUNK = 2**21  # candidates that are compared at a time


@dataclass(frozen=True)
class NearDuplicates:
    """What was found in an index.

    Attributes:
        pairs: (P,2) int64 rows, the lower one first, in ascending order. Of images with the same hash, only the pairs
            with the first of them.
        unreadable: the images that could not be read, which were not compared.
    """

    pairs: np.ndarray
    unreadable: tuple[Problem, ...]


def find_near_duplicates(
    index: ImageIndex, *, workers: int, on_done: Callable[[int], None] = lambda count: None
) -> NearDuplicates:
    """Compare all images of an index with one another.

    Images of one colour, which have nothing to compare, are in no pair.

    Args:
        workers: processes that read images.
        on_done: called with the number of images read since its last call.

    Raises:
        DataError: a process died, see `for_each_image`.
    """
    read = for_each_image(index, _signature_of, workers=workers, on_done=on_done)
    unreadable = tuple(one for one in read if isinstance(one, Problem))
    return NearDuplicates(near_pairs([one for one in read if isinstance(one, Signature)]), unreadable)


def near_pairs(signatures: Sequence[Signature]) -> np.ndarray:
    """The pairs of `NearDuplicates` by the rows of these signatures."""
    if len(signatures) < 2:
        return np.empty((0, 2), np.int64)
    rows = np.array([one.row for one in signatures])
    hashes = np.array([one.hash for one in signatures], np.uint64)
    thumbnails = np.stack([one.thumbnail for one in signatures])
    pairs = close_pairs(hashes)
    alike = np.concatenate([_correlation(thumbnails, part) for part in _parts(pairs)]) >= CORRELATION
    return rows[pairs[alike]]


def close_pairs(hashes: np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """Pairs of hashes that differ in at most `distance` bits, in a time that grows little faster than their number.

    Args:
        hashes: (S,) uint64.
        distance: at most 11, for which the tables are made.

    Returns:
        (P,2) int64 positions, the lower one first, in ascending order; of equal hashes only pairs with the first.
    """
    if distance >= TABLES * (REACH + 1):
        raise ValueError(f"distance={distance}: at most {TABLES * (REACH + 1) - 1}")
    different, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    found = [np.stack([first[which], np.arange(len(hashes))], axis=1)]
    for table in range(TABLES):
        keys = _every_fourth_bit(different, table)
        for pairs in _candidates(keys):
            distances = _bits(different[pairs[:, 0]] ^ different[pairs[:, 1]])
            found.append(np.sort(first[pairs[distances <= distance]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)


@dataclass(frozen=True)
class Signature:
    """What of an image is compared: a hash of 64 bits, and (THUMBNAIL, THUMBNAIL) uint8 grey."""

    row: int
    hash: int
    thumbnail: np.ndarray


def signature(image: np.ndarray, row: int = 0) -> Signature:
    """The signature of an image, (H,W,3) uint8 RGB."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[1:9, 1:9].ravel()
    content = np.packbits(low > np.median(low)).tobytes()
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Signature(row, int.from_bytes(content, "big"), thumbnail)


def _signature_of(index: ImageIndex, row: int) -> Signature | Problem:
    try:
        return signature(decode(index.path(row), min_side=SIDE), row)
    except DataError as error:
        return Problem(index.path(row), str(error))


def _correlation(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) the correlation, -1 to 1, of the thumbnails of each pair (P,2); 0 for one of a single colour."""
    first, second = (_without_shades(thumbnails[side]) for side in pairs.T)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / np.maximum(norms, 1)


def _without_shades(thumbnails: np.ndarray) -> np.ndarray:
    """(P,16,16) uint8 to (P,256) float32 with mean 0: what differs from the neighbourhood."""
    values = thumbnails.astype(np.float32)
    for image in values:
        image -= cv2.GaussianBlur(image, (0, 0), SHADES)
    values = values.reshape(-1, THUMBNAIL**2)
    return values - values.mean(axis=1, keepdims=True)


def _every_fourth_bit(hashes: np.ndarray, table: int) -> np.ndarray:
    """(S,) keys of 16 bits: every fourth bit, since neighbours among the frequencies depend on one another."""
    keys = np.zeros(len(hashes), np.int64)
    for bit in range(16):
        keys |= ((hashes >> np.uint64(TABLES * bit + table)) & np.uint64(1)).astype(np.int64) << bit
    return keys


def _candidates(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of positions, (P,2) at a time, whose keys of 16 bits differ in at most REACH bits; each pair once."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    counts = np.bincount(keys, minlength=2**16)
    ends = np.cumsum(counts)
    places = np.arange(len(keys))
    masks = (
        sum(1 << bit for bit in bits) for size in range(REACH + 1) for bits in itertools.combinations(range(16), size)
    )
    for mask in masks:
        other = keys ^ mask
        last = ends[other]
        begin = np.maximum(last - counts[other], places + 1)  # only those behind: each pair once
        sizes = np.maximum(last - begin, 0)
        for some in _runs(sizes):
            left = np.repeat(places[some], sizes[some])
            inner = np.arange(len(left)) - np.repeat(np.cumsum(sizes[some]) - sizes[some], sizes[some])
            yield order[np.stack([left, np.repeat(begin[some], sizes[some]) + inner], axis=1)]


def _runs(sizes: np.ndarray) -> Iterator[slice]:
    """Runs of rows that stand for about CHUNK pairs together, or for one row's."""
    total = np.cumsum(sizes)
    start = 0
    while start < len(sizes) and total[-1] > (done := total[start - 1] if start else 0):
        stop = max(start + 1, int(np.searchsorted(total, done + CHUNK, side="right")))
        yield slice(start, stop)
        start = stop


def _parts(pairs: np.ndarray) -> Iterator[np.ndarray]:
    """The pairs, some thousand at a time; one empty part where there are none."""
    for begin in range(0, max(len(pairs), 1), 2**14):
        yield pairs[begin : begin + 2**14]


_BITS = np.array([number.bit_count() for number in range(2**16)], np.uint8)


def _bits(numbers: np.ndarray) -> np.ndarray:
    """How many bits of each number, (S,) uint64, are set."""
    return _BITS[numbers.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64)
