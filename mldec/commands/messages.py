"""What reading data reports: each message once in a command, though the splits of a dataset are read one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mldec.data.reading_messages import DATA, DECIDING


class Once(logging.Filter):
    """Of the messages about data passes each once; other ones always do, such as those of a training."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        passes = text not in self.seen or not record.name.startswith(f"{DATA}.")
        self.seen.add(text)
        return passes


ONCE = Once()


@contextmanager
def collected() -> Iterator[list[str]]:
    """The decisions that are reported in the block, each once, without the file that it begins with.

    Those that come with a format, `read as …`, are left out. Warnings and progress are shown as always.
    """
    collector, logger = _Collector(), logging.getLogger(DATA)
    level = logger.level
    logger.addHandler(collector)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield collector.texts
    finally:
        logger.removeHandler(collector)
        logger.propagate = True
        logger.setLevel(level)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or record.name not in DECIDING:
            logging.getLogger().handle(record)
        else:
            text = record.getMessage()
            ONCE.seen.add(text)
            text = text.partition(": ")[2] or text
            self.texts += [] if text in self.texts or text.startswith("read as ") else [text]
