"""Formats of images that are not read: their files are named, with what to do, and never left out silently."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

from mldec.errors import printable_name

#: Endings of such files.
UNREAD = frozenset(
    ".heic .heif .hif .jxl .psd .svg .eps .dng .cr2 .cr3 .nef .arw .orf .raf .rw2 .exr .hdr .tga .xcf".split()  # noqa: SIM905
)
HEIC = (
    "convert them to JPEG or PNG (macOS: sips -s format jpeg a.heic --out a.jpg; Linux: heif-convert a.heic a.jpg, "
    "from the package libheif-examples)"
)
SHOWN = 3  # names in a sentence


def unread_reason(ending: str) -> str:
    """Why files with an ending of UNREAD are skipped, and what to do."""
    advice = HEIC if ending in (".heic", ".heif", ".hif") else "convert them to JPEG or PNG"
    return f"images in {ending[1:].upper()} are not read; {advice}"


def describe_skipped(names: Sequence[str], reason: str) -> str:
    """`skipped a, b, c and 2 more: reason`."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"skipped {', '.join(map(printable_name, names[:SHOWN]))}{more}: {reason}"


def describe_unread(paths: Iterable[str]) -> list[str]:
    """A sentence for each ending among paths of files in such formats."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_reason[unread_reason(os.path.splitext(path)[1].lower())].append(path)
    return [describe_skipped(names, reason) for reason, names in by_reason.items()]
