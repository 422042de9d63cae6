"""`mldec show`: what an experiment is, before it costs anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, compose_config, parse, say
from mldec.config import Range, build_config, to_mapping

MOST_LABELS = 10**6  # for which a network is built only to be measured


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """The resolved experiment, and its cost: parameters, multiply-accumulates, images, steps, learning rate over time.

    Trains nothing, writes nothing. The YAML is that of the config.yaml of a run directory.
    """

    SETTINGS = EXPERIMENT

    run: Path | None = None  # show the experiment of a run directory
    format: Literal["summary", "yaml"] = "summary"  # yaml: the experiment alone; summary: followed by what it costs
    num_labels: Annotated[int, Range(1, MOST_LABELS)] | None = None  # assume as many labels; the dataset is not read


OPTIONS = ShowOptions


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, arguments = parse(argv, ShowOptions, "show")
    if options.run is not None:
        compose.load_components(arguments.plugins)
        stored = compose.read_yaml(options.run / "config.yaml")
        config = build_config(compose.change(stored, arguments.overrides, arguments.config_dir))
    else:
        config = compose_config(arguments, reads_data=options.num_labels is None)
    say(compose.to_yaml(to_mapping(config)).removesuffix("\n"))
    if options.format == "summary":
        from mldec.engine.experiment_summary import summarize

        say("")
        for line in summarize(config, options.num_labels):
            say(line)
    return 0
