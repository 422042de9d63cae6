"""Tests of paired differences: of two methods over the same seeds, labels or images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class TTest(NamedTuple):
    """Two-sided p-value of Student's t test, and the 95 % confidence interval of the mean."""

    p: float
    low: float
    high: float


def t_test(differences: Sequence[float], bar: float = 0.0) -> TTest:
    """The test of whether the mean of two or more differences is `bar`."""
    from scipy import stats

    if min(differences) == max(differences):  # no variance, for which scipy has no statistic
        return TTest(1.0 if differences[0] == bar else 0.0, differences[0], differences[0])
    result = stats.ttest_1samp(differences, bar)
    low, high = result.confidence_interval(0.95)
    return TTest(float(result.pvalue), float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values in the order given, whose rejections below a level keep the
    probability of any false one under that level (Holm 1979)."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
