"""Measurements of speed and memory that anyone can repeat, as ratios within one run.

`model`, `train`, `loader` and `data` are the subjects of `mldec benchmark`; each has `measure(…) -> list[Figure]`.
"""
