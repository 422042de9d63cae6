"""Exporting a trained network. Every file is read back and compared with the network, or nothing is written."""

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
from mldec.config import Weights, to_mapping
from mldec.data.image import Normalization, scaled_side
from mldec.engine import build
from mldec.engine.checkpoint import Restored, restore
from mldec.engine.checkpoint_fields import FORMAT
from mldec.engine.config_properties import uses_softmax
from mldec.engine.data_splits import describe_test_split, read_recorded
from mldec.engine.device import choose_device
from mldec.engine.display import Display
from mldec.engine.export import exported_model, graph
from mldec.engine.export.model_card import model_card
from mldec.engine.inference import logits_to_scores
from mldec.engine.metric_writer import read_records
from mldec.engine.predictor import load
from mldec.engine.run_directory import read_metadata, run_directory_of
from mldec.errors import ConfigError, RunError
from mldec.files import partial_path, write_text
from mldec.models.classifier import Classifier
from mldec.models.folding import fold_batch_norm
from mldec.models.label_embeddings import LabelEmbeddings

logger = logging.getLogger(__name__)

Format = Literal["onnx", "torch_export", "safetensors"]

FILES: dict[Format, str] = {"onnx": "model.onnx", "torch_export": "model.pt2", "safetensors": exported_model.WEIGHTS}

TOLERANCE = 1e-4  # of scores; of logits relative to the largest of them, if that is above 1
BATCHES = (2, 1, 5)  # batch sizes of the comparison; the first is used for tracing
UNKNOWN = "unknown label "


class Difference(NamedTuple):
    """The largest differences from the network over all compared images."""

    scores: float
    logits: float


@dataclass(frozen=True)
class Exported:
    """The result of an export: the folder, size in bytes and difference of each file, and notes for the user."""

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
    """Write the network of `run` to the new folder `output`: one file per format, mldec.json and a model card.

    Each file is read back and compared with the network on batches of 1, 2 and 5 images, for a zero-shot network also
    with labels that it does not know. If one differs, `output` is not created.

    Args:
        run: a run directory, a checkpoint, or an exported folder.
        fold: fold batch norm into convolutions (onnx, torch_export).
        included: include the normalization in the graph, whose input is then uint8 (onnx, torch_export).
        device: the device on which a torch_export program will run; its constants are stored there.

    Raises:
        ConfigError: options without effect on these formats, missing packages, or `output` is not empty.
        CheckpointError: the run cannot be read.
        RunError: a format cannot express the network, or a file differs from it.
    """
    _check(formats, fold, included, device)
    display = display or Display(quiet=True)
    restored = restore(run, weights)
    classifier = restored.classifier.to(choose_device(device))
    by_vectors = graph.takes_vectors(classifier)
    exported, notes = copy.deepcopy(classifier), []
    if fold:
        notes.append(_fold(exported, restored))
    if classifier.vocabulary is not None and not by_vectors and set(formats) != {"safetensors"}:
        notes.append(
            "labels share queries or output weights in this network: onnx and torch_export files only score trained "
            "labels"
        )
    scorer = graph.Scorer(exported, uses_softmax(restored.config), restored.normalization if included else None)
    description = _describe(restored, included, by_vectors)
    sizes: dict[str, int] = {}
    differences: dict[str, Difference] = {}
    with _new_folder(output) as folder, display.bar("exporting", len(formats)) as bar:
        trials = _make_trials(restored, by_vectors)
        vectors = None if classifier.label_embeddings is None else classifier.label_embeddings.vectors
        exported_model.write_exported(folder, description, vectors)
        for name in formats:
            file = folder / FILES[name]
            bar.advance(0, text=file.name)
            display.line(f"writing {file.name}")
            run_file = _write(name, file, scorer.eval(), restored, trials[0], _metadata(description))
            differences[file.name] = _compare(name, run_file, trials)
            sizes[file.name] = sum(part.stat().st_size for part in folder.glob(f"{file.name}*"))
            bar.advance()
        card = model_card(description, sizes, {name: found.logits for name, found in differences.items()}, notes)
        write_text(folder / "README.md", card, sync=True)
    return Exported(output, sizes, differences, tuple(notes))


def preprocessing(restored: Restored, included: bool) -> dict[str, Any]:
    """The preprocessing of an image, as steps before the graph and steps that the graph includes."""
    resize = build.build_resize(restored.config)
    size, crop, interpolation = resize.image_size, resize.crop, resize.filter
    how = f"{interpolation} with antialiasing (Pillow's resize)"
    if crop is None:
        fit = [f"resize both sides to {size}, {how}, ignoring the aspect ratio"]
    else:
        fit = [f"resize the shorter side to {scaled_side(size, crop)}, {how}, keeping the aspect ratio"]
        fit.append(f"centre crop of {size} x {size}")
    scale = ["divide by 255"]
    if restored.normalization != Normalization.unit():
        scale.append("subtract mean and divide by std, by channel")
    outside = ["decode as RGB, upright", *fit, "lay out as (B, 3, height, width)"]
    return {
        "image_size": size,
        "crop": crop,
        "resize": interpolation,
        "mean": list(restored.normalization.mean),
        "std": list(restored.normalization.std),
        "input": "uint8, 0 to 255" if included else "float32, normalised",
        "normalization_included": included,
        "before_the_graph": outside if included else [*outside, *scale],
        "in_the_graph": scale if included else [],
    }


def _check(formats: Sequence[str], fold: bool, included: bool, device: str) -> None:
    """Raise ConfigError for options without effect and missing packages."""
    if "onnx" in formats:
        graph.check_onnx()
    alone = set(formats) == {"safetensors"}
    if alone and fold:
        raise ConfigError(
            "fold_batch_norm=true: no effect on format=safetensors, whose weights are as trained; leave it out"
        )
    if alone and included:
        raise ConfigError("preprocessing=included: no effect on format=safetensors, mldec.load does it; leave it out")
    if device != "cpu" and "torch_export" not in formats:
        raise ConfigError(f"device={device}: only a torch_export program is bound to a device; leave it out")


def _fold(classifier: Classifier, restored: Restored) -> str:
    """Fold batch norm in place. Returns a note for the user."""
    folded, kept = fold_batch_norm(classifier.backbone, restored.config.dataset.image_size)
    if not folded:
        return f"fold_batch_norm=true: nothing in {restored.config.backbone.name} can be folded" + (
            f"; none of its {kept} batch norms follows a convolution directly" if kept else ", it has no batch norm"
        )
    return f"{folded} batch norms folded into convolutions in the graph" + (f", {kept} remain" if kept else "")


# Description ----------------------------------------------------------------------------------------------------------


def _describe(restored: Restored, included: bool, by_vectors: bool) -> dict[str, Any]:
    """The content of mldec.json."""
    vocabulary, embeddings = restored.classifier.vocabulary, restored.classifier.label_embeddings
    provenance = restored.provenance or _read_provenance(restored.path)
    is_reported = restored.weights == restored.reported  # the test record is that of the reported weights
    return {
        "format": FORMAT,
        "mldec": mldec.__version__,
        "name": restored.config.name,
        "labels": list(restored.labels.names),
        "seen": None if restored.labels.seen is None else list(restored.labels.seen),
        "activation": "softmax" if uses_softmax(restored.config) else "sigmoid",
        "preprocessing": preprocessing(restored, included),
        "inputs": list(graph.INPUTS if by_vectors else graph.INPUTS[:1]),
        "outputs": list(graph.OUTPUTS),
        "normalization": dataclasses.asdict(restored.normalization),
        "thresholds": restored.thresholds and restored.thresholds.of(restored.labels).values.tolist(),
        "weights": restored.weights,
        "step": restored.step,
        "metrics": restored.metrics,
        "test": provenance.get("test") if is_reported else None,
        "test_split": "test" if "test" in restored.config.dataset.splits else "val",
        "epoch_chosen_on_test": bool(describe_test_split(restored.config)),
        "data": provenance.get("data") or {},
        "environment": provenance.get("environment") or {},
        "label_embeddings": None
        if embeddings is None
        else {
            "names": list(embeddings.names),
            "trained": len(restored.labels.trained()),
            "new_labels": vocabulary is not None,  # whether labels can be predicted that were not trained
            "width": embeddings.width,
            "source": _without_folders(embeddings.source),
        },
        "config": _without_folders({**to_mapping(restored.config), "run_dir": None, "init_from": None}),
    }


def _read_provenance(checkpoint: Path) -> dict[str, Any]:
    """Test record, data and environment from the run directory of a checkpoint; {} for a file outside of one."""
    if checkpoint.parent.name != "checkpoints":
        return {}
    run_dir = run_directory_of(checkpoint)
    environment = read_metadata(run_dir / "environment.json")
    if not isinstance(environment.get("packages", {}), dict):
        logger.warning("warning: %s is damaged; it is left out of the export", run_dir / "environment.json")
        environment = {}
    kept = ("mldec", "commit", "python", "device", "precision", "packages")
    tests = [record for record in read_records(run_dir / "metrics.jsonl") if record["kind"] == "test"]
    return {
        "data": read_recorded(run_dir),
        "environment": {key: environment[key] for key in kept if key in environment},
        "test": tests[-1] if tests and checkpoint.name == "best.pt" else None,
    }


def _without_folders(value: Any) -> Any:
    """Plain values with absolute paths, which should not be published, reduced to their last part."""
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
    """The part of a description that every file includes, as strings; other values are JSON."""
    names = ("mldec", "name", "labels", "activation", "preprocessing", "thresholds", "weights")
    values = {name: description[name] for name in names}
    if description["label_embeddings"] is not None and description["label_embeddings"].get("new_labels", True):
        trained = description["label_embeddings"]["trained"]
        values["trained_labels"] = description["label_embeddings"]["names"][:trained]
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
        if value is not None
    }


# Files ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A partial folder that is renamed to `target` at the end of the block, and removed if the block fails."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"output={target} exists already; remove it or use another folder")
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
            with contextlib.suppress(OSError):  # not empty: in use
                parent.rmdir()


def _write(
    name: Format, file: Path, scorer: graph.Scorer, restored: Restored, trial: _Trial, metadata: Mapping[str, str]
) -> RunFile:
    """Write one file and read it back. Returns a function that runs it on a trial.

    Raises RunError if its metadata reads back differently.
    """
    if name == "safetensors":
        exported_model.write_weights(file.parent, restored.classifier.state_dict(), metadata)
        predictor = load(file.parent, device=str(trial.images.device))
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
        raise RunError(f"{file.name}: {', '.join(lost)} reads back differently from what was written")
    return lambda trial: run(inputs(trial))


# Comparison -----------------------------------------------------------------------------------------------------------


class _Trial(NamedTuple):
    """Images (B,3,H,W) uint8, embeddings (N,width) of query labels, and the network's scores and logits (B,N)."""

    images: Tensor
    vectors: Tensor | None
    expected: list[Tensor]


RunFile = Callable[[_Trial], list[Tensor]]


def _make_trials(restored: Restored, by_vectors: bool) -> list[_Trial]:
    """Batches of 2, 1 and 5 images: two with labels that the network does not know, one with all known labels."""
    vocabulary, rng = restored.classifier.vocabulary, torch.Generator().manual_seed(0)
    device = next(restored.classifier.parameters()).device
    trials = []
    for size, labels in zip(BATCHES, (3, 1, None), strict=True):
        images = _images(size, restored.config.dataset.image_size, rng).to(device)
        vectors = None
        if by_vectors and vocabulary is not None:
            known = vocabulary.known.vectors
            vectors = known if labels is None else known.std() * torch.randn(labels, known.shape[1], generator=rng)
            vectors = vectors.to(device)
        trials.append(_Trial(images, vectors, _outputs(restored, images, vectors)))
    return trials


def _outputs(restored: Restored, images: Tensor, vectors: Tensor | None) -> list[Tensor]:
    """Scores and logits of the network itself."""
    classifier = restored.classifier
    if vectors is not None:
        classifier = copy.deepcopy(classifier)  # set_labels adds these labels to the vocabulary for good
        names = [f"{UNKNOWN}{number}" for number in range(len(vectors))]
        classifier.set_labels(names, LabelEmbeddings(tuple(names), vectors.cpu(), "comparison"))
    with torch.inference_mode():
        logits = classifier(restored.normalization(images))
        scores = logits_to_scores(logits, uses_softmax(restored.config))
    return [scores, logits]


def _compare(name: Format, run_file: RunFile, trials: Sequence[_Trial]) -> Difference:
    """The largest differences. Raises RunError if they exceed the tolerance; safetensors must be equal."""
    largest = Difference(0.0, 0.0)
    for trial in trials:
        found = run_file(trial)
        shapes = [tuple(tensor.shape) for tensor in found]
        if shapes != [tuple(tensor.shape) for tensor in trial.expected]:
            raise RunError(f"format={name}: {len(trial.images)} images give {shapes}; nothing was written")
        pairs = zip(found, trial.expected, strict=True)
        scores, logits = (float((a.cpu() - b.cpu()).abs().max()) for a, b in pairs)
        allowed = 0.0 if name == "safetensors" else TOLERANCE
        scale = max(1.0, float(trial.expected[1].abs().max()))
        if not (scores <= allowed and logits <= allowed * scale):  # also for nan
            raise RunError(
                f"format={name}: the file differs from the network by {scores:.2g} in scores and {logits:.2g} in "
                f"logits for {len(trial.images)} images ({allowed:g} and {allowed * scale:.2g} allowed); nothing was "
                "written"
            )
        largest = Difference(max(largest.scores, scores), max(largest.logits, logits))
    return largest


def _images(count: int, size: int, rng: torch.Generator) -> Tensor:
    """(count,3,size,size) uint8: smooth patches of colour with some noise, similar to photographs."""
    coarse = torch.rand(count, 3, 8, 8, generator=rng)
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    noise = 0.05 * torch.randn(smooth.shape, generator=rng)
    return ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)
