"""Decisions and warnings of reading a dataset, kept with its cached index so that they are logged each time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mldec.errors import printable_name

DATA = "mldec.data"
#: Whose messages are decisions; others report progress.
DECIDING = tuple(
    f"{DATA}.{name}"
    for name in ("table", "folder", "cache", "unseen", "own.locate", "own.plain_json", "own.text_table")
)
WARNING = "warning: "  # how warnings begin
MOST_KEPT, LONGEST_KEPT = 100, 2000  # messages, and characters of one


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The decisions and warnings that are logged in the block, each once, of a bounded length; logged as always."""
    logger = logging.getLogger(DATA)
    level, propagates, shown = logger.level, logger.propagate, logger.getEffectiveLevel()
    recorder = _Recorder(shown)
    logger.addHandler(recorder)
    if shown > logging.INFO:  # decisions are not shown now, but may be when the cache is opened next
        logger.setLevel(logging.INFO)
        logger.propagate, recorder.propagates = False, propagates
    try:
        yield recorder.texts
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(level)
        logger.propagate = propagates


def say(logger: logging.Logger, texts: Sequence[str]) -> None:
    """Log what was recorded."""
    for text in texts:
        logger.log(logging.WARNING if text.startswith(WARNING) else logging.INFO, "%s", text)


def check_messages(texts: Sequence[str]) -> None:
    """Raise ValueError for texts that `recorded` cannot have given: too many, too long, or not printable."""
    if len(texts) > MOST_KEPT or any(len(text) > LONGEST_KEPT or text != printable_name(text) for text in texts):
        raise ValueError("its messages are too many, too long, or not printable")


class _Recorder(logging.Handler):
    def __init__(self, shown: int) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.shown, self.propagates = shown, False

    def emit(self, record: logging.LogRecord) -> None:
        if self.propagates and record.levelno >= self.shown:
            parent = logging.getLogger(DATA).parent
            if parent is not None:
                parent.callHandlers(record)
        text = printable_name(record.getMessage())[:LONGEST_KEPT]
        decides = record.name in DECIDING or text.startswith(WARNING)
        if decides and text not in self.texts and len(self.texts) < MOST_KEPT:
            self.texts.append(text)
