"""The tables as data: `published.yaml` has those of the paper, `probe.yaml` the versions on photographs with a frozen
backbone, `desk.yaml` those on drawn digits.

A table has `rows`. A row has `cells` that describe it, the figures that were published for it, and the experiment that
reproduces it. A figure has the name of a metric, or is one of `COUNTED`, which are computed from the network, or is
`SECONDS`, or one of `LATENCIES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeVar

import yaml

from mldec.errors import ConfigError, shortened, suggest

T = TypeVar("T")

Scale = Literal["paper", "probe", "desk"]
FILES: dict[str, str] = {"paper": "published.yaml", "probe": "probe.yaml", "desk": "desk.yaml"}

#: Figures that are counted on the network itself.
COUNTED = ("macs", "parameters")

#: The time of a row's fastest run: on a shared machine the others were held up.
SECONDS = "seconds"

#: Times of a row's head that the benchmark of a table of another kind measures.
LATENCIES = ("latency_1", "latency_64")

#: Figures of a row that are not measured once per seed.
WITHOUT_SEEDS = (*COUNTED, SECONDS, *LATENCIES)

#: The meaning of each source tag.
SOURCES = {
    "S": "the paper's text",
    "C": "the authors' code or README",
    "P": "a public page",
    "F": "measured on a published figure",
    "D": "derived",
    "M": "memory, unverified",
    "?": "not known",
}
UNVERIFIED = ("M", "?")

LITERATURE = "literature"  # in place of an experiment: another method's row, quoted and not reproduced


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a row requires to run.

    Attributes:
        dataset: its name; None: nothing is read from disk.
        labels: the number of classes of the dataset.
        weights: initial weights of our experiment's backbone, by their full name in timm's hub, or "none".
        published_start: description of the initial weights of the published run, where they differ.
        memory: of the GPU in GiB, for the batch size of the experiment.
        images: of the train split, where the dataset's class does not have that number.
    """

    dataset: str | None = None
    labels: int
    weights: str = "none"
    published_start: str = ""
    memory: int | None = None
    images: int | None = None


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of a table.

    Attributes:
        key: its name within the table.
        cells: its description, by column.
        experiment: what reproduces it, as in `experiment=NAME`; None: quoted from the literature.
        published: figures of the paper; None where it printed none.
        sources: a tag of `SOURCES` per published figure.
        expect: "out_of_memory" where running out of memory is the result.
        note: a caveat, shown as a footnote.
        choose: a setting that is chosen on val with the first seed, and its candidates. Where all of them are numbers
            and the best is the smallest or the largest, more are tried beyond it.
        chosen_in: another row, whose chosen setting this one uses.
        settings: overrides of the experiment, by name of the setting.
        seeds: how many of the table's seeds are run, from the first; None: all of them.
    """

    key: str
    cells: Mapping[str, Any]
    experiment: str | None
    needs: Requirements
    published: Mapping[str, float | None] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    expect: Literal["out_of_memory"] | None = None
    note: str = ""
    choose: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    chosen_in: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure's axes: names of `figures`; points of equal `series` cell are joined.

    Attributes:
        also_x: a second figure against which the obtained values of `y` are shown, in a panel of its own.
        rows: keys of the rows that are shown; none: all.
        label: the cell that names a point; None: all cells but `series`.
        frontier: join the points that no other point betters in both axes (a Pareto front), in place of each series.
    """

    x: str
    y: str
    series: str
    also_x: str | None = None
    rows: Sequence[str] = ()
    label: str | None = None
    frontier: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim of the paper about rows of one figure: `better` is above `worse`, or (`within`) as good up to points."""

    claim: str
    better: str
    worse: str
    figure: str
    within: float | None = None
    percent: bool = False  # `within` is a percentage of the other's figure, as for speeds


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table or a figure of the paper.

    Attributes:
        scale: which of the three versions this is.
        benchmark: what follows `mldec benchmark` for a table of kind "benchmark", or for `LATENCIES` among the figures
            of another.
        seeds: the default number of seeds of its rows: 0, 1, ….
        plateau: rows that are meant to be trained to a plateau, each with the row of twice the epochs that verifies it.
        order: a figure; the published and the obtained order of the rows by it are shown side by side.
        also: ids of other tables of the paper that this one stands for at its scale.
    """

    id: str
    title: str
    about: str
    cells: Mapping[str, str]
    figures: Mapping[str, str]
    rows: tuple[TableRow, ...]
    scale: Scale = "paper"
    kind: Literal["training", "benchmark"] = "training"
    plot: Plot | None = None
    findings: tuple[Finding, ...] = ()
    note: str = ""
    benchmark: tuple[str, ...] = ()
    seeds: int = 3
    plateau: Mapping[str, str] = field(default_factory=dict)
    order: str | None = None
    also: Sequence[str] = ()

    @property
    def name(self) -> str:
        """`Table 5`, `Figure 6`; `Arena`, which the paper does not have."""
        return name_of(self.id)

    @property
    def name_with_scale(self) -> str:
        """`Table 5`, `Table 5 at desk scale`."""
        return self.name if self.scale == "paper" else f"{self.name} at {self.scale} scale"

    @property
    def caption(self) -> str:
        """`Table 5. MS-COCO, compared with other methods`, with "at desk scale" or "at probe scale"."""
        return f"{self.name_with_scale}. {self.title}"

    @property
    def reproduced(self) -> tuple[TableRow, ...]:
        """The rows that have an experiment."""
        return tuple(row for row in self.rows if row.experiment is not None)

    @property
    def tuned(self) -> tuple[TableRow, ...]:
        """The rows that choose a setting; where none does, all that have an experiment."""
        return tuple(row for row in self.reproduced if row.choose) or self.reproduced

    def row(self, key: str) -> TableRow:
        """The row of that key. Raises ConfigError with the keys that exist."""
        found = next((row for row in self.rows if row.key == key), None)
        if found is None:
            raise ConfigError(f"rows={key}: {self.name} has no such row; {suggest(key, [r.key for r in self.rows])}")
        return found


def name_of(table: str) -> str:
    """The name of a table's id: `Table 5` of `table5`, `Arena` of `arena`."""
    kind = next((kind for kind in ("Table", "Figure") if table.startswith(kind.lower())), None)
    return table.replace("_", " ").capitalize() if kind is None else f"{kind} {table.removeprefix(kind.lower())}"


@cache
def load_tables(scale: Scale) -> tuple[PaperTable, ...]:
    """All tables of a scale, in the paper's order. Raises ValueError for an inconsistent file."""
    text = resources.files("mldec.paper").joinpath(FILES[scale]).read_text(encoding="utf-8")
    tables = tuple(_table(entry, scale) for entry in yaml.safe_load(text))
    if len({table.id for table in tables}) < len(tables):
        raise ValueError(f"{FILES[scale]}: two tables have the same id")
    return tables


def find_table(name: str, scale: Scale) -> PaperTable:
    """The table of a name that users write: `5`, `table5`, `figure5`, `F5`, or the one that stands for it at a scale.

    Raises ConfigError for any other name.
    """
    wanted = name.lower()
    if found := re.fullmatch(r"(?:(t|f|table|figure)[ -]?)?([0-9]+)", wanted):
        wanted = f"{'figure' if (found[1] or 't').startswith('f') else 'table'}{found[2]}"
    tables = {table.id: table for table in load_tables(scale)}
    wanted = next((table.id for table in tables.values() if wanted in table.also), wanted)
    if wanted in tables:
        return tables[wanted]
    if scale != "paper" and wanted in {table.id for table in load_tables("paper")}:
        raise ConfigError(
            f"table={name}: has no version at {scale} scale; use scale=paper, or one of {', '.join(tables)}"
        )
    raise ConfigError(f"table={shortened(name)}: no such table; {suggest(wanted[:80], tables)}")


def _table(entry: Mapping[str, Any], scale: Scale) -> PaperTable:
    where = entry.get("id", "a table without id")
    own = {key: value for key, value in entry.items() if key not in ("source", "needs")} | {"scale": scale}
    own["rows"] = tuple(_row(row, where, entry.get("source", "?"), entry.get("needs", {})) for row in entry["rows"])
    own["findings"] = tuple(_make(Finding, finding, where) for finding in entry.get("findings", ()))
    own["plot"] = _make(Plot, entry["plot"], where) if "plot" in entry else None
    own["benchmark"] = tuple(entry.get("benchmark", ()))
    table = _make(PaperTable, own, where)
    keys = [row.key for row in table.rows]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{where}: two rows have the same key: {keys}")
    axes = (table.plot.x, table.plot.y, table.plot.also_x) if table.plot else ()
    used: list[tuple[str, Iterable[str], Iterable[str]]] = [
        *((f"{row.key}: a cell", row.cells, table.cells) for row in table.rows),
        *((f"{row.key}: a figure", row.published, table.figures) for row in table.rows),
        *((f"{row.key}: chosen_in", filter(None, [row.chosen_in]), keys) for row in table.rows),
        ("plot: a row", table.plot.rows if table.plot else (), keys),
        ("order", filter(None, [table.order]), table.figures),
        ("plot: an axis", filter(None, axes), table.figures),
        ("plateau", [*table.plateau, *table.plateau.values()], keys),
        ("findings: a row", [key for f in table.findings for key in (f.better, f.worse)], keys),
        ("findings: a figure", [finding.figure for finding in table.findings], table.figures),
    ]
    for what, names, known in used:
        if unknown := set(names) - set(known):
            raise ValueError(f"{where}, {what}: {sorted(unknown)} do not exist; allowed: {', '.join(known)}")
    return table


def _row(entry: Mapping[str, Any], table: str, source: str, needs: Mapping[str, Any]) -> TableRow:
    where = f"{table}, {entry.get('key', 'a row without key')}"
    own = {key: value for key, value in entry.items() if key != "source"}
    sources = {name: entry.get("source", source) for name in entry.get("published", {})} | entry.get("sources", {})
    if unknown := set(sources.values()) - set(SOURCES):
        raise ValueError(f"{where}: unknown sources {sorted(unknown)}")
    experiment = entry.get("experiment", f"{table}/{entry['key']}")
    own["experiment"] = None if experiment == LITERATURE else experiment
    own["needs"] = _make(Requirements, {**needs, **entry.get("needs", {})}, where)
    return _make(TableRow, {**own, "sources": sources}, where)


def _make(cls: type[T], entry: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass. Raises ValueError for entries that are not its fields."""
    if unknown := set(entry) - {f.name for f in fields(cls)}:  # type: ignore[arg-type]
        raise ValueError(f"{where}: unknown entries {sorted(unknown)}")
    return cls(**entry)
