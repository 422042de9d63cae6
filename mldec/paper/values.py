"""What the records of a row say beside what was published: means over seeds, differences, numbers as they are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mldec.paper.records import Record
from mldec.paper.tables import COUNTED, UNVERIFIED, Row, Scale, Table

SPREAD = 2.0  # standard deviations from the mean within which a published value agrees with the seeds
MARK = "†"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is shown of a row.

    Attributes:
        row: the row itself.
        records: of its configuration, one a seed.
        sizes: counted on the network: `macs` in G, `parameters`; None: not counted.
        status: in words why there are no records: "not run", "dataset absent", "failed: …", "out of memory",
            "literature". What follows a colon goes into a footnote.
        published: the row of the paper to compare with, at paper scale the row itself; None: there is none.
        chosen: what was chosen on val where `row.choose` asks for it.
        tried: the values among which it was chosen, in order of size.
        needs: in words what running it takes; empty where nothing but minutes.
    """

    row: Row
    records: tuple[Record, ...] = ()
    sizes: Mapping[str, float] | None = None
    status: str = "not run"
    published: Row | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    tried: Mapping[str, Sequence[str]] = field(default_factory=dict)
    needs: str = ""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One figure of one line.

    Attributes:
        given: whether the paper has this figure for the row at all, be it without a value.
        published, source: the paper's value and the tag of where it is known from.
        mean, std, seeds: over the seeds that have a value; `std`, the sample standard deviation, needs two of them.
            What is counted on the network has a mean, no `std` and no seeds.
        difference: mean minus published; None at desk scale, where data and networks are others.
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
    def unverified(self) -> bool:
        """Whether the published value is one that nothing confirms."""
        return self.published is not None and self.source in UNVERIFIED


def cell_values(table: Table, line: Line, scale: Scale) -> dict[str, Value]:
    """The value of each figure of the table for one of its lines."""
    return {figure: _value(line, figure, scale) for figure in table.figures}


def samples_by_seed(line: Line, figure: str) -> dict[int, float]:
    """The finite values of a measured figure, by seed; none for what is counted."""
    if figure in COUNTED:
        return {}
    values = {record.seed: record.metrics.get(figure) for record in sorted(line.records, key=lambda r: r.seed)}
    return {seed: float(value) for seed, value in values.items() if value is not None and math.isfinite(value)}


def row_name(table: Table, row: Row) -> str:
    """A row in words: those of its cells that are not the same all over the table, as `ML-Decoder · queries 20`."""
    words = []
    for name, title in table.cells.items():
        value = row.cells.get(name)
        if value is None or len({str(other.cells.get(name)) for other in table.rows}) == 1 < len(table.rows):
            continue
        plain = title if title[1:2].isupper() else title[:1].lower() + title[1:]
        words.append(value if isinstance(value, str) else f"{plain} {value}")
    return " · ".join(words) or row.key


def number(value: float, like: float | None = None, sign: bool = False) -> str:
    """A measured value with as many decimals as the size of `like` (itself, if not given) makes sensible."""
    size = abs(value if like is None else like)
    if size >= 1000:
        decimals = 0
    elif size >= 100:
        decimals = 1
    elif size >= 1 or size == 0:
        decimals = 2
    else:
        decimals = min(2 - math.floor(math.log10(size)), 9)
    rounded = round(value, decimals) + 0.0  # -0.0 becomes 0.0
    separator = "," if abs(rounded) >= 10_000 else ""
    return f"{rounded:{'+' if sign else ''}{separator}.{decimals}f}"


def obtained(value: Value) -> str:
    """`87.12 ± 0.15 (3)`: mean, standard deviation, seeds; without a mean the status up to its colon."""
    if value.mean is None:
        return value.status.partition(":")[0]
    shown = number(value.mean)
    if value.std is not None:
        shown += f" ± {number(value.std, like=value.mean)}"
    return f"{shown} ({value.seeds})" if value.seeds else shown


def published(value: Value, tags: bool = False) -> str:
    """The paper's value as it was typed, marked if unverified, with its source if `tags`.

    `NA` where the paper prints none; `not known` where it prints one that we do not know; nothing where it has no such
    figure.
    """
    if not value.given:
        return ""
    if value.published is None:
        return "not known" if value.source == "?" else "NA"
    typed = value.published
    shown = f"{typed:,}" if abs(typed) >= 10_000 else str(typed)
    return shown + (f" [{value.source}]" if tags else "") + (f" {MARK}" if value.unverified else "")


def difference(value: Value) -> str:
    """`-0.30 (within)`, `-0.90 (outside)`, or the bare difference where the seeds have no spread."""
    if value.difference is None or value.mean is None:
        return ""
    shown = number(value.difference, like=value.mean, sign=True)
    return shown if value.within is None else f"{shown} ({'within' if value.within else 'outside'})"


def _value(line: Line, figure: str, scale: Scale) -> Value:
    paper = line.published
    given = paper is not None and figure in paper.published
    target = paper.published[figure] if paper is not None and given else None
    source = paper.sources.get(figure) if paper is not None and given else None
    if figure in COUNTED:
        counted = (line.sizes or {}).get(figure)
        values = [] if counted is None else [counted]
        missing, seeds = "literature" if line.row.experiment is None else "not counted", 0
    else:
        values = list(samples_by_seed(line, figure).values())
        missing, seeds = _missing(line, figure), len(values)
    if not values:
        return Value(given=given, published=target, source=source, status=missing)
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    gap = None if target is None or scale == "desk" else mean - target
    within = None if gap is None or std is None else abs(gap) <= SPREAD * std
    return Value(
        given=given,
        published=target,
        source=source,
        mean=mean,
        std=std,
        seeds=seeds,
        difference=gap,
        within=within,
    )


def _missing(line: Line, figure: str) -> str:
    """Why no seed has a value of a measured figure."""
    if not line.records:
        return " ".join(line.status.split())
    if any(record.outcome == "out_of_memory" for record in line.records):
        return "out of memory"
    return "undefined" if any(figure in record.metrics for record in line.records) else "not measured"
