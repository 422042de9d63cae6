"""Which runs a table consists of: its rows, the settings that they choose, the seeds."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands import compose
from mldec.config import Config, build_config

if TYPE_CHECKING:
    from mldec.paper.records import Record
    from mldec.paper.runner import Job, Place
    from mldec.paper.tables import Row, Scale, Table

WIDENED = 4  # candidates beyond a row's own
ALL = "all"  # in place of a row: a benchmark measures all rows at once


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for."""

    name: str
    tables: tuple[Table, ...]
    scale: Scale
    seeds: tuple[int, ...]  # none: as many as each table says
    choose_seed: int | None  # None: the first of `seeds`
    rows: tuple[str, ...]
    launcher: str
    run: bool
    output: Path
    page: Path | None
    place: Place
    typed_runtime: tuple[str, ...]
    overrides: tuple[str, ...]
    config_dir: str | None

    def rows_of(self, table: Table) -> tuple[Row, ...]:
        """The rows of a table that are to be run."""
        return tuple(table.row(key) for key in self.rows) if self.rows else table.reproduced

    def seeds_of(self, table: Table, row: Row) -> tuple[int, ...]:
        """The seeds of a row: those of the command line, else the table's; of these as many as the row takes."""
        return (self.seeds or tuple(range(table.seeds)))[: row.seeds]

    @property
    def search_seed(self) -> int:
        """The seed with which settings are chosen."""
        return (self.seeds or (0,))[0] if self.choose_seed is None else self.choose_seed


def search_jobs(table: Table, row: Row, request: Request) -> list[Job]:
    """The runs on which a row chooses that are to be made as far as is known: see `candidates`."""
    if not row.choose:
        return []
    found = _candidate_records(table, row, request)
    return [job_of(table, row, request.search_seed, words, request) for words in found]


def final_jobs(table: Table, row: Row, request: Request) -> list[Job]:
    """The runs of a row, one a seed; none while what it chooses is not known."""
    words = chosen_words(table, row, request)
    if words is None:
        return []
    return [job_of(table, row, seed, words, request) for seed in request.seeds_of(table, row)]


def candidates(row: Row) -> list[tuple[str, ...]]:
    """The overrides of each combination of values that a row chooses from; one without any where it chooses nothing."""
    axes = [[f"{key}={value}" for value in values] for key, values in row.choose.items()]
    return [tuple(combination) for combination in itertools.product(*axes)]


def chosen_words(table: Table, row: Row, request: Request) -> tuple[str, ...] | None:
    """The candidate that is best on val with the first seed; None while not all of the row's own are known. A row that
    takes over another one's choice has the candidate of that.

    Candidates beyond those of the row count once they are known: see `search_jobs`.
    """
    if row.chosen_in is not None:
        return chosen_words(table, table.row(row.chosen_in), request)
    if not row.choose:
        return ()
    found = _candidate_records(table, row, request)
    values = {words: record.best for words, record in found.items() if record is not None and record.best is not None}
    if any(words not in values for words in candidates(row)):
        return None
    return max(values, key=values.__getitem__)


def tried(table: Table, row: Row, request: Request) -> dict[str, list[str]]:
    """The values of each setting that a row chooses from and that were run, in order of size."""
    found = _candidate_records(table, row, request)
    ran = [words for words, record in found.items() if record is not None]
    columns = {
        key: dict.fromkeys(words[place].partition("=")[2] for words in ran) for place, key in enumerate(row.choose)
    }
    return {
        key: sorted(values, key=lambda value: (_size(value) is None, _size(value) or 0.0))
        for key, values in columns.items()
    }


def _candidate_records(table: Table, row: Row, request: Request) -> dict[tuple[str, ...], Record | None]:
    """The record of each candidate, None where it is not run; the row's own first, then those beyond its best.

    Where a row chooses one number and the best value is at an end of all that were tried, the next one of 1, 3, 10, …
    beyond it is a candidate, too, up to `WIDENED` of them: a best value at the edge says that the grid is too narrow.
    """
    from mldec.paper.records import find_records

    known = find_records(request.place.records).by_key

    def record(words: tuple[str, ...]) -> Record | None:
        return known.get(job_of(table, row, request.search_seed, words, request).key)

    found = {words: record(words) for words in candidates(row)}
    ((key, _),) = row.choose.items() if len(row.choose) == 1 else ((None, None),)
    for _ in range(WIDENED if key is not None else 0):
        values = {words: entry.best for words, entry in found.items() if entry is not None and entry.best is not None}
        sizes = {words: _size(words[0].partition("=")[2]) for words in found}
        if len(values) < len(found) or len(found) < 2 or any(size is None or size <= 0 for size in sizes.values()):
            break
        best = max(values, key=values.__getitem__)
        ordered = sorted(found, key=lambda words: sizes[words] or 0.0)
        if best not in (ordered[0], ordered[-1]):
            break
        beyond = (f"{key}={_next(sizes[best] or 0.0, up=best == ordered[-1]):g}",)
        found[beyond] = record(beyond)
    return found


def _size(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _next(value: float, *, up: bool) -> float:
    """The next number of …, 0.1, 0.3, 1, 3, 10, … above or below `value`."""
    power = math.floor(math.log10(value)) - 1
    steps = [digit * 10.0 ** (power + place) for place in range(4) for digit in (1, 3)]
    if up:
        return min(step for step in steps if step > value * 1.01)
    return max(step for step in steps if step < value * 0.99)


def job_of(table: Table, row: Row, seed: int, words: Sequence[str], request: Request) -> Job:
    """The run of a row with one seed and the settings `words`."""
    from mldec.paper.records import config_key
    from mldec.paper.runner import Job

    assert row.experiment is not None
    overrides = (*(f"{key}={value}" for key, value in row.settings.items()), *words, *request.overrides)
    return Job(
        table=table.id,
        row=row.key,
        scale=request.scale,
        seed=seed,
        key=config_key(*configs_of(row.experiment, (*overrides, f"seed={seed}"), request.config_dir)),
        experiment=row.experiment,
        overrides=overrides,
        expect=row.expect,
    )


def benchmark_job(table: Table, request: Request) -> Job:
    """The one run that measures all rows of a table of speed."""
    from mldec.paper.records import config_key
    from mldec.paper.runner import Job

    experiments = dict.fromkeys(row.experiment for row in table.reproduced if row.experiment is not None)
    configs = [configs_of(experiment, request.overrides, request.config_dir)[0] for experiment in experiments]
    return Job(
        table=table.id,
        row=ALL,
        scale=request.scale,
        seed=0,
        key=config_key(*configs),
        experiment=next(iter(experiments)),
        overrides=request.overrides,
        benchmark=table.benchmark,
    )


@cache
def configs_of(experiment: str, overrides: tuple[str, ...], config_dir: str | None) -> tuple[Config, ...]:
    """A row's experiment, and that which it starts from, if any."""
    from mldec.commands.train import NEEDED, needed_experiment

    arguments = compose.Arguments((f"experiment={experiment}", *overrides), config_dir=config_dir)
    config = build_config(_quietly(compose.compose, arguments.overrides, config_dir))
    if config.init_from is None or not config.init_from.startswith(NEEDED):
        return (config,)
    return (config, build_config(_quietly(needed_experiment, config.init_from.removeprefix(NEEDED), arguments)))


def _quietly(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, without its notes on standard error: they are in the log of each run."""
    with contextlib.redirect_stderr(io.StringIO()):
        return work(*arguments)
