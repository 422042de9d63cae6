"""Records of measurements: JSON for programs, a Markdown page for readers."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

from mldec.benchmarks.figure import Figure
from mldec.engine import environment
from mldec.engine.device import choose_device, choose_precision


class Measured(NamedTuple):
    """The result of a subject: figures, device and precision (of `runtime`), and further entries of its record."""

    figures: list[Figure]
    device: str = "cpu"
    details: Mapping[str, Any] = {}
    precision: str = "fp32"


def make_record(subject: str, measured: Measured) -> dict[str, Any]:
    """The content of a JSON file of figures: with the date, device, precision, versions and commit."""
    device = choose_device(measured.device)
    return {
        "subject": subject,
        "date": datetime.date.today().isoformat(),
        "environment": environment.environment(device, choose_precision(measured.precision, device)),
        **measured.details,
        "figures": [dataclasses.asdict(figure) for figure in measured.figures],
    }


def page(subject: str, what: str, command: str, record: Mapping[str, Any], table: str) -> str:
    """The page of a record: what was measured, by which command, on which machine, and the table of figures."""
    machine = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    return (
        f"# Benchmark: {subject}\n\n{what} Written by `{command}` on {record['date']}.\n\n"
        f"{machine['device']}. Python {machine['python']}, {versions}. Commit {machine['commit']}.\n\n{table}\n"
    )
