"""`mldec report`: a run, or several beside one another, as one page for the browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands import compose
from mldec.commands.evaluate import measured_config
from mldec.commands.options import file_for_output, one_of, refuse_overwriting, switch
from mldec.config import Config
from mldec.errors import CheckpointError, ConfigError, DataError, shortened, suggest

if TYPE_CHECKING:
    from mldec.data.index import ImageIndex
    from mldec.report.measure import MeasuredSplit
    from mldec.report.run import RunFiles

HELP = """usage: mldec report run=RUN[,RUN…] [output=FILE.html] [split=test] [labels="a,b"] [key=value …]

  run=RUN                   a run folder (its best epoch) or a checkpoint; several: a comparison with the first
  output=FILE.html          default RUN/report.html; of several runs comparison.html in the folder you stand in
  split=train|val|test      whose images are measured; default test
  labels="a,b"              whose curves of precision and recall are drawn; default: the best, the median, the worst
  weights=best|ema|raw those whose metric training reported (best, the default), EMA, or raw
  allow_other_data=true     measure although the images or labels are not those that the run recorded
  dataset.root=…            where the images lie now; with protocol=… and runtime.device=… as in mldec evaluate

The page is one file that needs nothing else: no network, no other files. What a run folder lacks, or images that are
gone, are said in the place where they would stand."""

OWN = ("run", "runs", "output", "split", "labels", "weights", "allow_other_data")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = compose.parse(argv, own=OWN)
    if arguments.help:
        print(HELP)
        return 0
    own = arguments.own
    sources = find_runs(own)
    split = one_of(own, "split", ("train", "val", "test"), "test")
    weights = one_of(own, "weights", ("best", "ema", "raw"), "best")
    if "labels" in own and len(sources) > 1:
        raise ConfigError(f"labels={own['labels']}: curves of labels are on the page of one run; leave labels out")
    names = [name.strip() for name in own["labels"].split(",") if name.strip()] if "labels" in own else None
    compose.load_components(arguments.plugins)
    switch(own, "allow_other_data")
    check_keys(arguments.overrides)

    from mldec.engine.display import Display
    from mldec.engine.run_directory import write_text
    from mldec.report.comparison import compare
    from mldec.report.page import report
    from mldec.report.run import read_run

    display = Display()
    runs = [read_run(source) for source in sources]
    output = file_for_output(own, "output", _default_output(runs), "report.html")
    parts = (path for run in runs for path in run.folder.glob("**/*.*") if _is_part(path))
    refuse_overwriting("output", [output], parts)
    measured: list[MeasuredSplit | str] = []
    for source, run in zip(sources, runs, strict=True):
        folder = run.folder if len(runs) == 1 else None  # a comparison shows no thresholds
        one = _measure(source, folder, split, weights, arguments, display)
        if isinstance(one, str):
            display.say(f"warning: {run.folder}: {one}")
        measured.append(one)
    page = report(runs[0], measured[0], names) if len(runs) == 1 else compare(runs, measured)
    write_text(output, page)
    size = len(page.encode())
    display.say(f"written to {output} ({f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.0f} kB'})")
    return 0


def find_runs(own: dict[str, str]) -> list[str]:
    """The runs that `run=` or `runs=` name. A folder whose name holds a comma is one run."""
    if ("run" in own) == ("runs" in own):
        raise ConfigError("say what to report: run=RUN, or several: run=RUN,RUN")
    text = own.get("run", own.get("runs", ""))
    if Path(text).expanduser().exists():
        return [text]
    sources = [source.strip() for source in text.strip("[]").split(",") if source.strip()]
    if not sources:
        raise ConfigError("run=: empty; name a run folder, as in run=outputs/digits/2026-01-31_12-00-00")
    return sources


def _measure(
    source: str, folder: Path | None, split: str, weights: str, arguments: compose.Arguments, display: Any
) -> MeasuredSplit | str:
    """What the weights of a run say of a split, or a sentence that says why they cannot be asked."""
    from mldec.engine.checkpoint import restore
    from mldec.engine.device import choose_device, prepare_runtime
    from mldec.engine.same_data import check_same_data
    from mldec.report.measure import measure

    try:
        restored = restore(source, weights=weights)  # type: ignore[arg-type]
    except CheckpointError as error:
        return f"The weights could not be read: {error}"
    try:
        config = measured_config(restored.config, arguments, restored.path)
    except DataError as error:
        return f"The images could not be read: {error}"
    if config.runtime.devices > 1:
        raise ConfigError(f"runtime.devices={config.runtime.devices}: a report is made by one process; leave it out")
    device = choose_device(config.runtime.device)
    prepare_runtime(config.runtime, device)
    typed, allowed = [*map(compose.key_of, arguments.overrides)], switch(arguments.own, "allow_other_data")

    def check(split: str, index: ImageIndex) -> None:
        if other := check_same_data(restored.path, split, index, overrides=typed, allowed=allowed):
            display.say(f"note: {other}")

    try:
        return measure(restored, config, split, folder, device, display, check)
    except (DataError, OSError) as error:
        return f"The images could not be read: {error}"


def check_keys(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a setting of nothing: a run whose weights are gone would not notice it."""
    known = {field.name for field in dataclasses.fields(Config)}
    for word in overrides:
        name = compose.key_of(word).partition(".")[0]
        if name not in known:
            raise ConfigError(f"{shortened(word)}: no such word of report; {suggest(name[:80], {*known, *OWN})}")


def _is_part(path: Path) -> bool:
    """Whether a file of a run folder is what a run is made of, and no report."""
    return path.suffix not in (".html", ".htm")


def _default_output(runs: Sequence[RunFiles]) -> Path:
    return Path("comparison.html") if len(runs) > 1 else Path(runs[0].folder / "report.html")
