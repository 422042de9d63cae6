"""Which of the paper's claims hold, judged by the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mldec.paper.markup import markdown_text
from mldec.paper.tables import COUNTED, UNVERIFIED, Finding, Table
from mldec.paper.values import MARK, Line, Value, cell_values, number, obtained, row_name, samples_by_seed

Word = Literal["holds", "does not hold", "not decided", "not run"]
ERRORS = 2.0  # standard errors by which a difference must clear its bar

RULE = (
    "A claim is judged by the mean difference of two rows and its standard error: over the differences of runs of the "
    "same seed where both rows have the same seeds, else from the two rows' own spreads. The bar is 0 for a claim that "
    "one row is above another, and minus the tolerance for a claim that it is as good. *Holds*: above the bar by more "
    "than 2 standard errors. *Does not hold*: below it by more than 2. *Not decided*: nearer than that, or a single "
    "seed. *Not run*: one of the two has no value. What is counted on the network has no error. With three seeds, a "
    "difference that truly lies on the bar is taken to be above it once in eleven times, and below it as often."
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the records say of a finding, with the numbers that say so, in words."""

    finding: Finding
    word: Word
    evidence: str


def judge(table: Table, lines: Sequence[Line]) -> tuple[Verdict, ...]:
    """A verdict for each finding of the table.

    With d the mean of `better - worse`, e its standard error and t the bar (0, or `-within`, or `-within` percent of
    the mean of `worse`): "holds" if d - 2e > t, "does not hold" if d + 2e < t, else "not decided". For a figure that is
    counted e is 0, nothing is undecided, and a claim of `within` holds on the bar too. Without a value of either row:
    "not run".

    e is the standard error of the differences by seed where the rows have the same seeds, two or more, since a seed
    means the same pictures and the same first stage in both; else, with two seeds or more in each, that of two
    independent means; else unknown, and nothing is decided.
    """
    by_key = {line.row.key: line for line in lines}
    return tuple(_verdict(table, finding, by_key) for finding in table.findings)


def findings(table: Table, lines: Sequence[Line]) -> str:
    """A Markdown bullet for each finding, with its verdict and the numbers; "" for a table without findings."""
    return "\n".join(
        f"* {markdown_text(verdict.finding.claim.rstrip('.'))}: **{verdict.word}**. {markdown_text(verdict.evidence)}"
        for verdict in judge(table, lines)
    )


def _verdict(table: Table, finding: Finding, lines: dict[str, Line]) -> Verdict:
    pair = [lines.get(key) or Line(row=table.row(key)) for key in (finding.better, finding.worse)]
    # The scale matters for differences to published values alone, which play no part here.
    values = [cell_values(table, line, "desk")[finding.figure] for line in pair]
    shown = [f"{row_name(table, line.row)}: {obtained(value)}" for line, value in zip(pair, values, strict=True)]
    evidence = f"{table.figures[finding.figure]} of {'; of '.join(shown)}"
    better, worse = values
    if better.mean is None or worse.mean is None:
        return Verdict(finding=finding, word="not run", evidence=f"{evidence}.{_paper(values)}")
    gap, error = _gap(finding, pair, better.mean - worse.mean)
    bar = 0.0
    if finding.within is not None:
        bar = -finding.within * (abs(worse.mean) / 100 if finding.percent else 1)
    evidence += f"; difference {number(gap, like=worse.mean, sign=True)}"
    if error is None:
        evidence += ", of a single seed"
    elif finding.figure not in COUNTED:
        evidence += f", standard error {number(error, like=worse.mean)}"
    if finding.within is not None:
        tolerance = f"{finding.within:g} %" if finding.percent else f"{finding.within:g}"
        evidence += f", tolerance {tolerance}"
    return Verdict(finding=finding, word=_word(finding, gap, error, bar), evidence=f"{evidence}.{_paper(values)}")


def _gap(finding: Finding, pair: Sequence[Line], plain: float) -> tuple[float, float | None]:
    """The mean difference and its standard error, None where seeds are too few for one."""
    if finding.figure in COUNTED:
        return plain, 0.0
    better, worse = (samples_by_seed(line, finding.figure) for line in pair)
    if min(len(better), len(worse)) < 2:
        return plain, None
    if better.keys() == worse.keys():
        differences = [better[seed] - worse[seed] for seed in better]
        return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    squares = [statistics.variance(samples.values()) / len(samples) for samples in (better, worse)]
    return plain, math.sqrt(sum(squares))


def _word(finding: Finding, gap: float, error: float | None, bar: float) -> Word:
    if finding.figure in COUNTED:
        return "holds" if gap > bar or (finding.within is not None and gap == bar) else "does not hold"
    if error is not None and gap - ERRORS * error > bar:
        return "holds"
    if error is not None and gap + ERRORS * error < bar:
        return "does not hold"
    return "not decided"


def _paper(values: Sequence[Value]) -> str:
    """The difference that the paper has, for the eye."""
    better, worse = values
    if better.published is None or worse.published is None:
        return ""
    doubt = f" {MARK}" if {better.source, worse.source} & set(UNVERIFIED) else ""
    return f" The paper: {number(better.published - worse.published, like=worse.published, sign=True)}{doubt}."
