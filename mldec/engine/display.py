"""What the terminal shows: results on standard output, diagnostics and progress on standard error.

A progress bar is drawn where standard error is a terminal, plain lines are written where it is a file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from mldec.errors import printable

WHOLE = Column(no_wrap=True, overflow="ignore")  # is never cut short on a narrow terminal
DIAGNOSTICS = ("warning: ", "error: ", "note: ")  # how messages begin that are not results


class Display:
    """Everything that a run prints. `quiet` shows nothing, for tests and for ranks other than 0.

    Attributes:
        console: for results, on standard output.
        diagnostics: for warnings, errors, notes and progress, on standard error.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.diagnostics = Console(quiet=quiet, highlight=False, soft_wrap=True, stderr=True)
        self.quiet = quiet
        self._table_begun = False

    def say(self, text: str) -> None:
        """One message, printed as it is: square brackets are no markup, and control characters are shown.

        One that begins with `warning: `, `error: ` or `note: ` is a diagnostic, any other one a result.
        """
        console = self.diagnostics if text.startswith(DIAGNOSTICS) else self.console
        console.print(printable(text), markup=False, emoji=False)

    @contextmanager
    def bar(self, description: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A progress bar over `total` units of work; on a file or pipe it draws nothing."""
        if self.quiet or not self.diagnostics.is_terminal:
            yield Bar()
            return
        columns = (
            TextColumn("{task.description}", table_column=WHOLE),
            BarColumn(bar_width=24 if self.diagnostics.width >= 100 else 4),
            MofNCompleteColumn(table_column=WHOLE),
            TextColumn("{task.fields[text]}", markup=False, table_column=WHOLE),
        )
        with self._progress(*columns, refresh_per_second=5) as progress:
            yield Bar(progress, progress.add_task(description, total=total, completed=done, text=""))

    @contextmanager
    def transfers(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """Gives a function to call with a file, how many of its bytes are there, and of how many, if known."""
        shown: dict[str, TaskID] = {}
        tenths: dict[str, int] = {}

        def say(file: str, done: int, total: int | None) -> None:
            tenth = 10 * done // total if total else done // 2**30
            if tenth > tenths.get(file, 0):
                tenths[file] = tenth
                self.line(f"{file}: {done:,} bytes" + (f", {done / total:.0%}" if total else ""))

        if self.quiet or not self.diagnostics.is_terminal:
            yield say
            return
        columns = (TextColumn("{task.description}"), BarColumn(24), DownloadColumn(), TransferSpeedColumn())
        with self._progress(*columns, TimeRemainingColumn()) as progress:

            def show(file: str, done: int, total: int | None) -> None:
                if file not in shown:
                    shown[file] = progress.add_task(file, total=None)
                progress.update(shown[file], completed=done, total=total)

            yield show

    @contextmanager
    def counted(self, description: str, total: int) -> Iterator[Bar]:
        """As `bar`; on a file or pipe it writes a line after each tenth, where nothing else reports on the work."""
        if self.quiet or self.diagnostics.is_terminal:
            with self.bar(description, total) as bar:
                yield bar
        else:
            yield _Lines(self, description, total)

    def line(self, text: str) -> None:
        """A line of progress for outputs on which a bar cannot be drawn."""
        if not self.diagnostics.is_terminal:
            self.diagnostics.print(printable(text), markup=False, emoji=False)

    def _progress(self, *columns: ProgressColumn, refresh_per_second: float = 10) -> Progress:
        # Results that are printed meanwhile stand above the bar, unless they go elsewhere than the terminal.
        return Progress(
            *columns,
            console=self.diagnostics,
            transient=True,
            refresh_per_second=refresh_per_second,
            redirect_stdout=sys.stdout.isatty(),
        )

    def epoch_row(self, cells: dict[str, str]) -> None:
        """One row of the epoch table, by column; the names of the columns stand before the first."""
        widths = {name: max(11, len(name) + 2) for name in cells}
        if not self._table_begun:
            self.say("".join(name.rjust(width) for name, width in widths.items()))
            self._table_begun = True
        self.say("".join(cells[name].rjust(width) for name, width in widths.items()))


class Bar:
    """Handle of a bar that may not be there."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        """Advance by `amount`; `text` replaces the text behind the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)
            if text is not None:
                self._progress.update(self._task, text=text)


class _Lines(Bar):
    """In place of a bar: a line of progress after each tenth of the work."""

    def __init__(self, display: Display, description: str, total: int) -> None:
        super().__init__()
        self._display, self._description, self._total, self._done = display, description, total, 0

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        before, self._done = self._done, self._done + amount
        if 10 * self._done // self._total > 10 * before // self._total:
            self._display.line(f"{self._description}: {self._done:,} of {self._total:,}")
