"""`mldec export`: a trained network for use elsewhere, compared with itself before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mldec.commands import compose
from mldec.commands.options import OutputDirectory, Weights, parse
from mldec.errors import ConfigError, shortened
from mldec.files import refuse_linked


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """A trained network for use elsewhere, with mldec.json (labels, preprocessing, configuration) and a model card.

    onnx          model.onnx, for ONNX Runtime; needs pip install 'mldec[export]'
    torch_export  model.pt2, for torch.export.load
    safetensors   model.safetensors, for mldec.load(DIR) and mldec predict run=DIR

    A zero-shot network with one label-embedding query per label takes the embeddings as a second input of its graph.

    Attributes:
        preprocessing: included: images go in as uint8 and the graph normalises them; decoding and resizing stay outside
            (onnx, torch_export). described: all of it is described in mldec.json
    """

    run: Path  # a run directory (its best epoch), a checkpoint file or an exported folder
    format: tuple[Literal["onnx", "torch_export", "safetensors"], ...]  # one or several
    output: OutputDirectory | None = None  # a new directory; default RUN/export/<format>
    weights: Weights = "best"  # best: those whose metric training reported; ema: their moving average; raw: without it
    fold_batch_norm: bool = False  # fold batch norm into convolutions (onnx, torch_export)
    preprocessing: Literal["described", "included"] = "described"
    device: str = "cpu"  # where a torch_export program will run: cpu or cuda:N


OPTIONS = ExportOptions


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, arguments = parse(argv, ExportOptions, "export")
    output = options.output or _default_directory(options)
    compose.load_components(arguments.plugins)

    from mldec.engine.display import Display
    from mldec.engine.export.exporter import BATCHES, export

    display = Display()
    found = export(
        options.run,
        output,
        options.format,
        weights=options.weights,
        fold=options.fold_batch_norm,
        included=options.preprocessing == "included",
        device=options.device,
        display=display,
    )
    for note in found.notes:
        display.say(f"note: {note}")
    for name, size in found.sizes.items():
        scores, logits = found.differences[name]
        compared = "equal to the network" if not scores and not logits else f"differs from the network by {logits:.1e}"
        detail = "" if not scores and not logits else f" in logits, {scores:.1e} in scores"
        display.say(f"{name:<18} {size / 2**20:6.1f} MiB   {compared}{detail}")
    display.say(f"compared in batches of {', '.join(map(str, sorted(BATCHES)))} images\nwritten to {found.folder}")
    return 0


def _default_directory(options: ExportOptions) -> Path:
    """Within the run directory. Raises ConfigError where there is none."""
    path = options.run
    if path.is_file() and path.parent.name == "checkpoints":
        path = path.parent.parent
    if path.exists() and not (path / "checkpoints").is_dir():
        why = "is no run directory that the export could go into"
        raise ConfigError(f"run={shortened(options.run)}: {why}; use output=DIR")
    name = f"export/{'_'.join(options.format)}"
    refuse_linked(path, [name])
    return path / name
