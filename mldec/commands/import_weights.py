"""`mldec import`: a run directory from published weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, LabelNames, parse
from mldec.config import Count, build_config
from mldec.errors import option

if TYPE_CHECKING:  # torch is imported where a file is read
    from mldec.models.published import PublishedFile


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """A run directory of published weights, for mldec evaluate, predict and init_from=.

    Backbone, head and number of labels are read from the file; a tensor without a place, or a place without a tensor,
    is an error that names it.

    experiment=… dataset=… dataset.root=…  what it is evaluated on and how; without, it can be evaluated on any dataset
                                           that is named then
    backbone.normalize=unit|backbone       pixels within 0..1 (TResNets, what else the authors trained), or the
                                           statistics of ImageNet (ResNets of timm, torchvision)
    head.label_embeddings.…=…              other settings of label embeddings, as in training
    head.residual=0.4                      what files of other methods do not show: residual of csra, num_heads of
                                           c_tran and query2label, steps of ssgrl; printed as assumed if it is not set
    run_dir=DIR output=DIR name=NAME       the run directory: exactly there, or output/<name>/<date>_<time>

    Attributes:
        checkpoint: a .pth, .pt or .safetensors file: the authors' files, timm's ML-Decoder, average pooling on a
            TResNet or ResNet, zero-shot heads, CSRA, ML-GCN, SSGRL, ADD-GCN, C-Tran, Query2Label; a state dict, bare
            or under `model` or `state_dict`
        backbone: the network (any timm model), if the file does not show which it is; otherwise it must agree
        label_embeddings: of a zero-shot head, ML-GCN or SSGRL: the source of label embeddings, which files of weights
            do not hold
        labels: in the order of the outputs; default: `idx_to_class` of the file, or the labels of the dataset
    """

    SETTINGS = EXPERIMENT

    checkpoint: Path
    key: str | None = None  # use the state dict under this entry of the file instead, such as state_dict_ema
    backbone: str | None = None
    labels: LabelNames | None = None
    label_embeddings: str | None = None
    image_size: Count | None = None  # in pixels; default: the file's, if positions show it, the experiment's, or 448


OPTIONS = ImportOptions


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, arguments = parse(argv, ImportOptions, "import")
    compose.load_components(arguments.plugins)

    from mldec.engine import build, config_checks
    from mldec.engine.display import Display
    from mldec.engine.imported_run import choose_labels, count_cooccurrence, has_data, summary, write_run
    from mldec.engine.stored_config import with_absolute_paths
    from mldec.models.bounded import build_within
    from mldec.models.published import read_published

    found = read_published(options.checkpoint, backbone=options.backbone, key=options.key)
    mapping, notes = compose_run(found, options, arguments)
    config = build_config(mapping)
    if arguments.choose_data:
        config = with_absolute_paths(config)
    config_checks.check_config(config)
    labels, more = choose_labels(found, config, options.labels, arguments.choose_data)
    counts, graph = count_cooccurrence(found, config, labels, arguments.choose_data)
    classifier = build_within(
        lambda: build.build_classifier(config, labels, cooccurrence=counts, pretrained=False),
        found.tensors,
        found.source,
    )
    found.load_into(classifier)

    display = Display()
    for note in [*notes, *more, *graph]:
        display.say(f"note: {note}")
    folder = write_run(found, config, labels, classifier.eval())
    for line in summary(found, config, labels, classifier):
        display.say(line)
    data = "" if has_data(config) else " dataset=… dataset.root=…"
    run = option("run", folder)
    display.say(f"\nrun directory  {folder}\nevaluate       mldec evaluate {run}{data}")
    display.say(f"predict        mldec predict {run} input=IMAGES")
    return 0


def compose_run(
    found: PublishedFile, options: ImportOptions, arguments: compose.Arguments
) -> tuple[dict[str, Any], list[str]]:
    """The experiment of the command line, with backbone and head of the file; and a note for each difference.

    Raises ConfigError for overrides that contradict the file, or that it decides.
    """
    from mldec.engine.imported_run import NO_DATASET, choose_image_size, network_settings

    overrides, notes = list(arguments.overrides), list[str]()
    if not arguments.choose_data:
        overrides += ["dataset=table", f"dataset.train={NO_DATASET}"]
    if options.image_size is not None:
        overrides.append(f"dataset.image_size={options.image_size}")
    mapping = compose.compose(overrides, arguments.config_dir, notes)
    given = arguments.keys()
    settings, differences = network_settings(found, mapping, given, options.label_embeddings)
    mapping |= settings
    if not arguments.choose_data and "name" not in given:
        mapping["name"] = re.sub(r"[^\w.-]+", "_", options.checkpoint.name.partition(".")[0]) or "imported"
    sized = given | ({"image_size"} if options.image_size is not None else set())
    return mapping, notes + differences + choose_image_size(found, mapping, sized)
