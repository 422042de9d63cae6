"""`mldec export`: a trained network for use elsewhere, compared with itself before it is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldec.commands import compose
from mldec.commands.options import folder_for_output, one_of, switch
from mldec.errors import ConfigError
from mldec.files import refuse_linked

HELP = """usage: mldec export run=RUN format=onnx|torch_export|safetensors [key=value …]

  run=RUN                            a run folder (its best epoch), a checkpoint, or an exported folder
  format=onnx                        model.onnx, for ONNX Runtime; needs pip install 'mldec[export]'
  format=torch_export                model.pt2, for torch.export.load
  format=safetensors                 model.safetensors, for mldec.load(folder) and mldec predict run=FOLDER
                                     several at once: format=safetensors,onnx
  output=DIR                         a new folder; default RUN/export/<format>
  weights=best|ema|raw          default: the weights whose metric the run reported
  fold_batch_norm=true               fold batch norm into convolutions (onnx, torch_export)
  preprocessing=described|included   included: images go in as uint8 and the graph normalises them; to decode and to
                                     resize stays outside (onnx, torch_export). default described: both in words
  device=cpu|cuda:N                  where a torch_export program will run; default cpu

The folder also gets mldec.json (labels, preprocessing, configuration) and README.md, a model card for the Hugging Face
Hub. A zero-shot network with one label-embedding query a label takes the labels' vectors as a second input of its graph."""

OWN = ("run", "format", "output", "weights", "fold_batch_norm", "preprocessing", "device")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = compose.parse(argv, own=OWN, config_dir=False)
    if arguments.help:
        print(HELP)
        return 0
    own = arguments.own
    for word in arguments.overrides:
        raise ConfigError(f"{word}: no such word of export; it knows {', '.join(OWN)}")
    for needed in ("run", "format"):
        if needed not in own:
            raise ConfigError(f"{needed}=… is missing; mldec export --help shows what is needed")
    allowed = ("onnx", "torch_export", "safetensors")
    formats: list[Any] = [
        one_of({"format": name.strip()}, "format", allowed, "")
        for name in own["format"].strip("[]").split(",")
        if name.strip()
    ]
    if not formats or len(set(formats)) < len(formats):
        raise ConfigError(f"format={own['format']}: expected one or several of {', '.join(allowed)}, each once")
    weights: Any = one_of(own, "weights", ("best", "ema", "raw"), "best")
    fold = switch(own, "fold_batch_norm")
    included = one_of(own, "preprocessing", ("described", "included"), "described") == "included"
    output = folder_for_output(own, "output", "") if "output" in own else _default_folder(own["run"], formats)
    compose.load_components(arguments.plugins)

    from mldec.engine.display import Display
    from mldec.engine.export.exporter import BATCHES, export

    display = Display()
    device = own.get("device", "cpu")
    found = export(
        own["run"], output, formats, weights=weights, fold=fold, included=included, device=device, display=display
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


def _default_folder(run: str, formats: Sequence[str]) -> Path:
    """Within the run folder. Raises ConfigError where there is none."""
    path = Path(run).expanduser()
    if path.is_file() and path.parent.name == "checkpoints":
        path = path.parent.parent
    if path.exists() and not (path / "checkpoints").is_dir():
        raise ConfigError(f"run={run} is no run folder that the export could go into; say where: output=DIR")
    name = f"export/{'_'.join(formats)}"
    refuse_linked(path, [name])
    return path / name
