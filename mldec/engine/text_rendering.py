"""Text on images, in any script that the font has: OpenCV's fonts know ASCII alone.

The font is DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more, but not Chinese, Japanese
or Korean. `use_font` takes another. Scripts from right to left are in their right order where Pillow has libraqm.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable
from pathlib import Path

from PIL import ImageDraw, ImageFont

from mldec.errors import ConfigError, DataError
from mldec.untrusted import check_regular

Colour = tuple[int, int, int]

_chosen: list[str] = []


def use_font(path: str) -> None:
    """Write with the font of a file (TTF, OTF, TTC) from now on. Raises ConfigError if it is none."""
    try:
        check_regular(Path(path).expanduser())
        ImageFont.truetype(str(Path(path).expanduser()), 12)
    except (DataError, OSError, ValueError) as error:
        raise ConfigError(f"font={path}: no font that can be read: {error}; expected a .ttf, .otf or .ttc") from None
    _chosen[:] = [str(Path(path).expanduser())]
    _font.cache_clear()


def write(
    draw: ImageDraw.ImageDraw,
    text: str,
    left: int,
    baseline: int,
    colour: Colour,
    *,
    size: int,
    width: int,
    right: bool = False,
) -> None:
    """Write `text` in letters of `size` px; what is over `width` px is cut off.

    The `width` px begin at `left`; `right`: the text ends where they do.
    """
    start, anchor = (left + width, "rs") if right else (left, "ls")
    draw.text((start, baseline), fit(text, size, width), fill=colour, font=_font(size), anchor=anchor)


def fit(text: str, size: int, width: int) -> str:
    """`text` if it is at most `width` px wide, else as much of its beginning as is, and an ellipsis."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    lengths = range(1, len(text) + 1)
    fitting = bisect.bisect_right(lengths, float(width), key=lambda n: font.getlength(text[:n].rstrip() + "…"))
    return text[:fitting].rstrip() + "…"


def unreadable(texts: Iterable[str]) -> list[str]:
    """Those of `texts` with characters that the font lacks."""
    return [text for text in texts if not all(_has(character) for character in text)]


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    if _chosen:
        return ImageFont.truetype(_chosen[0], size)
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _has(character: str) -> bool:
    """Whether the font draws something else for a character than for one that no font has."""
    if character.isspace():
        return True
    font = _font(16)
    mask, none = font.getmask(character), font.getmask("\U0010fffd")
    return mask.size != none.size or bytes(mask) != bytes(none)
