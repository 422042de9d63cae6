"""How far long work on a dataset has come: a bar on a terminal, a line in the log now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LOG_SECONDS = 15.0  # between two lines where no bar can be drawn


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how much of `total` is done by now."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    said = time.monotonic()

    def say(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= LOG_SECONDS:
            said = time.monotonic()
            logger.info("%s: %.0f %%", description, 100 * done / max(total, 1))

    yield say
