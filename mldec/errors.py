"""How mldec says no: one sentence with what was found, what is allowed and what to type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all control characters but tab and newline

# What a terminal must not be given as it is: control characters but tab and newline, marks and overrides of the text
# direction (Unicode TR9), line and paragraph separators, and surrogates, which stand for bytes that are no UTF-8.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DIGITS = re.compile("[0-9]{1,18}")  # ASCII alone: int() and str.isdigit() take other scripts' digits, and superscripts
_LONG_WORD = re.compile(r"\S{400,}")
LONGEST_SHOWN = 80  # characters of a wrong value that an error repeats


class MldecError(Exception):
    """A problem that the user can mend. Commands print it without a traceback and leave with `exit_code`."""

    exit_code = 1


class ConfigError(MldecError):
    """The experiment as composed is not valid; nothing was read and nothing was written."""

    exit_code = 2


class DataError(MldecError):
    """Pictures or annotations are missing, broken or inconsistent."""

    exit_code = 2


class CheckpointError(MldecError):
    """A file of weights is missing, damaged, or belongs to something else."""

    exit_code = 2


class RunError(MldecError):
    """A run that had begun cannot go on; what it had saved is kept."""


def suggest(word: str, options: Iterable[str]) -> str:
    """`did you mean …? (allowed: …)` for a word that is none of `options`."""
    names = sorted(options)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    allowed = "allowed: " + ", ".join(names[:40]) + (f", and {len(names) - 40} more" if len(names) > 40 else "")
    return f"did you mean {near[0]}? ({allowed})" if near else allowed


def printable(text: str) -> str:
    """`text` for a terminal or a log: whatever could move the cursor, reorder or hide text, as its code (`\\x1b`).

    Newlines and tabs stay, for messages of several lines; see `printable_name`.
    """
    return _UNSAFE.sub(_code, text)


def printable_name(name: object) -> str:
    """A file name or label for a terminal or a log: as `printable`, and on one line."""
    return printable(str(name).replace("\n", "\\n").replace("\t", "\\t"))


def shortened(value: object, most: int = LONGEST_SHOWN) -> str:
    """A wrong value as an error repeats it: on one line, and not all of its 5,000 digits."""
    try:
        text = str(value)
    except ValueError:  # of an integer with more digits than Python converts
        return "an integer of thousands of digits"
    return printable_name(text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)")


def without_long_words(text: str) -> str:
    """`text` with its longest words cut: a value of 5,000 digits, a name of as many letters."""
    return _LONG_WORD.sub(lambda found: f"{found[0][:LONGEST_SHOWN]}… ({len(found[0]):,} characters)", text)


def whole_number(text: str) -> int | None:
    """The integer of at least 0 that `text` holds in at most 18 ASCII digits, and nothing else; None otherwise."""
    return int(text) if _DIGITS.fullmatch(text) else None


def _code(found: re.Match[str]) -> str:
    value = ord(found[0])
    return f"\\x{value:02x}" if value < 0x100 else f"\\u{value:04x}"
