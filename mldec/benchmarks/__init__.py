"""Measurements of speed and memory that anyone can repeat, as ratios within one run.

`model`, `train` and `loader` are the subjects of `mldec benchmark`; each has `measure(…) -> list[Figure]`.
"""
