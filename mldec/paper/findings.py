"""Which of the paper's claims hold, judged by paired differences over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from mldec.metrics.paired import holm, t_test
from mldec.paper.markup import markdown_text
from mldec.paper.tables import COUNTED, Finding, PaperTable
from mldec.paper.values import ResultValue, RowResult, count, number, obtained, result_values, row_name, samples_by_seed

VerdictText = Literal["holds", "does not hold", "not decided", "not run"]
LEVEL = 0.05  # of the tests of a table together
SETTLED = 0.2  # points by which doubling the epochs may raise the mean val metric of a row that was trained long enough
MOST = 100.0  # the upper bound of a val metric, in percent

RULE = (
    "A claim is judged by the differences of two rows between runs of the same seed. A paired, two-sided t test "
    "decides whether their mean equals the bar: 0 for a claim that one row is above another, minus the tolerance for a"
    " claim that it is as good. p-values are corrected by Holm's method over the claims of a table, so that with 95 % "
    "probability none of its verdicts is due to the seeds. *Holds*: above the bar with p < 0.05. *Does not hold*: "
    "below it with p < 0.05. *Not decided*: all else, including a single pair. *Not run*: a row has no value. Counted "
    "figures have no error. Seeds vary initial weights, data order and augmentations, not the images: other data may "
    "give other verdicts."
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a finding holds according to the records, with the numbers as a sentence."""

    finding: Finding
    text: VerdictText
    evidence: str

    @property
    def claim(self) -> str:
        """The claim as Markdown."""
        return markdown_text(self.finding.claim.rstrip("."))


def judge(table: PaperTable, results: Sequence[RowResult]) -> tuple[Verdict, ...]:
    """A verdict for each finding of the table, by `RULE`.

    With d the mean of the paired differences `better - worse`, e its standard error over n pairs and b the bar (0, or
    `-within`, or `-within` percent of the mean of `worse`): t = (d - b) / e with n - 1 degrees of freedom. Figures that
    are counted need no test: a claim holds above the bar, and a claim with `within` also on it. A claim about rows
    that are meant to be at their plateau stays undecided until `plateaus` shows that they are.
    """
    by_key = _by_key(table, results)
    compared = [_compare(table, finding, by_key) for finding in table.findings]
    corrected = iter(holm([pair.p for pair in compared if pair.p is not None]))
    compared = [pair if pair.p is None else pair._replace(p=next(corrected)) for pair in compared]
    return tuple(_verdict(table, pair, by_key) for pair in compared)


def findings(table: PaperTable, results: Sequence[RowResult]) -> str:
    """A Markdown bullet for each finding, with its verdict and the numbers; "" for a table without findings."""
    return "\n".join(
        f"* {verdict.claim}: **{verdict.text}**. {markdown_text(verdict.evidence)}" for verdict in judge(table, results)
    )


def plateaus(table: PaperTable, results: Sequence[RowResult]) -> str:
    """A Markdown bullet for each row that is meant to be trained long enough, with the evidence; "" without any."""
    by_key = _by_key(table, results)
    bullets = []
    for key in table.plateau:
        reached, evidence = _plateau(table, key, by_key)
        text = {True: "long enough", False: "not long enough", None: "not known"}[reached]
        bullets.append(f"* {markdown_text(row_name(table, table.row(key)))}: **{text}**. {markdown_text(evidence)}")
    return "\n".join(bullets)


class _Comparison(NamedTuple):
    """The two rows of a finding, better first, and their paired differences: one number where the figure is counted."""

    finding: Finding
    names: list[str]
    values: list[ResultValue]
    differences: list[float] | None = None  # None: a row has no value
    bar: float = 0.0
    p: float | None = None  # of the mean difference being the bar; `judge` corrects it; None: not tested


def _by_key(table: PaperTable, results: Sequence[RowResult]) -> dict[str, RowResult]:
    """The result of each row of a table, without records where there is none."""
    return {row.key: RowResult(row=row) for row in table.rows} | {result.row.key: result for result in results}


def _compare(table: PaperTable, finding: Finding, by_key: Mapping[str, RowResult]) -> _Comparison:
    results = [by_key[finding.better], by_key[finding.worse]]
    names = [row_name(table, result.row) for result in results]
    values = [result_values(table, result)[finding.figure] for result in results]
    better, worse = (value.mean for value in values)
    if better is None or worse is None:
        return _Comparison(finding, names, values)
    if finding.figure in COUNTED:
        return _Comparison(finding, names, values, [better - worse], _bar(finding, worse))
    ours, theirs = (samples_by_seed(result, finding.figure) for result in results)
    seeds = sorted(ours.keys() & theirs.keys())
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    bars = [_bar(finding, theirs[seed]) for seed in seeds]  # a percentage is one of each pair's own value
    above = [difference - bar for difference, bar in zip(differences, bars, strict=True)]
    p = t_test(above).p if len(seeds) > 1 else None
    return _Comparison(finding, names, values, differences, statistics.fmean(bars) if bars else 0.0, p)


def _bar(finding: Finding, worse: float) -> float:
    if finding.within is None:
        return 0.0
    return -finding.within * (abs(worse) / 100 if finding.percent else 1)


def _verdict(table: PaperTable, pair: _Comparison, by_key: Mapping[str, RowResult]) -> Verdict:
    finding = pair.finding
    shown = [f"{name}: {obtained(value)}" for name, value in zip(pair.names, pair.values, strict=True)]
    evidence = f"{table.figures[finding.figure]} of {'; of '.join(shown)}"
    text: VerdictText = "not run"
    if pair.differences is not None:
        text, evidence = _verdict_text(pair), f"{evidence}; {_difference(pair)}"
        keys = [key for key in table.plateau if key in (finding.better, finding.worse)]
        unsettled = [row_name(table, table.row(key)) for key in keys if not _plateau(table, key, by_key)[0]]
        if unsettled:
            text, evidence = "not decided", f"{evidence}; not shown to be trained long enough: {', '.join(unsettled)}"
    return Verdict(finding=finding, text=text, evidence=f"{evidence}.{_paper(*pair.values)}")


def _verdict_text(pair: _Comparison) -> VerdictText:
    is_counted = pair.finding.figure in COUNTED
    if not pair.differences or (not is_counted and (pair.p is None or pair.p >= LEVEL)):
        return "not decided"
    mean = statistics.fmean(pair.differences)
    above = mean > pair.bar or (is_counted and pair.finding.within is not None and mean == pair.bar)
    return "holds" if above else "does not hold"


def _difference(pair: _Comparison) -> str:
    """`difference +1.05 over 5 pairs, 95 % interval +0.81 to +1.29, p = 0.002`, with the tolerance, if any."""
    if not pair.differences:
        return "no seed in common"
    shown = partial(number, like=pair.values[1].mean, sign=True)
    text = f"difference {shown(statistics.fmean(pair.differences))}"
    if pair.finding.figure not in COUNTED:
        text += f" over {count(len(pair.differences), 'pair')}"
    test = None if pair.p is None else t_test(pair.differences)
    if test is not None:
        text += f", 95 % interval {shown(test.low)} to {shown(test.high)}"
    if pair.finding.within is not None:
        text += f", tolerance {pair.finding.within:g}{' %' if pair.finding.percent else ''}"
    if pair.p is not None and test is not None:
        text += f", {_p(pair.p)} after Holm's correction"
        if pair.bar != 0 and test.p < LEVEL:
            text += f"; the difference itself is significant ({_p(test.p)}, not corrected)"
    return text


def _p(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _plateau(table: PaperTable, key: str, by_key: Mapping[str, RowResult]) -> tuple[bool | None, str]:
    """Whether a row was trained long enough, None where that is not known, and the evidence.

    It was if twice the epochs raise the mean val metric by less than `SETTLED`, over the seeds that both rows have.
    They may lower it: a head that fits the training images too closely has its best length behind it.
    """
    short, long = (
        {record.seed: record.best for record in by_key[name].records if record.best is not None}
        for name in (key, table.plateau[key])
    )
    if not short:
        return None, "Not run."
    if seeds := sorted(short.keys() & long.keys()):
        before, after = (statistics.fmean(values[seed] for seed in seeds) for values in (short, long))
        text = f"On val {before:.2f}, and with twice the epochs {after:.2f}: changed by {after - before:+.2f}"
        text += f" over {count(len(seeds), 'seed')}; it is long enough if more epochs do not add {SETTLED:g}."
        return after - before < SETTLED, text
    mean = statistics.fmean(short.values())
    text = f"On val {mean:.2f}, of {MOST:g} at most; twice the epochs were not run"
    return (True, f"{text}, and cannot add {SETTLED:g}.") if MOST - mean < SETTLED else (None, f"{text}.")


def _paper(better: ResultValue, worse: ResultValue) -> str:
    """The published difference, for comparison."""
    if better.published is None or worse.published is None:
        return ""
    difference = number(better.published - worse.published, like=worse.published, sign=True)
    return f" Published: {difference}{better.mark or worse.mark}."
