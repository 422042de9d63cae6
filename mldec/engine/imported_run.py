"""A run directory of published weights: the settings and labels of the network, what is written, what was found."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mldec.config import Config, to_mapping
from mldec.engine import data_splits, environment, run_directory
from mldec.engine.checkpoint import pack, save_checkpoint
from mldec.engine.settings_file import write_settings
from mldec.errors import ConfigError, DataError, MldecError, counted, printable_name
from mldec.files import write_text
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.method_layout import Method
from mldec.models.published import PublishedFile
from mldec.models.text_cache import file_digest
from mldec.registry import HEADS

FREE = ("normalize", "drop_path")  # settings of the backbone that no file decides
NO_DATASET = "no_dataset_was_named_when_this_was_imported.csv"


def network_settings(
    found: PublishedFile, mapping: Mapping[str, Any], given: Collection[str], source: str | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The settings of backbone and head of the file, and a note for each difference from a composed experiment.

    Args:
        mapping: the experiment.
        given: keys of the overrides on the command line.
        source: of label embeddings.

    Raises ConfigError for overrides that contradict the file, or that it decides.
    """
    settings = {"backbone": _backbone(found, mapping, given), "head": _head(found, mapping, given, source)}
    notes = []
    replaced = found.method is not None and mapping["head"].get("name") != found.head["name"]
    for group, known in _found_settings(found).items():
        for key in known:
            own, other = known[key], mapping[group].get(key, known[key])
            if key == "num_groups":  # null: one query per label
                own, other = (found.num_classes if number is None else number for number in (own, other))
            if own == other:
                continue
            is_given = f"{group}.{key}" in given or (key == "name" and group in given)
            if replaced and group == "head" and key != "name" and not is_given:
                continue  # the experiment has it for another head
            if is_given:
                raise ConfigError(f"{group}.{key}={other}: the file holds {own}; leave it out")
            if "experiment" in given:
                notes.append(f"{group}.{key}: {own} as in the file, not {other} as in the experiment")
    return settings, notes


def _backbone(found: PublishedFile, mapping: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Settings of the backbone: the file's network, and what no file decides from overrides or the experiment."""
    decided = sorted(key for key in given if key.startswith("backbone.") and key.partition(".")[2] not in FREE)
    if decided:
        raise ConfigError(f"{decided[0]}: the file decides it; of the backbone only {' and '.join(FREE)} can be set")
    composed, network = mapping["backbone"], _found_settings(found)["backbone"]
    same = "experiment" in given and all(composed.get(key) == value for key, value in network.items())
    same = same and found.method is None  # whose code shows how it normalises
    kept = {key: composed[key] for key in FREE if key in composed and (same or f"backbone.{key}" in given)}
    return {**found.backbone, **kept}


def _head(
    found: PublishedFile, mapping: Mapping[str, Any], given: Collection[str], source: str | None
) -> dict[str, Any]:
    """Settings of the head: the file's, and what no file decides from overrides or the experiment."""
    composed = mapping["head"]
    kept = (
        {key for key in composed if f"head.{key}" in given} - set(_found_settings(found)["head"]) - {"label_embeddings"}
    )
    if found.method is None:
        kept |= {"dropout"} & set(composed)
    else:
        _check_free(found.method, kept)
    settings = found.head | {key: composed[key] for key in kept}
    embeddings = composed.get("label_embeddings")
    if found.embedding_width is None:
        without_effect = sorted(key for key in given if key.startswith("head.label_embeddings"))
        if source is not None or without_effect:
            key = [*without_effect, "label_embeddings"][0]
            raise ConfigError(f"{key}: has no effect, the head in the file has no label embeddings")
        return settings
    if source is not None:
        embeddings = {**(embeddings or {}), "source": source}
    if not embeddings:
        what = "a zero-shot head" if found.method is None else f"the head of {found.method.title}, which is built"
        raise ConfigError(
            f"the file has {what} for label embeddings of width {found.embedding_width}, which it does not hold: add "
            "label_embeddings=SOURCE (a file of embeddings or a text model, as head.label_embeddings.source)"
        )
    return settings | {"label_embeddings": embeddings}


def _check_free(method: Method, given: Collection[str]) -> None:
    """Raise ConfigError for a setting of a method's head that its file decides."""
    settings = {field.name for field in dataclasses.fields(HEADS[method.head].config_class)}
    free = (*method.assumed, *method.training)
    decided = sorted(key for key in given if key in settings and key not in free)  # others do not exist: `build_config`
    if decided:
        allowed = f"of this head only {' and '.join(free)} can be set" if free else "this head has no others"
        raise ConfigError(f"head.{decided[0]}: the file of {method.title} decides it, leave it out; {allowed}")


def choose_image_size(found: PublishedFile, mapping: dict[str, Any], given: Collection[str]) -> list[str]:
    """Set `dataset.image_size` of an experiment to the size that the file is for, if it is for one; and a note of it.

    Raises ConfigError if another size was `given`: `image_size`, or the key of an override.
    """
    side, composed = found.image_size, mapping["dataset"].get("image_size")
    if side is None or side == composed:
        return []
    if named := [key for key in ("image_size", "dataset.image_size") if key in given]:
        if found.positions is not None:  # computed for any size
            return []
        raise ConfigError(f"{named[0]}={composed}: the position embeddings in the file are for {side} px; leave it out")
    mapping["dataset"]["image_size"] = side
    if not {"experiment", "dataset"} & set(given):
        return []
    return [f"dataset.image_size: {side} as in the file, not {composed or 'the default'} as in the experiment"]


def count_cooccurrence(
    found: PublishedFile, config: Config, labels: LabelSpace, has_data: bool
) -> tuple[np.ndarray | None, list[str]]:
    """(N,N) counts of the training images, in the order of `labels`, and a note, if the file lacks a graph of them.

    Raises:
        ConfigError: no dataset is named, or it has other labels.
        DataError: its files are missing or damaged.
    """
    if found.method is None or not found.method.not_in_file:
        return None, []
    need = f"files of {found.method.title} lack the graph of the labels, which is made from its training images"
    if not has_data:
        raise ConfigError(f"{need}; name them: experiment=… dataset.root=…, or dataset=… with their settings")
    train = data_splits.build_split(config, "train", quiet=True)
    column = {name: number for number, name in enumerate(train.labels.names)}
    if lacking := [name for name in labels.names if name not in column]:
        raise ConfigError(
            f"{need}; {config.dataset.name} has no label {printable_name(lacking[0])}: name the dataset that it was "
            "trained on, or its labels as the dataset spells them: labels=@FILE"
        )
    order = [column[name] for name in labels.names]
    images = counted(len(train), "train image")
    return train.cooccurrence()[np.ix_(order, order)], [
        f"the graph of the labels is made from {images} of {config.dataset.name}, as the file has none"
    ]


def _found_settings(found: PublishedFile) -> dict[str, dict[str, Any]]:
    """The settings of both groups that the file itself decides."""
    network = {key: value for key, value in found.backbone.items() if key in ("name", "model")}
    undecided = ("label_embeddings", *(found.method.assumed if found.method is not None else ()))
    return {"backbone": network, "head": {key: value for key, value in found.head.items() if key not in undecided}}


def choose_labels(
    found: PublishedFile, config: Config, given: Sequence[str] | None, has_data: bool
) -> tuple[LabelSpace, list[str]]:
    """The labels of the outputs, as given, as in the file or as in the dataset; and notes about them.

    Raises DataError or ConfigError where there are none, or another number than outputs.
    """
    dataset, reason = _labels_of_dataset(config) if has_data else (None, "")
    notes = [f"{config.dataset.name} is not at hand, its labels were not compared: {reason}"] if reason else []
    if found.num_classes is not None and dataset is not None:
        dataset = dataset.trained()
    names = list(given) if given is not None else found.labels()
    where = "labels=…" if given is not None else "`idx_to_class`"
    if names is None:
        if dataset is None:
            what = "its labels" if found.num_classes is None else f"its {found.num_classes} labels"
            raise ConfigError(
                f"{found.source} does not name {what}; use labels=@FILE (one per line, in the order of the outputs), "
                "or experiment=… dataset.root=… of the dataset that it was trained on"
                + (f"\n({reason})" if reason else "")
            )
        names, where = dataset.names, config.dataset.name
    if found.num_classes is not None and len(names) != found.num_classes:
        raise DataError(f"{where}: {len(names)} names, but {found.source} has {found.num_classes} outputs")
    if dataset is None:
        return LabelSpace(names), notes
    if found.num_classes is None:  # which predicts any labels; the dataset knows which of them are never trained
        return dataset if given is None and set(names) <= set(dataset.names) else LabelSpace(names), notes
    if [_plain(name) for name in names] == [_plain(name) for name in dataset.names]:
        return dataset, notes  # in the dataset's spelling, by which it will be evaluated
    pairs = zip(names, dataset.names, strict=False)
    first = next((f"{own!r} and {other!r}" for own, other in pairs if _plain(own) != _plain(other)), "their number")
    notes.append(
        f"{where} and {config.dataset.name} have other labels, or in another order (first: {first}): this run can "
        "predict, but not be evaluated there; labels=@FILE renames them if only the names are wrong"
    )
    return LabelSpace(names), notes


def write_run(found: PublishedFile, config: Config, labels: LabelSpace, classifier: Classifier) -> Path:
    """Make the run directory, all of it or none. Raises ConfigError if it holds a run already."""
    is_new = config.run_dir is None or not Path(config.run_dir).expanduser().exists()
    try:
        folder = run_directory.make_run_directory(config.output, config.name, config.run_dir)
    except FileExistsError as error:
        raise ConfigError(f"run_dir={error}: holds a run already; name another directory") from None
    try:
        if not has_data(config):  # evaluation can then name a table of one's own
            names = str((folder / "labels.txt").resolve())
            config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, labels=names))
        save_checkpoint(folder / "checkpoints" / "best.pt", pack(config, labels, classifier))
        source = Path(found.source)
        origin = {"file": str(source.resolve()), "sha256": file_digest(source)}
        origin |= {"entry": found.entry, "layout": found.kind}
        machine = environment.environment(torch.device("cpu")) | {"processes": 1, "imported": origin}
        run_directory.write_json(folder / "environment.json", machine)
        write_text(folder / "labels.txt", "".join(f"{name}\n" for name in labels.names), sync=True)
        write_text(folder / "metrics.jsonl", "", sync=True)
        write_text(folder / "config.yaml", write_settings(to_mapping(config)), sync=True)
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def summary(found: PublishedFile, config: Config, labels: LabelSpace, classifier: Classifier) -> list[str]:
    """Lines that describe what was found."""
    kinds = {"authors": "the authors' layout", "timm": "timm's layout", "pooling": "average pooling"}
    entry = f", under `{found.entry}`" if found.entry else ""
    head = found.head
    if found.method is not None:
        sizes = {"count": found.num_classes, "width": found.embedding_width}
        answer = found.method.answer.format(**vars(config.head), **sizes)
    elif head["name"] == "gap":
        answer = "one linear layer"
    elif found.num_classes is None:
        answer = f"a query for each label, from its embedding of width {found.embedding_width}"
    else:
        answer = f"{head['num_groups'] or found.num_classes} queries"
    width = f", D = {head['dim']}" if "dim" in head and found.method is None else ""
    layout = kinds[found.kind] if found.method is None else f"the layout of {found.method.title}"
    shown = ", ".join(labels.names[:4]) + (", …" if len(labels) > 4 else "")
    backbone: Any = classifier.backbone
    mean, std = (", ".join(f"{value:g}" for value in values) for values in backbone.normalization)
    scale = "within 0..1" if (mean, std) == ("0, 0, 0", "1, 1, 1") else f"less {mean}, divided by {std}"
    body = getattr(config.backbone, "model", config.backbone.name)
    lines = [
        f"{found.source}: {layout}{entry}, all of its {len(found.tensors)} tensors",
        f"backbone     {body}",
        f"head         {head['name']}: {answer}{width}",
        f"labels       {len(labels)}: {shown}",
        f"images       {config.dataset.image_size} px, pixels {scale}",
    ]
    if found.method is not None and found.method.assumed:
        names = found.method.assumed
        given = {name: getattr(config.head, name) for name in names}
        values = ", ".join(
            f"head.{name}={str(v).lower() if isinstance(v, bool) else f'{v:g}'}" for name, v in given.items()
        )
        lines.append(f"assumed      {values}, which files of {found.method.title} do not show")
    if found.others:
        lines.append(f"not taken    {', '.join(found.others)}; key={found.others[0]} would")
    return lines


def has_data(config: Config) -> bool:
    """Whether the run names a dataset."""
    return getattr(config.dataset, "train", None) != NO_DATASET


def _labels_of_dataset(config: Config) -> tuple[LabelSpace | None, str]:
    """The labels of the dataset; None and the reason where it is not at hand."""
    try:
        return data_splits.build_split(config, "test", quiet=True).labels, ""
    except MldecError as error:
        return None, str(error).splitlines()[0].removesuffix(" Expected there:")


def _plain(name: str) -> str:
    """A name without what people write differently: case, and the signs between words."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()
