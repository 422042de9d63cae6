"""A run directory of somebody else's weights: whose labels they have, what is written, what was found."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mldec.config import Config, to_mapping
from mldec.engine import data_splits, environment, run_directory
from mldec.engine.checkpoint import pack, save_checkpoint
from mldec.engine.settings_file import write_settings
from mldec.errors import ConfigError, DataError, MldecError
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier

NO_DATASET = "no_dataset_was_named_when_this_was_imported.csv"


def choose_labels(
    found: Any, config: Config, given: Sequence[str] | None, has_data: bool
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
        if set(names) <= set(dataset.names) and given is None:
            return dataset, notes
        return LabelSpace(names), notes
    if [_plain(name) for name in names] == [_plain(name) for name in dataset.names]:
        return dataset, notes  # in the dataset's spelling, by which it will be evaluated
    pairs = zip(names, dataset.names, strict=False)
    first = next((f"{own!r} and {other!r}" for own, other in pairs if _plain(own) != _plain(other)), "their number")
    notes.append(
        f"{where} and {config.dataset.name} have other labels, or in another order (first: {first}): this run can "
        "predict, but not be evaluated there; labels=@FILE renames them if only the names are wrong"
    )
    return LabelSpace(names), notes


def write_run(found: Any, config: Config, labels: LabelSpace, classifier: Classifier) -> Path:
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
        machine = environment.environment(torch.device("cpu")) | {"processes": 1, "imported": _origin(found)}
        run_directory.write_json(folder / "environment.json", machine)
        run_directory.write_text(folder / "labels.txt", "".join(f"{name}\n" for name in labels.names))
        run_directory.write_text(folder / "metrics.jsonl", "")
        run_directory.write_text(folder / "config.yaml", write_settings(to_mapping(config)))
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _origin(found: Any) -> dict[str, str | None]:
    with open(found.source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": str(Path(found.source).resolve()),
        "sha256": digest,
        "entry": found.entry,
        "layout": found.layout.kind,
    }


def summary(found: Any, config: Config, labels: LabelSpace, classifier: Classifier) -> list[str]:
    """Lines that describe what was found."""
    kinds = {"authors": "the authors' layout", "timm": "timm's layout", "pooling": "average pooling"}
    entry = f", under `{found.entry}`" if found.entry else ""
    head = found.head
    if head["name"] == "gap":
        answer = "one linear layer"
    elif found.num_classes is None:
        answer = f"a query for each label, from its embedding of width {found.embedding_width}"
    else:
        answer = f"{head['num_groups'] or found.num_classes} queries"
    width = f", D = {head['dim']}" if "dim" in head else ""
    shown = ", ".join(labels.names[:4]) + (", …" if len(labels) > 4 else "")
    backbone: Any = classifier.backbone
    mean, std = (", ".join(f"{value:g}" for value in values) for values in backbone.normalization)
    scale = "within 0..1" if (mean, std) == ("0, 0, 0", "1, 1, 1") else f"less {mean}, divided by {std}"
    body = getattr(config.backbone, "model", config.backbone.name)
    lines = [
        f"{found.source}: {kinds[found.layout.kind]}{entry}, all of its {len(found.tensors)} tensors",
        f"backbone     {body}",
        f"head         {head['name']}: {answer}{width}",
        f"labels       {len(labels)}: {shown}",
        f"images       {config.dataset.image_size} px, pixels {scale}",
    ]
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
