"""Errors: one sentence with what was found, what is allowed and what to do."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import shlex
from collections.abc import Iterable, Sequence

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all control characters but tab and newline

SURROGATE = re.compile(r"[\ud800-\udfff]")  # in text: a byte that is not UTF-8 (PEP 383), or half of a UTF-16 pair
MAX_OPTIONS, MAX_COMPARED = 5000, 200  # compared, and their letters: comparing takes long
# What a terminal must not be given as it is: control characters but tab and newline, marks and overrides of the text
# direction (Unicode TR9), line and paragraph separators, and surrogates, which stand for bytes that are no UTF-8.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DIGITS = re.compile("[0-9]{1,18}")  # ASCII alone: int() and str.isdigit() take other scripts' digits, and superscripts
_LONG_WORD = re.compile(r"\S{400,}")
LONGEST_SHOWN = 80  # characters of a wrong value that an error repeats
LONGEST_PATH = 500  # of a path
_PLAIN = re.compile(r"[A-Za-z_][\w.@%+-]*|\.{1,2}|[\w.@%+-]*(/[\w.@%+-]*)+", re.A)  # needs no quotes for Hydra
_KEYWORDS = ("null", "true", "false", "nan", "inf")


class MldecError(Exception):
    """A problem that the user can correct. Commands print it without a traceback and leave with `exit_code`."""

    exit_code = 1


class ConfigError(MldecError):
    """The experiment as composed is not valid; nothing was read and nothing was written."""

    exit_code = 2


class DataError(MldecError):
    """Images or annotations are missing, broken or inconsistent."""

    exit_code = 2


class CheckpointError(MldecError):
    """A file of weights is missing, damaged, or belongs to something else."""

    exit_code = 2


class RunError(MldecError):
    """A run that had begun cannot continue; what it had saved is kept."""


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 6, 60, 60


#: What errors of torch, numpy, OpenCV, CUDA and dlopen contain where memory of the host or of a device ran out.
OUT_OF_MEMORY: tuple[str, ...]
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "insufficient memory", "bad_alloc")
OUT_OF_MEMORY += ("failed to map segment",)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: MemoryError, and what libraries raise in its place."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def describe_out_of_memory(error: BaseException) -> str:
    """One line for an error of which `is_out_of_memory` is true: how much was requested, if known, and what to do."""
    amount = re.search(r"allocate (?:more than )?([\d.]+ ?(?:bytes|[KMGT]iB))", str(error))
    requested = f" (requested {amount[1]})" if amount else ""
    return (
        f"out of memory{requested}. Lower schedule.batch_size, runtime.eval_batch_size, batch_size= or "
        "dataset.image_size, use fewer runtime.workers, or a machine with more memory; debug=true shows where it was"
    )


def first_lines(error: BaseException, most: int = 1) -> str:
    """The first lines of an error's text, joined; the name of its type where it has none."""
    lines = [line.strip() for line in str(error).strip().splitlines()[:most]]
    return "; ".join(lines) or type(error).__name__


def option(name: str, value: object) -> str:
    """`name=value`, quoted so that it can be pasted into a shell."""
    return shlex.quote(f"{name}={value}")


def as_override(key: str, value: str | bool | Sequence[str]) -> str:
    """An override that sets `key` of an experiment to the text `value`, whatever is in it, a list of texts, or a bool.

    Quoted as Hydra's grammar needs it (hydra.cc/docs/advanced/override_grammar/basic, "Quoted values"), with `${` as
    OmegaConf escapes what is no interpolation.
    """
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if not isinstance(value, str):
        return f"{key}=[{','.join(as_override('', item)[1:] for item in value)}]"
    if _PLAIN.fullmatch(value) and ("/" in value or value.lower() not in _KEYWORDS):
        return f"{key}={value}"
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    sign = "'" if '"' in text and "'" not in text else '"'
    text = re.sub(rf"(\\*)({sign}|\Z)", lambda found: found[1] * 2 + ("\\" + sign if found[2] else ""), text)
    return f"{key}={sign}{text}{sign}"


def setting(key: str, value: str | bool | Sequence[str]) -> str:
    """The same, quoted so that it can be pasted into a shell. Options of a command take text as it is: `option`."""
    return shlex.quote(as_override(key, value))


def suggest(name: str, options: Iterable[str]) -> str:
    """`did you mean …? (allowed: …)` for a name that is none of `options`."""
    names = sorted(options)
    near = difflib.get_close_matches(name[:MAX_COMPARED], names[:MAX_OPTIONS], n=1, cutoff=0.5)
    more = f", and {len(names) - 40} more" if len(names) > 40 else ""
    allowed = f"allowed: {', '.join(option[:80] for option in names[:40])}{more}"
    return f"did you mean {near[0][:MAX_COMPARED]}? ({allowed})" if near else allowed


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError unless argument `name` of a constructor or function is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: no such {name}; use {', '.join(allowed[:-1])} or {allowed[-1]}")


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """`text` for a terminal or a log: whatever could move the cursor, reorder or hide text, as its code (`\\x1b`).

    Newlines and tabs stay, for messages of several lines; see `printable_name`.
    """
    return _UNSAFE.sub(_code, text)


def printable_name(name: object) -> str:
    """A file name or label for a terminal or a log: as `printable`, and on one line."""
    return printable(str(name).replace("\n", "\\n").replace("\t", "\\t"))


def shortened(value: object, most: int = LONGEST_SHOWN) -> str:
    """Any value as an error repeats it: on one line, of at most about `most` characters, in a bounded time."""
    if isinstance(value, os.PathLike):
        most = max(most, LONGEST_PATH)  # the end of a path is what tells it from others
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length():,} bits"
    if value is None or isinstance(value, (str, bool, int, float, os.PathLike, Exception)):
        text = str(value)
    else:
        text = _SHORT.repr(value) if isinstance(value, (dict, list, tuple, set)) else f"a {type(value).__name__}"
    return printable_name(text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)")


def without_long_words(text: str) -> str:
    """`text` with its longest words cut, such as a value of 5,000 digits."""
    return _LONG_WORD.sub(lambda found: f"{found[0][:LONGEST_SHOWN]}… ({len(found[0]):,} characters)", text)


def whole_number(text: str) -> int | None:
    """The integer of at least 0 that `text` holds in at most 18 ASCII digits, and nothing else; None otherwise."""
    return int(text) if _DIGITS.fullmatch(text) else None


def _code(found: re.Match[str]) -> str:
    value = ord(found[0])
    if 0xDC80 <= value <= 0xDCFF:  # the byte that it stands for
        value -= 0xDC00
    return f"\\x{value:02x}" if value < 0x100 else f"\\u{value:04x}"
