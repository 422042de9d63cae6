"""`mldec import`: a run folder from published weights."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldec.commands import compose
from mldec.commands.paths import with_absolute_paths
from mldec.config import Config, build_config, to_mapping
from mldec.errors import ConfigError, DataError, MldecError
from mldec.labels import LabelSpace

HELP = """usage: mldec import checkpoint=FILE experiment=coco_tresnet_l dataset.root=DIR [key=value …]
       mldec import checkpoint=FILE [labels=FILE|a,b] [image_size=448] [key=value …]

Makes a run folder of somebody else's weights, for mldec evaluate, predict and init_from=. Backbone, head and number of
labels are read off the file; a tensor without a place, or a place without a tensor, is an error that names it.

  checkpoint=FILE        .pth, .pt or .safetensors: the authors' files, timm's ML-Decoder, average pooling on a TResNet
                         or ResNet, zero-shot heads; a state dict, bare or under `model` or `state_dict`
  key=state_dict_ema     take the state dict under this entry instead
  backbone=NAME          which network it is, where the file does not tell (any timm model); else it must agree
  experiment=… dataset=… dataset.root=…
                         what it is evaluated on and how; backbone and head are replaced by those of the file
                         without one, the run can predict, and be evaluated on any dataset that is named then
  labels=FILE|a,b        names of the labels, in the order of the outputs: one a line, or JSON
                         default: `idx_to_class` of the file, else those of the dataset
  label_embeddings=SOURCE           of a zero-shot head: where vectors of labels come from; files of weights do not hold them
  image_size=448         side of the images in pixels, which no file tells; default: the experiment's, or 448
  backbone.normalize=…   unit: pixels within 0..1 (TResNets, and what else the authors trained); backbone: the
                         statistics of ImageNet (ResNets of timm and torchvision); default: by the backbone
  run_dir=DIR output=DIR name=NAME
                         where the run folder lies: exactly there, or output/<name>/<date>_<time>"""

OWN = ("checkpoint", "key", "backbone", "labels", "words", "image_size")
WORDS = "head.label_embeddings."
NO_DATASET = "no_dataset_was_named_when_this_was_imported.csv"
FREE = ("normalize", "drop_path")  # what of the backbone no file tells


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = compose.parse(argv, own=OWN)
    if arguments.help:
        print(HELP)
        return 0
    own = arguments.own
    if "checkpoint" not in own:
        raise ConfigError("checkpoint=FILE is missing; mldec import --help shows what is needed")
    compose.load_components(arguments.plugins)

    from mldec.engine import build, config_checks
    from mldec.engine.display import Display
    from mldec.models.bounded import build_within
    from mldec.models.published import read_published

    found = read_published(Path(own["checkpoint"]).expanduser(), backbone=own.get("backbone"), key=own.get("key"))
    mapping, notes = compose_run(found, arguments)
    config = build_config(mapping)
    if _names_data(arguments.overrides):
        config = with_absolute_paths(config)
    config_checks.check_config(config)
    labels, more = choose_labels(found, config, own.get("labels"), _names_data(arguments.overrides))
    classifier = build_within(lambda: build.build_bare_classifier(config, labels), found.tensors, found.source)
    found.load_into(classifier)

    display = Display()
    for note in [*notes, *more]:
        display.say(f"note: {note}")
    folder = write_run(found, config, labels, classifier.eval())
    for line in _summary(found, config, labels, classifier):
        display.say(line)
    display.say(f"\nrun folder   {folder}")
    data = "" if _has_data(config) else " dataset=… dataset.root=…"
    display.say(f"evaluate     mldec evaluate run={folder}{data}")
    display.say(f"predict      mldec predict run={folder} input=IMAGES")
    return 0


# What the run is ------------------------------------------------------------------------------------------------------


def compose_run(found: Any, arguments: compose.Arguments) -> tuple[dict[str, Any], list[str]]:
    """The experiment that was typed, with backbone and head of the file; and where these differ, a sentence each.

    Raises ConfigError for typed settings that contradict the file, or that it decides.
    """
    overrides, own = list(arguments.overrides), arguments.own
    if not _names_data(overrides):
        overrides += ["dataset=table", f"dataset.train={NO_DATASET}"]
    if "image_size" in own:
        overrides.append(f"dataset.image_size={own['image_size']}")
    mapping = compose.compose(overrides, arguments.config_dir)
    typed = {word.partition("=")[0] for word in arguments.overrides}
    settings = {
        "backbone": _backbone(found, mapping, typed),
        "head": _head(found, mapping, typed, own.get("label_embeddings")),
    }
    notes = []
    for group, known in found_settings(found).items():
        for key in known:
            shown, other = known[key], mapping[group].get(key, known[key])
            if key == "num_groups":  # null is one query a label
                shown, other = (found.num_classes if number is None else number for number in (shown, other))
            if shown == other:
                continue
            if f"{group}.{key}" in typed or (key == "name" and group in typed):
                raise ConfigError(f"{group}.{key}={other}: the file holds {shown}; leave it out")
            if "experiment" in typed:
                notes.append(f"{group}.{key}: {shown} as in the file, not {other} as in the experiment")
    mapping |= settings
    if not _names_data(arguments.overrides) and "name" not in typed:
        mapping["name"] = re.sub(r"[^\w.-]+", "_", Path(own["checkpoint"]).name.partition(".")[0]) or "imported"
    return mapping, notes


def _backbone(found: Any, mapping: dict[str, Any], typed: set[str]) -> dict[str, Any]:
    """Settings of the backbone: the file's network, and what no file tells as typed, as in the experiment, or usual."""
    decided = sorted(key for key in typed if key.startswith("backbone.") and key.partition(".")[2] not in FREE)
    if decided:
        raise ConfigError(f"{decided[0]}: the file decides it; of the backbone only {' and '.join(FREE)} can be set")
    composed, network = mapping["backbone"], found_settings(found)["backbone"]
    same = "experiment" in typed and all(composed.get(key) == value for key, value in network.items())
    kept = {key: composed[key] for key in FREE if key in composed and (same or f"backbone.{key}" in typed)}
    return {**found.backbone, **kept}


def _head(found: Any, mapping: dict[str, Any], typed: set[str], source: str | None) -> dict[str, Any]:
    """Settings of the head: the file's, and what no file tells as typed or as in the experiment."""
    composed = mapping["head"]
    kept = {key for key in composed if f"head.{key}" in typed} - set(found.head) | ({"dropout"} & set(composed))
    settings = found.head | {key: composed[key] for key in kept}
    words, typed_words = (
        composed.get("label_embeddings"),
        sorted(key for key in typed if key.startswith("head.label_embeddings")),
    )
    if found.num_classes is not None:
        if source is not None or typed_words:
            raise ConfigError(
                f"{[*typed_words, 'words'][0]}: without effect, the head in the file does not know labels as words"
            )
        return settings
    if source is not None:
        words = {**(words or {}), "source": source}
    if not words:
        raise ConfigError(
            f"the file has a zero-shot head for label embeddings of width {found.embedding_width}, which it does not hold: say "
            "where they come from, label_embeddings=SOURCE (a file of label embeddings or a text model, as in head.label_embeddings.source)"
        )
    return settings | {"label_embeddings": words}


def found_settings(found: Any) -> dict[str, dict[str, Any]]:
    """Of both groups what the file itself says."""
    network = {key: value for key, value in found.backbone.items() if key in ("name", "model")}
    return {"backbone": network, "head": {key: value for key, value in found.head.items() if key != "words"}}


def choose_labels(found: Any, config: Config, typed: str | None, has_data: bool) -> tuple[LabelSpace, list[str]]:
    """The labels of the outputs, as typed, as in the file or as in the dataset; and what is to be said of them.

    Raises DataError or ConfigError where there are none, or not as many as outputs.
    """
    dataset, reason = _labels_of_dataset(config) if has_data else (None, "")
    notes = [f"{config.dataset.name} is not at hand, its labels were not compared: {reason}"] if reason else []
    if found.num_classes is not None and dataset is not None:
        dataset = dataset.trained()
    names = read_labels(typed) if typed is not None else found.labels()
    where = f"labels={typed}" if typed is not None else "`idx_to_class`"
    if names is None:
        if dataset is None:
            what = "its labels" if found.num_classes is None else f"its {found.num_classes} labels"
            raise ConfigError(
                f"{found.source} does not name {what}; type labels=FILE (one a line, in the order of the outputs), or "
                "experiment=… dataset.root=… of the dataset that it was trained on"
                + (f"\n({reason})" if reason else "")
            )
        names, where = dataset.names, config.dataset.name
    if found.num_classes is not None and len(names) != found.num_classes:
        raise DataError(f"{where}: {len(names)} names, but {found.source} has {found.num_classes} outputs")
    if dataset is None:
        return LabelSpace(names), notes
    if found.num_classes is None:  # which answers for any labels; the dataset says which of them are never trained
        if set(names) <= set(dataset.names) and typed is None:
            return dataset, notes
        return LabelSpace(names), notes
    if [_plain(name) for name in names] == [_plain(name) for name in dataset.names]:
        return dataset, notes  # in the dataset's spelling, by which it will be evaluated
    pairs = zip(names, dataset.names, strict=False)
    first = next((f"{own!r} and {other!r}" for own, other in pairs if _plain(own) != _plain(other)), "their number")
    notes.append(
        f"{where} and {config.dataset.name} have other labels, or in another order (first: {first}): this run can "
        "predict, but not be evaluated there; labels=FILE names them anew if only the names are wrong"
    )
    return LabelSpace(names), notes


def read_labels(text: str) -> list[str]:
    """The names in `a,b c`, a file's lines, or a JSON file. Raises DataError for an empty or repeated one."""
    from mldec.models.embedding_files import read_name_list

    path = Path(text.removeprefix("@")).expanduser()
    is_file = text.startswith("@") or path.is_file() or path.suffix in (".txt", ".json", ".csv")
    if is_file and not path.is_file():
        raise DataError(f"labels={text}: no such file")
    names = read_name_list(path) if is_file else [name.strip() for name in text.strip("[]").split(",")]
    try:
        return list(LabelSpace(names).names)
    except DataError as error:
        raise DataError(f"labels={text}: {error}") from None


def _labels_of_dataset(config: Config) -> tuple[LabelSpace | None, str]:
    """The labels of the dataset; None and the reason where it is not at hand."""
    from mldec.engine import data_splits

    try:
        return data_splits.build_split(config, "test", quiet=True).labels, ""
    except MldecError as error:
        return None, str(error).splitlines()[0].removesuffix(" Expected there:")


def _plain(name: str) -> str:
    """A name without what people write differently: case, and the signs between words."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _names_data(overrides: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in ("experiment", "dataset") for word in overrides)


def _has_data(config: Config) -> bool:
    return getattr(config.dataset, "train", None) != NO_DATASET


# What is written ------------------------------------------------------------------------------------------------------


def write_run(found: Any, config: Config, labels: LabelSpace, classifier: Any) -> Path:
    """Make the run folder, all of it or none. Raises ConfigError if there is a run already."""
    import dataclasses

    import torch

    from mldec.engine import environment, run_directory
    from mldec.engine.checkpoint import pack, save_checkpoint

    is_new = config.run_dir is None or not Path(config.run_dir).expanduser().exists()
    try:
        folder = run_directory.make_run_directory(config.output, config.name, config.run_dir)
    except FileExistsError as error:
        raise ConfigError(f"run_dir={error}: holds a run already; name another folder") from None
    try:
        if not _has_data(config):  # a table of one's own can then be named in evaluation
            names = str((folder / "labels.txt").resolve())
            config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, labels=names))
        save_checkpoint(folder / "checkpoints" / "best.pt", pack(config, labels, classifier))
        environment = environment.environment(torch.device("cpu")) | {"processes": 1, "imported": _origin(found)}
        run_directory.write_json(folder / "environment.json", environment)
        run_directory.write_text(folder / "labels.txt", "".join(f"{name}\n" for name in labels.names))
        run_directory.write_text(folder / "metrics.jsonl", "")
        run_directory.write_text(folder / "config.yaml", compose.to_yaml(to_mapping(config)))
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _origin(found: Any) -> dict[str, Any]:
    with open(found.source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": str(Path(found.source).resolve()),
        "sha256": digest,
        "entry": found.entry,
        "layout": found.layout.kind,
    }


def _summary(found: Any, config: Config, labels: LabelSpace, classifier: Any) -> list[str]:
    """What was found, for people."""
    kinds = {"authors": "the authors' layout", "timm": "timm's layout", "pooling": "average pooling"}
    entry = f", under `{found.entry}`" if found.entry else ""
    head = found.head
    if head["name"] == "gap":
        answer = "one linear layer"
    elif found.num_classes is None:
        answer = f"a query for each label's label embedding of width {found.embedding_width}"
    else:
        answer = f"{head['num_groups'] or found.num_classes} queries"
    width = f", D = {head['dim']}" if "dim" in head else ""
    shown = ", ".join(labels.names[:4]) + (", …" if len(labels) > 4 else "")
    mean, std = (", ".join(f"{value:g}" for value in values) for values in classifier.backbone.normalization)
    scale = "within 0..1" if (mean, std) == ("0, 0, 0", "1, 1, 1") else f"less {mean}, divided by {std}"
    body = getattr(config.backbone, "model", config.backbone.name)
    lines = [
        f"{found.source}: {kinds[found.layout.kind]}{entry}, all of its {len(found.tensors)} tensors",
        f"backbone     {body}",
        f"head         {head['name']}: {answer}{width}",
        f"labels       {len(labels)}: {shown}",
        f"images     {config.dataset.image_size} px, pixels {scale}",
    ]
    if found.others:
        lines.append(f"not taken    {', '.join(found.others)}; key={found.others[0]} would")
    return lines
