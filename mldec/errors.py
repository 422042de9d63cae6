"""How mldec says no: one sentence with what was found, what is allowed and what to type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all control characters but tab and newline


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


#: What torch, numpy, OpenCV and CUDA say where memory of the host or of a device ran out.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "insufficient memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: MemoryError, and what libraries raise in its place."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def describe_out_of_memory(error: BaseException) -> str:
    """One line for an error of which `is_out_of_memory` is true: what was asked for, if it says so, and what to do."""
    amount = re.search(r"allocate (?:more than )?([\d.]+ ?(?:bytes|[KMGT]iB))", str(error))
    asked = f" (asked for {amount[1]})" if amount else ""
    return (
        f"out of memory{asked}. Lower schedule.batch_size, runtime.eval_batch_size, batch_size= or dataset.image_size, "
        "use fewer runtime.workers, or a machine with more memory; debug=true shows where it happened"
    )


def suggest(word: str, options: Iterable[str]) -> str:
    """`did you mean …? (allowed: …)` for a word that is none of `options`."""
    names = sorted(options)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    allowed = "allowed: " + ", ".join(names[:40]) + (f", and {len(names) - 40} more" if len(names) > 40 else "")
    return f"did you mean {near[0]}? ({allowed})" if near else allowed


def printable(text: str) -> str:
    """`text` for a terminal: control characters, which could move the cursor or hide what was said, as their codes."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
