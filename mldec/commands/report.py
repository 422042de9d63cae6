"""`mldec report`: a run, or several side by side, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mldec.commands import compose
from mldec.commands.evaluate import measured_config
from mldec.commands.options import EXPERIMENT, LabelNames, NetworkOptions, OutputFile, Split, parse, split_list
from mldec.errors import CheckpointError, ConfigError, DataError, shortened
from mldec.files import check_output_file, refuse_overwriting, write_text

if TYPE_CHECKING:
    from mldec.engine.display import Display
    from mldec.report.measure import MeasuredSplit


@dataclass(frozen=True, kw_only=True)
class ReportOptions(NetworkOptions):
    """A run, or several side by side, as one HTML page that needs no network and no other files.

    dataset.root=… protocol=…  where the images are now, and how they are measured, as in mldec evaluate

    Where files of a run directory or the images are missing, the page shows that in their place.
    """

    SETTINGS = EXPERIMENT

    run: str  # a run directory (its best epoch) or a checkpoint file; several, RUN,RUN: a comparison with the first
    output: OutputFile | None = None  # default RUN/report.html; of several runs comparison.html
    split: Split = "test"  # which images are measured
    labels: LabelNames | None = None  # whose precision-recall curves are drawn; default: best, median, worst
    allow_other_data: bool = False  # accept images or labels that are not those that the run recorded (data.json)


OPTIONS = ReportOptions


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, arguments = parse(argv, ReportOptions, "report")
    sources = find_runs(options.run)
    if options.labels is not None and len(sources) > 1:
        raise ConfigError("labels=…: curves of labels are on the page of one run; leave labels out")
    compose.load_components(arguments.plugins)

    from mldec.engine.display import Display
    from mldec.report.comparison import compare
    from mldec.report.page import report
    from mldec.report.run import read_run

    display = Display()
    runs = [read_run(source) for source in sources]
    output = options.output or (Path("comparison.html") if len(runs) > 1 else runs[0].folder / "report.html")
    check_output_file("output", output)
    parts = (path for run in runs for path in run.folder.glob("**/*.*"))
    refuse_overwriting("output", [output], (path for path in parts if path.suffix not in (".html", ".htm")))
    measured: list[MeasuredSplit | str] = []
    for source, run in zip(sources, runs, strict=True):
        one = _measure(source, options, arguments, display, by_label=len(runs) == 1)  # a comparison shows no thresholds
        if isinstance(one, str):
            display.say(f"warning: {run.folder}: {one}")
        measured.append(one)
    names = None if options.labels is None else list(options.labels)
    page = report(runs[0], measured[0], names) if len(runs) == 1 else compare(runs, measured)
    write_text(output, page)
    size = len(page.encode())
    display.say(f"written to {output} ({f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.0f} kB'})")
    return 0


def find_runs(text: str) -> list[str]:
    """The runs that `run=` names. A directory whose name holds a comma is one run."""
    if Path(text).expanduser().exists():
        return [text]
    if sources := split_list(text):
        return sources
    raise ConfigError(f"run={shortened(text)}: names no run; use run=outputs/digits/2026-01-31_12-00-00, for example")


def _measure(
    source: str, options: ReportOptions, arguments: compose.Arguments, display: Display, *, by_label: bool
) -> MeasuredSplit | str:
    """The predictions of a run's network for a split, or a sentence with the reason why there are none."""
    from mldec.engine.checkpoint import restore
    from mldec.report.measure import measure_split

    try:
        restored = restore(source, weights=options.weights)
    except CheckpointError as error:
        return f"The weights could not be read: {error}"
    try:
        config = measured_config(restored.config, arguments, restored.path, options.runtime())
        devices = config.runtime.devices
        if devices > 1:
            raise ConfigError(f"runtime.devices={devices}: a report is made by one process; leave it out")
        given, allowed = arguments.keys(), options.allow_other_data
        return measure_split(
            restored, config, options.split, display, by_label=by_label, overrides=given, allow_other_data=allowed
        )
    except (DataError, OSError) as error:
        return f"The images could not be read: {error}"
