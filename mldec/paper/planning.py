"""Plans the runs of a table: its rows, the settings that they choose on val, and their seeds.

Nothing here knows where an experiment comes from: a `Planner` is given the function that composes one. Each row and
setting is composed once, with `SEED` in place of a seed, and `with_seed` puts the seeds in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mldec.benchmarks.network import Cost, count_cost
from mldec.config import Config, build_config
from mldec.paper.records import Record, config_key, find_records, rounds_of_row
from mldec.paper.runner import Job, Workspace
from mldec.paper.tables import PaperTable, Scale, TableRow

#: From overrides (`experiment=…` first) to the experiment as nested plain values, followed by the experiment that it
#: starts from, if any.
Compose = Callable[[tuple[str, ...]], Sequence[Mapping[str, Any]]]

WIDENED = 4  # candidates beyond a row's own
ALL = "all"  # in place of a row: a benchmark measures all rows at once
SEED = 10**18  # larger than any seed of a user: in a composed experiment until `with_seed` replaces it


@dataclass(frozen=True, kw_only=True)
class TableRequest:
    """What to run and to report.

    Attributes:
        tables: one or several, all of `scale`.
        seeds: of every row; none: as many as each table states.
        choose_seed: the seed with which settings are chosen; None: the first of `seeds`.
        rows: keys of the rows to run; none: all that are reproduced.
        overrides: settings of every run.
        runtime: overrides of `runtime` that the user gave; `workspace.runtime` has those of the machine, too.
        workspace: where records and runs lie, and how many run at a time.
        output: folder of the reports.
    """

    tables: tuple[PaperTable, ...]
    scale: Scale
    seeds: tuple[int, ...] = ()
    choose_seed: int | None = None
    rows: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    workspace: Workspace
    output: Path

    @property
    def search_seed(self) -> int:
        """The seed with which settings are chosen."""
        return (self.seeds or (0,))[0] if self.choose_seed is None else self.choose_seed


class Planner:
    """The runs of a request's tables, given the records that exist.

    Attributes:
        request: what to run.
        records: the records of the workspace as of the last `read_records`.
    """

    def __init__(self, request: TableRequest, compose: Compose) -> None:
        self.request = request
        self._compose = cache(compose)
        self._key = cache(lambda *run: config_key(*self._configs(*run)))
        self._costs: dict[str, Cost] = {}
        self._benchmark_keys: dict[str, str] = {}
        self.read_records()

    def read_records(self) -> None:
        """Read the records again, after runs that have added some."""
        self.records = find_records(self.request.workspace.records)

    def rows(self, table: PaperTable) -> tuple[TableRow, ...]:
        """The rows of a table that are to be run."""
        return tuple(table.row(key) for key in self.request.rows) if self.request.rows else table.reproduced

    def seeds(self, table: PaperTable, row: TableRow) -> tuple[int, ...]:
        """The seeds of a row: the request's, else the table's; of these no more than the row takes."""
        return (self.request.seeds or tuple(range(table.seeds)))[: row.seeds]

    def search_jobs(self, table: PaperTable, row: TableRow) -> list[Job]:
        """The runs among which a row, or the one it refers to, chooses its setting, as far as they are known now."""
        if row.chosen_in is not None:
            return self.search_jobs(table, table.row(row.chosen_in))
        if not row.choose:
            return []
        return [
            self.job(table, row, self.request.search_seed, choice) for choice in self._candidate_records(table, row)
        ]

    def final_jobs(self, table: PaperTable, row: TableRow) -> list[Job]:
        """The runs of a row, one per seed; none while its setting has not been chosen."""
        choice = self.chosen(table, row)
        return [] if choice is None else [self.job(table, row, seed, choice) for seed in self.seeds(table, row)]

    def chosen(self, table: PaperTable, row: TableRow) -> tuple[str, ...] | None:
        """The overrides that are best on val with the search seed, or those of the row that this one refers to.

        None while a candidate of the row has no record. Candidates beyond the row's own count once they have one.
        """
        if row.chosen_in is not None:
            return self.chosen(table, table.row(row.chosen_in))
        if not row.choose:
            return ()
        val = _val_metrics(self._candidate_records(table, row))
        return None if any(choice not in val for choice in candidates(row)) else max(val, key=val.__getitem__)

    def tried(self, table: PaperTable, row: TableRow) -> dict[str, list[str]]:
        """The values that were run of each setting that a row chooses, in ascending order."""
        ran = [choice for choice, record in self._candidate_records(table, row).items() if record is not None]
        values = [{choice[number].partition("=")[2] for choice in ran} for number in range(len(row.choose))]
        return {key: sorted(found, key=_ascending) for key, found in zip(row.choose, values, strict=True)}

    def records_of(self, table: PaperTable, row: TableRow) -> tuple[Record, ...]:
        """The records of a row, one per seed; of a table of speed one per round."""
        if table.kind == "benchmark":
            return self.rounds_of(table, row)
        keys = [job.key for job in self.final_jobs(table, row)]
        return tuple(self.records.by_key[key] for key in keys if key in self.records.by_key)

    def rounds_of(self, table: PaperTable, row: TableRow) -> tuple[Record, ...]:
        """What the table's benchmark measured of a row, one record per round; none where there is no benchmark."""
        record = self.records.by_key.get(self._benchmark_key(table)) if table.benchmark else None
        return () if record is None else rounds_of_row(record, row.key)

    def is_complete(self, table: PaperTable, row: TableRow) -> bool:
        """Whether all seeds of a row have records."""
        jobs = self.final_jobs(table, row)
        return bool(jobs) and all(job.key in self.records.by_key for job in jobs)

    def job(self, table: PaperTable, row: TableRow, seed: int, choice: Sequence[str] = ()) -> Job:
        """The run of a row with one seed and the chosen overrides."""
        assert row.experiment is not None
        overrides = self._overrides(row, choice)
        return Job(
            table=table.id,
            row=row.key,
            scale=self.request.scale,
            seed=seed,
            key=self._key(row.experiment, overrides, seed),
            experiment=row.experiment,
            overrides=overrides,
            expect=row.expect,
        )

    def benchmark_job(self, table: PaperTable) -> Job:
        """The one run that measures the rows of a table, all or those that are tuned."""
        experiment = table.tuned[0].experiment
        assert experiment is not None
        return Job(
            table=table.id,
            row=ALL,
            scale=self.request.scale,
            seed=0,
            key=self._benchmark_key(table),
            experiment=experiment,
            overrides=self.request.overrides,
            benchmark=(*table.benchmark, *self._measured_labels(table)),
        )

    def _benchmark_key(self, table: PaperTable) -> str:
        """The key of the configs of all rows that the benchmark measures, which every row needs."""
        if table.id not in self._benchmark_keys:
            settings = dict.fromkeys((str(row.experiment), self._overrides(row, ())) for row in table.tuned)
            configs = [self._configs(experiment, overrides, 0)[0] for experiment, overrides in settings]
            self._benchmark_keys[table.id] = config_key(*configs)
        return self._benchmark_keys[table.id]

    def _measured_labels(self, table: PaperTable) -> tuple[str, ...]:
        """The option of a benchmark that gives it as many labels as the trained rows have."""
        if table.kind == "benchmark":
            return ()
        return (f"num_labels={self.labels(table, table.tuned[0])}",)

    def config(self, table: PaperTable, row: TableRow) -> Config:
        """The config of a row with the setting that it chose, or else the first candidate, and seed 0."""
        assert row.experiment is not None
        choice = self.chosen(table, row)
        if choice is None:
            choice = candidates(row if row.chosen_in is None else table.row(row.chosen_in))[0]
        return self._configs(row.experiment, self._overrides(row, choice), 0)[0]

    def cost(self, table: PaperTable, row: TableRow) -> Cost:
        """Multiply-accumulates and parameters of a row's network; rows with the same network are counted once."""
        config, labels = self.config(table, row), self.labels(table, row)
        network = repr((config.backbone, config.head, config.dataset.image_size, labels))
        if network not in self._costs:
            self._costs[network] = count_cost(config, labels)
        return self._costs[network]

    def labels(self, table: PaperTable, row: TableRow) -> int:
        """How many labels a row's data has; without a record that says so, those of the data it was written for."""
        return next((r.labels for r in self.records_of(table, row) if r.labels is not None), row.needs.labels)

    def _overrides(self, row: TableRow, choice: Sequence[str]) -> tuple[str, ...]:
        return (*(f"{key}={value}" for key, value in row.settings.items()), *choice, *self.request.overrides)

    def _configs(self, experiment: str, overrides: tuple[str, ...], seed: int) -> list[Config]:
        """The config of an experiment, and that of the one it starts from, if any."""
        composed = self._compose((f"experiment={experiment}", *overrides, f"seed={SEED}"))
        return [build_config(with_seed(mapping, seed)) for mapping in composed]

    def _candidate_records(self, table: PaperTable, row: TableRow) -> dict[tuple[str, ...], Record | None]:
        """The record of each candidate, None where there is none; the row's own first, then those beyond its best.

        Where a row chooses one number and the best value is at an end of all that were tried, the next one of 1, 3,
        10, … beyond it is a candidate, too, up to `WIDENED` of them: a best value at the edge means that the grid is
        too narrow.
        """

        def record(choice: tuple[str, ...]) -> Record | None:
            return self.records.by_key.get(self.job(table, row, self.request.search_seed, choice).key)

        found = {choice: record(choice) for choice in candidates(row)}
        for _ in range(WIDENED):
            if (choice := _beyond(row, found)) is None:
                break
            found[choice] = record(choice)
        return found


def with_seed(value: Any, seed: int) -> Any:
    """Nested plain values in which `seed` stands wherever `SEED` stood, as if composed with that seed."""
    if isinstance(value, Mapping):
        return {key: with_seed(item, seed) for key, item in value.items()}
    if isinstance(value, list):
        return [with_seed(item, seed) for item in value]
    if isinstance(value, str):  # text that refers to the seed
        return value.replace(str(SEED), str(seed))
    return seed if value == SEED else value


def candidates(row: TableRow) -> list[tuple[str, ...]]:
    """The overrides of each combination of values that a row chooses from; one without any where it chooses nothing."""
    axes = [[f"{key}={value}" for value in values] for key, values in row.choose.items()]
    return [tuple(combination) for combination in itertools.product(*axes)]


def _val_metrics(found: Mapping[tuple[str, ...], Record | None]) -> dict[tuple[str, ...], float]:
    """The metric on val of each candidate that has one."""
    return {choice: r.best for choice, r in found.items() if r is not None and r.best is not None}


def _beyond(row: TableRow, found: Mapping[tuple[str, ...], Record | None]) -> tuple[str, ...] | None:
    """The next candidate beyond the best one; None where that is not at an end, or not known yet."""
    if len(row.choose) != 1 or len(found) < 2:
        return None
    val, (key,) = _val_metrics(found), row.choose
    sizes = {choice: size for choice in found if (size := _number(choice[0].partition("=")[2])) > 0}
    if len(val) < len(found) or len(sizes) < len(found):
        return None
    ordered = sorted(sizes, key=sizes.__getitem__)
    best = max(val, key=val.__getitem__)
    if best not in (ordered[0], ordered[-1]):
        return None
    return (f"{key}={_next_size(sizes[best], up=best == ordered[-1]):g}",)


def _number(value: str) -> float:
    """A number; nan for other text."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def _ascending(value: str) -> tuple[bool, float | str]:
    """Numbers by size, then text."""
    size = _number(value)
    return (True, value) if math.isnan(size) else (False, size)


def _next_size(value: float, *, up: bool) -> float:
    """The next number of …, 0.1, 0.3, 1, 3, 10, … above or below `value`."""
    power = math.floor(math.log10(value)) - 1
    steps = [digit * 10.0 ** (power + offset) for offset in range(4) for digit in (1, 3)]
    return min(s for s in steps if s > value * 1.01) if up else max(s for s in steps if s < value * 0.99)
