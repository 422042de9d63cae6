"""How long a user waits before anything happens: whole processes, from the shell's point of view."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from mldec.benchmarks.figure import Figure

HELP, SHOW, IMPORT = "mldec --help", "mldec show experiment=digits", "import torch, timm"
SECONDS, RATIO = 0.5, 1.3  # targets

#: In the order in which a round runs them.
COMMANDS = {
    HELP: ["-m", "mldec", "--help"],
    IMPORT: ["-c", IMPORT],
    SHOW: ["-m", "mldec", "show", "experiment=digits"],
}


def measure(*, repeats: int = 5) -> list[Figure]:
    """Seconds of each command, in turn; a round before the first brings their files into memory."""
    _round()
    rounds = [_round() for _ in range(repeats)]
    samples = {name: tuple(found[name] for found in rounds) for name in COMMANDS}
    ratios = tuple(show / bare for show, bare in zip(samples[SHOW], samples[IMPORT], strict=True))
    return [
        Figure(HELP, median(samples[HELP]), "s", SECONDS, samples=samples[HELP]),
        Figure(f"{SHOW} over {IMPORT}", median(ratios), "x", RATIO, samples=ratios),
        Figure(SHOW, median(samples[SHOW]), "s", samples=samples[SHOW]),
        Figure(IMPORT, median(samples[IMPORT]), "s", samples=samples[IMPORT]),
    ]


def _round() -> dict[str, float]:
    return {name: _seconds(arguments) for name, arguments in COMMANDS.items()}


def _seconds(arguments: list[str]) -> float:
    began = perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - began
