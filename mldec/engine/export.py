"""A trained network for use elsewhere: written, read back and compared with the network itself, or not there at all."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import mldec
from mldec.config import to_mapping
from mldec.data.image import Normalization, scaled_side
from mldec.engine import build, exported_model, graph, thresholds, tracking
from mldec.engine.checkpoint import Restored, Weights, find_checkpoint, load_checkpoint, restore
from mldec.engine.device import choose_device
from mldec.engine.display import Display
from mldec.engine.model_card import model_card
from mldec.engine.predictor import load
from mldec.errors import ConfigError, RunError
from mldec.files import partial_path
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.folding import fold_batch_norm
from mldec.models.label_embeddings import LabelEmbeddings

logger = logging.getLogger(__name__)

Format = Literal["onnx", "torch_export", "safetensors"]

FILES: dict[Format, str] = {"onnx": "model.onnx", "torch_export": "model.pt2", "safetensors": exported_model.WEIGHTS}

TOLERANCE = 1e-4  # of scores; of logits times the largest of them, if that is above 1
BATCHES = (2, 1, 5)  # the first is what the exporters see
UNKNOWN = "label of a trial "


class Difference(NamedTuple):
    """The largest differences from the network itself, over all images that were tried."""

    scores: float
    logits: float


@dataclass(frozen=True)
class Exported:
    """What an export left: the folder, the bytes and the difference of each format's file, and what is to be said."""

    folder: Path
    sizes: dict[str, int]
    differences: dict[str, Difference]
    notes: tuple[str, ...]


def export(
    run: str | Path,
    output: Path,
    formats: Sequence[Format],
    *,
    weights: Weights = "best",
    fold: bool = False,
    included: bool = False,
    device: str = "cpu",
    display: Display | None = None,
) -> Exported:
    """Write the network of `run` into the new folder `output`: a file for each format, mldec.json and a model card.

    Each file is read back and compared with the network on images in batches of 1, 2 and 5; of a zero-shot network
    also with labels that it does not know. If one differs, nothing is left.

    Args:
        run: a run folder, a checkpoint, or an exported folder.
        fold: fold batch norm into convolutions (onnx, torch_export).
        included: images go in as uint8, and the graph normalises them (onnx, torch_export).
        device: where a torch_export program will run, whose constants lie there.

    Raises:
        ConfigError: settings without effect on these formats, missing packages, `output` holds files.
        CheckpointError: the run cannot be read.
        RunError: a network that a format cannot express, or a file that differs from it.
    """
    _check(formats, fold, included, device)
    display = display or Display(quiet=True)
    path = find_checkpoint(run)
    restored = restore(run, weights)
    classifier = restored.classifier.to(choose_device(device))
    asks = graph.takes_vectors(classifier)
    exported, notes = copy.deepcopy(classifier), []
    if fold:
        notes.append(_fold(exported, restored))
    if classifier.vocabulary is not None and not asks and set(formats) != {"safetensors"}:
        notes.append(
            "labels share queries or output weights in this network: onnx and torch_export are for its trained labels"
        )
    scorer = graph.Scorer(exported, build.uses_softmax(restored.config), restored.normalization if included else None)
    description = _describe(restored, load_checkpoint(path), included, asks)
    sizes: dict[str, int] = {}
    differences: dict[str, Difference] = {}
    with _whole_folder(output) as folder, display.bar("exporting", len(formats)) as bar:
        trials = _make_trials(restored, asks)
        vectors = None if classifier.vocabulary is None else classifier.vocabulary.known.vectors
        exported_model.write_exported(folder, description, vectors)
        for name in formats:
            file = folder / FILES[name]
            bar.advance(0, text=file.name)
            display.line(f"writing {file.name}")
            again = _write(name, file, scorer.eval(), restored, trials[0], _metadata(description))
            differences[file.name] = _compare(name, again, trials)
            sizes[file.name] = sum(part.stat().st_size for part in folder.glob(f"{file.name}*"))
            bar.advance()
        card = model_card(description, sizes, {name: found.logits for name, found in differences.items()}, notes)
        tracking.write_text(folder / "README.md", card)
    return Exported(output, sizes, differences, tuple(notes))


def preprocessing(restored: Restored, included: bool) -> dict[str, Any]:
    """What happens to an image before the network sees it: what remains to be done outside of a graph, and what is
    done inside of it."""
    resize = build.build_resize(restored.config)
    size, crop, interpolation = resize.image_size, resize.crop, resize.filter
    mean, std = restored.normalization.mean, restored.normalization.std
    scale = ["divide by 255"]
    if restored.normalization != Normalization.unit():
        scale.append("subtract mean and divide by std, by channel")
    if crop is None:
        fit = [
            f"resize both sides to {size}, {interpolation} with antialiasing (Pillow's resize), aspect ratio given up"
        ]
    else:
        fit = [
            f"resize the shorter side to {scaled_side(size, crop)}, {interpolation} with antialiasing (Pillow's "
            "resize), aspect ratio kept",
            f"cut out the centre, {size} x {size}",
        ]
    outside = ["decode as RGB, upright", *fit, "lay out as (B, 3, height, width)"]
    return {
        "image_size": size,
        "crop": crop,
        "resize": interpolation,
        "mean": list(mean),
        "std": list(std),
        "input": "uint8, 0 to 255" if included else "float32, normalised",
        "normalization_included": included,
        "before_the_graph": outside if included else [*outside, *scale],
        "in_the_graph": scale if included else [],
    }


def _check(formats: Sequence[str], fold: bool, included: bool, device: str) -> None:
    """Raise ConfigError for what has no effect, or a package that is missing."""
    if "onnx" in formats:
        graph.check_onnx()
    if set(formats) == {"safetensors"}:
        for is_set, option, why in (
            (fold, "fold_batch_norm=true", "these weights are for the network as it was trained"),
            (included, "preprocessing=included", "mldec.load normalises images itself"),
        ):
            if is_set:
                raise ConfigError(f"{option}: without effect on format=safetensors, {why}; leave it out")
    if device != "cpu" and "torch_export" not in formats:
        raise ConfigError(f"device={device}: only a torch_export program is for one device; leave it out")


def _fold(classifier: Classifier, restored: Restored) -> str:
    """Fold batch norm in place; says what was done."""
    folded, kept = fold_batch_norm(classifier.backbone, build.image_size(restored.config))
    if not folded:
        return f"fold_batch_norm=true: nothing of {restored.config.backbone.name} can be folded" + (
            f"; none of its {kept} batch norms follows a convolution directly" if kept else ", it has no batch norm"
        )
    return f"{folded} batch norms folded into convolutions in the graph" + (f", {kept} stay" if kept else "")


# What is said of the network ------------------------------------------------------------------------------------------


def _describe(restored: Restored, content: Mapping[str, Any], included: bool, asks: bool) -> dict[str, Any]:
    """The content of mldec.json."""
    vocabulary = restored.classifier.vocabulary
    run = content if restored.path.name == exported_model.WEIGHTS else _read_run(restored.path, restored.labels)
    # What was measured and chosen was so with the weights that the run reports.
    run = {**run, **({} if restored.weights == content["reported"] else {"test": None, "thresholds": None})}
    return {
        "format": exported_model.FORMAT,
        "mldec": mldec.__version__,
        "name": restored.config.name,
        "labels": list(restored.labels.names),
        "seen": None if restored.labels.seen is None else list(restored.labels.seen),
        "activation": "softmax" if build.uses_softmax(restored.config) else "sigmoid",
        "preprocessing": preprocessing(restored, included),
        "inputs": list(graph.INPUTS if asks else graph.INPUTS[:1]),
        "outputs": list(graph.OUTPUTS),
        "normalization": dataclasses.asdict(restored.normalization),
        "thresholds": run.get("thresholds"),
        "weights": restored.weights,
        "step": restored.step,
        "metrics": restored.metrics,
        "test": run.get("test"),
        "data": run.get("data") or {},
        "environment": run.get("environment") or {},
        "label_embeddings": None
        if vocabulary is None
        else {
            "names": list(vocabulary.known.names),
            "trained": len(vocabulary.trained_names),
            "width": vocabulary.known.width,
            "source": _without_folders(vocabulary.known.source),
        },
        "config": _without_folders({**to_mapping(restored.config), "run_dir": None, "init_from": None}),
    }


def _read_run(checkpoint: Path, labels: LabelSpace) -> dict[str, Any]:
    """What the run folder of a checkpoint says beyond it; nothing where the checkpoint lies alone."""
    folder = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints":
        return {}
    tuned, is_best = folder / thresholds.FILE, checkpoint.name == "best.pt"
    environment = tracking.read_noted(folder / "environment.json")
    tests = [r for r in tracking.read_records(folder / "metrics.jsonl") if r.get("kind") == "test"]
    kept = ("mldec", "commit", "python", "device", "precision", "packages")
    data, packages = tracking.read_noted(folder / "data.json"), environment.get("packages", {})
    for name, whole in (("data.json", exported_model.is_data(data)), ("environment.json", isinstance(packages, dict))):
        if not whole:
            logger.warning("warning: %s is damaged; the export goes without what it noted", folder / name)
    return {
        "data": data if exported_model.is_data(data) else {},
        "environment": {key: environment[key] for key in kept if key in environment}
        if isinstance(packages, dict)
        else {},
        "test": tests[-1] if tests and is_best else None,
        "thresholds": thresholds.read_thresholds(tuned, labels).values.tolist()
        if is_best and tuned.is_file()
        else None,
    }


def _without_folders(value: Any) -> Any:
    """Plain values with absolute paths, which are nobody's business elsewhere, cut down to their last part."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str):
        kind, separator, rest = value.rpartition(":")
        if Path(rest).is_absolute():
            return kind + separator + (Path(rest).name or rest)
        if Path(value).is_absolute():
            return Path(value).name or value
    return value


def _metadata(description: Mapping[str, Any]) -> dict[str, str]:
    """The part of a description that every file carries within itself, as texts; what is no text is JSON."""
    values = {
        "mldec": description["mldec"],
        "name": description["name"],
        "labels": description["labels"],
        "activation": description["activation"],
        "preprocessing": description["preprocessing"],
        "thresholds": description["thresholds"],
        "weights": description["weights"],
    }
    if description["label_embeddings"] is not None:
        trained = description["label_embeddings"]["trained"]
        values["trained_labels"] = description["label_embeddings"]["names"][:trained]
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
        if value is not None
    }


# Files ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` at the end of the block; if the block fails, nothing is left."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"output={target} is there already; remove it or name another folder")
    made = [parent for parent in target.parents if not parent.exists()]
    partial = partial_path(target)
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # not empty: it is in use
                parent.rmdir()


def _write(
    name: Format, file: Path, scorer: graph.Scorer, restored: Restored, trial: _Trial, metadata: Mapping[str, str]
) -> Again:
    """Write one file, read it back, and give what runs it on a trial. Raises RunError if its labels are not there."""
    if name == "safetensors":
        exported_model.write_weights(file.parent, restored.classifier.state_dict(), metadata)
        predictor = load(file.parent, device=str(_device(restored)))
        loaded = dataclasses.replace(restored, classifier=predictor.model, normalization=predictor.normalization)
        return lambda trial: _outputs(loaded, trial.images, trial.vectors)

    def inputs(trial: _Trial) -> list[Tensor]:
        images = trial.images if scorer.normalization is not None else restored.normalization(trial.images)
        return [images] if trial.vectors is None else [images, trial.vectors]

    if name == "onnx":
        graph.write_onnx(scorer, inputs(trial), file, metadata)
        run, found = graph.read_onnx(file)
    else:
        graph.write_program(scorer, inputs(trial), file, metadata)
        run, found = graph.read_program(file, list(metadata))
    if lost := [key for key, value in metadata.items() if found.get(key) != value]:
        raise RunError(f"{file.name}: {', '.join(lost)} read back as something else than was written")
    return lambda trial: run(inputs(trial))


# Comparison -----------------------------------------------------------------------------------------------------------


class _Trial(NamedTuple):
    """Images (B,3,H,W) uint8, vectors (N,width) of labels to ask for, and the network's scores and logits (B,N)."""

    images: Tensor
    vectors: Tensor | None
    expected: list[Tensor]


Again = Callable[[_Trial], list[Tensor]]


def _make_trials(restored: Restored, asks: bool) -> list[_Trial]:
    """Batches of 2, 1 and 5 images, with labels that the network does not know, and all that it knows."""
    vocabulary, random = restored.classifier.vocabulary, torch.Generator().manual_seed(0)
    trials = []
    for size, labels in zip(BATCHES, (3, 1, None), strict=True):
        images = _images(size, build.image_size(restored.config), random).to(_device(restored))
        vectors = None
        if asks and vocabulary is not None:
            known = vocabulary.known.vectors
            new = (
                known if labels is None else known.std() * torch.randn(labels, vocabulary.known.width, generator=random)
            )
            vectors = new.to(images.device)
        trials.append(_Trial(images, vectors, _outputs(restored, images, vectors)))
    return trials


def _outputs(restored: Restored, images: Tensor, vectors: Tensor | None) -> list[Tensor]:
    """Scores and logits of the network as it is."""
    classifier = restored.classifier
    if vectors is not None:
        classifier = copy.deepcopy(classifier)  # which keeps every label that it was ever asked for
        names = [f"{UNKNOWN}{number}" for number in range(len(vectors))]
        classifier.set_labels(names, LabelEmbeddings(tuple(names), vectors.cpu(), "a trial"))
    with torch.inference_mode():
        logits = classifier(restored.normalization(images))
        scores = logits.softmax(-1) if build.uses_softmax(restored.config) else logits.sigmoid()
    return [scores, logits]


def _compare(name: Format, again: Again, trials: Sequence[_Trial]) -> Difference:
    """The largest differences. Raises RunError if they are larger than may be; safetensors must be equal."""
    largest = Difference(0.0, 0.0)
    for trial in trials:
        found = again(trial)
        shapes = [tuple(tensor.shape) for tensor in found]
        if shapes != [tuple(tensor.shape) for tensor in trial.expected]:
            raise RunError(f"format={name}: {len(trial.images)} images give {shapes}; nothing was written")
        pairs = zip(found, trial.expected, strict=True)
        scores, logits = (float((a.cpu() - b.cpu()).abs().max()) for a, b in pairs)
        allowed = TOLERANCE * max(1.0, float(trial.expected[1].abs().max()))
        if name == "safetensors":
            refused = scores != 0 or logits != 0
        else:
            refused = not (scores <= TOLERANCE and logits <= allowed)  # nan, too
        if refused:
            raise RunError(
                f"format={name}: what was written differs from the network by {scores:.2g} in scores and {logits:.2g} "
                f"in logits for {len(trial.images)} images "
                f"({'none' if name == 'safetensors' else f'{TOLERANCE:g} and {allowed:.2g}'} allowed); "
                "nothing was written"
            )
        largest = Difference(max(largest.scores, scores), max(largest.logits, logits))
    return largest


def _images(count: int, size: int, random: torch.Generator) -> Tensor:
    """(count,3,size,size) uint8: patches of colour with smooth borders and some grain, as photographs have them."""
    coarse = torch.rand(count, 3, 8, 8, generator=random)
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    grain = 0.05 * torch.randn(smooth.shape, generator=random)
    return ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8)


def _device(restored: Restored) -> torch.device:
    return next(restored.classifier.parameters()).device
