"""Obtained beside published values: means over seeds, differences, and numbers as they are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mldec.paper.records import Record
from mldec.paper.tables import COUNTED, LATENCIES, SECONDS, UNVERIFIED, WITHOUT_SEEDS, PaperTable, TableRow

SPREAD = 2.0  # standard deviations from the mean within which a published value agrees with the seeds
MARK = "†"


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What a row obtained.

    Attributes:
        row: the row itself.
        records: of its configuration, one per seed.
        rounds: what a benchmark measured of it beside that, one record per round.
        sizes: counted on the network: `macs` in G, `parameters`; None: not counted.
        status: why there are no records: "not run", "dataset absent", "failed: …", "out of memory", "literature".
            What follows a colon goes into a footnote.
        published: the row of the paper to compare with, at paper scale the row itself; None: there is none.
        chosen: the settings of `row.choose` that were chosen on val.
        tried: the values among which each was chosen, in ascending order.
        needs: what a run requires, as text; empty where it takes minutes.
    """

    row: TableRow
    records: tuple[Record, ...] = ()
    rounds: tuple[Record, ...] = ()
    sizes: Mapping[str, float] | None = None
    status: str = "not run"
    published: TableRow | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    tried: Mapping[str, Sequence[str]] = field(default_factory=dict)
    needs: str = ""


@dataclass(frozen=True, kw_only=True)
class ResultValue:
    """One figure of one row.

    Attributes:
        given: whether the paper has this figure for the row at all, even without a value.
        published, source: the paper's value and the tag of its source.
        mean, std, seeds: over the seeds that have a value; `std`, the sample standard deviation, requires two of them.
            Of `WITHOUT_SEEDS` there is a mean, no `std` and no seeds.
        difference: mean minus published; None at other scales, where data and networks differ from the paper's.
        within: whether the difference is at most `SPREAD` standard deviations; None where one of them is missing.
        status: "finished" where there is a mean, else why there is none.
    """

    given: bool = False
    published: float | None = None
    source: str | None = None
    mean: float | None = None
    std: float | None = None
    seeds: int = 0
    difference: float | None = None
    within: bool | None = None
    status: str = "finished"

    @property
    def mark(self) -> str:
        """` †` behind a published value that no source confirms."""
        return f" {MARK}" if self.published is not None and self.source in UNVERIFIED else ""


def result_values(table: PaperTable, result: RowResult) -> dict[str, ResultValue]:
    """The value of each figure of the table for one of its rows."""
    return {figure: _value(table, result, figure) for figure in table.figures}


def samples_by_seed(result: RowResult, figure: str) -> dict[int, float]:
    """The finite values of a measured figure, by seed; empty for those of `WITHOUT_SEEDS`."""
    if figure in WITHOUT_SEEDS:
        return {}
    values = {record.seed: record.metrics.get(figure) for record in sorted(result.records, key=lambda r: r.seed)}
    return {seed: float(value) for seed, value in values.items() if value is not None and math.isfinite(value)}


def row_name(table: PaperTable, row: TableRow) -> str:
    """A row as text: its cells that are not the same in all rows, as `ML-Decoder · queries 20`."""
    parts = []
    for name, title in table.cells.items():
        value = row.cells.get(name)
        if value is None or len({str(other.cells.get(name)) for other in table.rows}) == 1 < len(table.rows):
            continue
        plain = title if title[1:2].isupper() else title[:1].lower() + title[1:]
        parts.append(value if isinstance(value, str) else f"{plain} {value}")
    return " · ".join(parts) or row.key


def count(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def number(value: float, like: float | None = None, sign: bool = False) -> str:
    """A measured value with decimals according to the magnitude of `like` (default: its own)."""
    size = abs(value if like is None else like)
    decimals = next((places for bound, places in ((1000, 0), (100, 1), (1, 2)) if size >= bound), 2)
    if 0 < size < 1:
        decimals = min(2 - math.floor(math.log10(size)), 9)
    rounded = round(value, decimals) + 0.0  # -0.0 becomes 0.0
    separator = "," if abs(rounded) >= 10_000 else ""
    return f"{rounded:{'+' if sign else ''}{separator}.{decimals}f}"


def obtained(value: ResultValue) -> str:
    """`87.12 ± 0.15 (3)`: mean, standard deviation, seeds; without a mean the status up to its colon."""
    if value.mean is None:
        return value.status.partition(":")[0]
    shown = number(value.mean)
    if value.std is not None:
        shown += f" ± {number(value.std, like=value.mean)}"
    return f"{shown} ({value.seeds})" if value.seeds else shown


def published(value: ResultValue, tags: bool = False) -> str:
    """The paper's value as it is in published.yaml, marked if unverified, with its source if `tags`.

    `NA` where the paper prints none; `not known` where it prints one that we do not know; empty where it has no such
    figure.
    """
    if not value.given:
        return ""
    if value.published is None:
        return "not known" if value.source == "?" else "NA"
    shown = f"{value.published:,}" if abs(value.published) >= 10_000 else str(value.published)
    return shown + (f" [{value.source}]" if tags else "") + value.mark


def difference(value: ResultValue) -> str:
    """`-0.30 (within)`, `-0.90 (outside)`, or the bare difference where the seeds have no spread."""
    if value.difference is None or value.mean is None:
        return ""
    shown = number(value.difference, like=value.mean, sign=True)
    return shown if value.within is None else f"{shown} ({'within' if value.within else 'outside'})"


def _value(table: PaperTable, result: RowResult, figure: str) -> ResultValue:
    paper = result.published
    value = ResultValue()
    if paper is not None and figure in paper.published:
        value = ResultValue(given=True, published=paper.published[figure], source=paper.sources.get(figure))
    if figure in COUNTED:
        counted = (result.sizes or {}).get(figure)
        values = [] if counted is None else [counted]
        missing = "literature" if result.row.experiment is None else "not counted"
    elif figure == SECONDS:
        times = [record.seconds for record in result.records if record.seconds is not None]
        values, missing = [min(times)] if times else [], _missing(result, figure)
    elif figure in LATENCIES:
        times = [time for record in result.rounds if (time := record.metrics.get(figure)) is not None]
        values, missing = [statistics.median(times)] if times else [], "not measured"
    else:
        values, missing = list(samples_by_seed(result, figure).values()), _missing(result, figure)
    if not values:
        return replace(value, status=missing)
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    gap = None if value.published is None or table.scale != "paper" else mean - value.published
    within = None if gap is None or std is None else abs(gap) <= SPREAD * std
    seeds = 0 if figure in WITHOUT_SEEDS else len(values)
    return replace(value, mean=mean, std=std, seeds=seeds, difference=gap, within=within)


def _missing(result: RowResult, figure: str) -> str:
    """Why no seed has a value of a measured figure."""
    if not result.records:
        return " ".join(result.status.split())
    if any(record.outcome == "out_of_memory" for record in result.records):
        return "out of memory"
    return "undefined" if any(figure in record.metrics for record in result.records) else "not measured"
