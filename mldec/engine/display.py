"""What the terminal shows: a progress bar where there is one, plain lines where output goes to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from mldec.errors import printable


class Display:
    """Everything that a run prints. `quiet` shows nothing, for tests and for ranks other than 0."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._table_begun = False

    def say(self, text: str) -> None:
        """One message, printed as it is: square brackets are no markup, and control characters are shown."""
        self.console.print(printable(text), markup=False, emoji=False)

    @contextmanager
    def bar(self, description: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A progress bar over `total` units of work; on a file or pipe it draws nothing."""
        if self.quiet or not self.console.is_terminal:
            yield Bar(None, None)
            return
        columns = (
            TextColumn("{task.description}", table_column=_whole()),
            BarColumn(bar_width=24 if self.console.width >= 100 else 4),
            MofNCompleteColumn(table_column=_whole()),
            TextColumn("{task.fields[text]}", markup=False, table_column=_whole()),
        )
        with Progress(*columns, console=self.console, transient=True, refresh_per_second=5) as progress:
            yield Bar(progress, progress.add_task(description, total=total, completed=done, text=""))

    @contextmanager
    def transfers(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """Gives a function that is told of each file how many of its bytes are there, and of how many, if known."""
        shown: dict[str, TaskID] = {}
        tenths: dict[str, int] = {}

        def say(file: str, done: int, total: int | None) -> None:
            tenth = 10 * done // total if total else done // 2**30
            if tenth > tenths.get(file, 0):
                tenths[file] = tenth
                self.say(f"{file}: {done:,} bytes" + (f", {done / total:.0%}" if total else ""))

        if self.quiet or not self.console.is_terminal:
            yield say
            return
        columns = (TextColumn("{task.description}"), BarColumn(24), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as progress:

            def show(file: str, done: int, total: int | None) -> None:
                if file not in shown:
                    shown[file] = progress.add_task(file, total=None)
                progress.update(shown[file], completed=done, total=total)

            yield show

    def line(self, text: str) -> None:
        """A line of progress for outputs on which a bar cannot be drawn."""
        if not self.console.is_terminal:
            self.say(text)

    def epoch_row(self, cells: dict[str, str]) -> None:
        """One row of the epoch table, by column; the names of the columns stand before the first."""
        widths = {name: max(11, len(name) + 2) for name in cells}
        if not self._table_begun:
            self.say("".join(name.rjust(width) for name, width in widths.items()))
            self._table_begun = True
        self.say("".join(cells[name].rjust(width) for name, width in widths.items()))


def _whole() -> Column:
    """A column that is shown as it is: what rich cuts short on a narrow terminal says nothing."""
    return Column(no_wrap=True, overflow="ignore")


class Bar:
    """Handle of a bar that may not be there."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        """Move on by `amount`; `text` replaces what stands behind the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)
            if text is not None:
                self._progress.update(self._task, text=text)
