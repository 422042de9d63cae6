"""Metrics: average precision in five definitions, F1, top-k accuracy. In percent, but for per-class AP."""

from mldec.metrics.average_precision import average_precision, mean_average_precision
from mldec.metrics.f1 import F1Scores, count_decisions, f1_at_k, f1_at_threshold, f1_per_class
from mldec.metrics.topk import top_k_accuracy
from mldec.metrics.zero_shot import chance_average_precision, zero_shot_metrics

__all__ = [
    "F1Scores",
    "average_precision",
    "chance_average_precision",
    "count_decisions",
    "f1_at_k",
    "f1_at_threshold",
    "f1_per_class",
    "mean_average_precision",
    "top_k_accuracy",
    "zero_shot_metrics",
]
