"""What is fast and what it costs: measurements that anyone can repeat, as ratios within one run.

Each module is a subject of `mldec benchmark` and has `measure(options…) -> list[Figure]`.
"""

from mldec.benchmarks.figure import Figure

__all__ = ["Figure"]
