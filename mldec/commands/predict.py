"""`mldec predict`: labels and scores of images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mldec.commands import compose
from mldec.commands.help import show_value
from mldec.commands.options import LabelNames, LabelStates, NetworkOptions, Repeatable, parse, read_label_states
from mldec.config import Count, Fraction, Precision, SomeOrNone, build_config, to_mapping
from mldec.errors import ConfigError, DataError, counted, shortened

if TYPE_CHECKING:
    from mldec.engine.prediction import Selection
    from mldec.engine.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictOptions(NetworkOptions):
    """Labels and scores of images.

    A zero-shot network predicts any labels: labels="zebra crossing,espresso". Other settings of how their embeddings
    are looked up can be set as in training: head.label_embeddings.aliases=FILE.

    A C-Tran that was trained with label masks takes labels that are known already and predicts the others with
    them: known="cat=1,dog=0".

    Attributes:
        input: an image, a directory with its subdirectories, a pattern in quotes such as "photos/*.jpg", @FILE for a
            list with one path per line, or - for such a list on standard input; may be given several times. Instead of
            it dataset=PATH: the images that a table, an export or class directories list
        thresholds: list labels with a score above a threshold of their own: tuned, on val, or read from a CSV file with
            the columns label,threshold; labels without one have threshold=…. A run whose images have one label each has
            no thresholds: the best label is listed
        known: labels that all images are known to have (1) or not to have (0); their score is this value. Only for
            head=c_tran, trained with head.label_masks=true
        maps: into DIR: an image with a map of each listed label: what each location contributes to it (true, label),
            or the attention of its query
    """

    SETTINGS = ("head.label_embeddings", "dataset")

    run: Path  # a run directory, a checkpoint file or an exported folder
    input: Repeatable = ()
    labels: LabelNames | None = None  # what a zero-shot network predicts; default: the labels it was trained on
    label_embeddings: str | None = None  # source of embeddings of new labels; default: that of the run
    threshold: Fraction | None = None  # list labels with a score above it; default 0.5, or of one label each the best
    thresholds: str | None = None
    top_k: Count | None = None  # list the N best labels instead
    known: LabelStates | None = None
    output: Path | None = None  # a file FILE.jsonl, FILE.csv or FILE.parquet; any other: a directory
    format: tuple[Literal["jsonl", "csv", "parquet"], ...] | None = None  # files in DIR; default jsonl
    scores: Literal["listed", "all"] | None = None  # scores of listed labels (default), or of all labels
    annotated: bool = False  # into DIR: each image with its labels and scores beside it
    maps: bool | Literal["label", "attention"] = False
    font: Path | None = None  # a .ttf file for labels in scripts that DejaVu Sans lacks, such as Chinese
    resume: bool | None = None  # continue an interrupted prediction; default: if its settings are the same
    device: str | None = "auto"  # auto, cpu, cuda, cuda:N or mps
    batch_size: Count | None = 32  # images per batch
    workers: SomeOrNone | None = None  # threads that decode images; default: 1 on the CPU, else 1 per core, at most 8
    precision: Precision | None = "auto"  # auto: bf16 on CUDA that has it, otherwise fp32

    @property
    def weighting(self) -> Literal["label", "attention"] | None:
        """What maps show; None: no maps are drawn."""
        return "label" if self.maps is True else self.maps or None


OPTIONS = PredictOptions


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code: 1 if some images could not be read."""
    options, arguments = parse(argv, PredictOptions, "predict")
    from mldec.engine.display import Display
    from mldec.engine.prediction import show_predictions, write_predictions
    from mldec.engine.prediction_files import check_files, choose_files, find_inputs

    files = choose_files(options.output, options.format)
    for name, wanted in (("maps", options.weighting), ("annotated", options.annotated)):
        if wanted and (files is None or files.directory is None):
            raise ConfigError(f"{name}=true writes images; add a directory for them: output=DIR")
    notes: list[str] = []
    compose.load_components(arguments.plugins)
    data = [text for text in arguments.overrides if compose.key_of(text).partition(".")[0] == "dataset"]
    if arguments.config_dir is not None and not data:
        raise ConfigError(f"--config-dir={shortened(arguments.config_dir)}: has no effect here without dataset=…")
    if bool(data) == bool(options.input):
        found = "both are given; leave one out" if data else "are missing; mldec predict --help shows all options"
        raise ConfigError(f"input=… or dataset=PATH {found}")
    paths = _images_of(data, arguments.config_dir) if data else find_inputs(options.input, notes)
    if files is not None:
        drawings = [name for name, wanted in (("annotated", options.annotated), ("maps", options.maps)) if wanted]
        check_files(files, paths, _files_read(options, argv), drawings=drawings)
    predictor, selection, warnings = prepare(options, [text for text in arguments.overrides if text not in data])
    display = Display()
    for sentence in warnings:
        display.say(f"warning: {sentence}")
    for sentence in notes:
        display.say(f"note: {sentence}")
    sizes = f"{counted(len(paths), 'image')}, {counted(len(predictor.labels), 'label')}"
    display.say(f"note: {predictor.path}: {sizes}")
    if files is None:
        return int(show_predictions(predictor, paths, selection, display) > 0)
    settings = _settings(predictor, selection, options, arguments.overrides)
    broken = write_predictions(predictor, paths, selection, files, display, resume=options.resume, settings=settings)
    return int(broken > 0)


def predict(
    run: str | Path, inputs: str | Path | Sequence[str | Path], *overrides: str, **options: Any
) -> dict[str, dict[str, float]]:
    """The labels of images with their scores, the best first, by path; nothing is written.

    For images in memory, or several calls with one network, use `mldec.load(run).predict(images)`.

    Args:
        run: a run directory, a checkpoint file or an exported folder.
        inputs: one or several of what the option `input` takes: an image, a directory, a pattern, "@list.txt".
        overrides: what `mldec predict` takes, such as "head.label_embeddings.aliases=aliases.txt".
        options: its options as values: threshold=0.3, thresholds="tuned", top_k=3, labels=["zebra", "espresso"],
            known={"cat": 1}.

    Raises ConfigError, DataError or CheckpointError, as the command does; DataError for an image that cannot be read.
    """
    from mldec.engine.prediction_files import find_inputs

    known = options.pop("known", None)
    if known is not None and not isinstance(known, Mapping):
        raise ConfigError(
            f"known={shortened(known)}: expected a mapping of label names to 1 or 0: {{'cat': 1, 'dog': 0}}"
        )
    sources = [inputs] if isinstance(inputs, (str, Path)) else inputs
    texts = [str(source) for source in sources]
    made, arguments = parse(overrides, PredictOptions, "predict", run=run, input=texts, **options)
    for name in ("output", "format", "scores", "annotated", "maps", "font", "resume"):
        if getattr(made, name):
            raise ConfigError(f"{name}={getattr(made, name)}: mldec.predict writes no files; use `mldec predict`")
    if arguments.choose_data:
        raise ConfigError("dataset=…: mldec.predict takes images; use `mldec predict`")
    paths = find_inputs(made.input)
    compose.load_components(arguments.plugins)
    predictor, selection, warnings = prepare(made, arguments.overrides, known)
    for sentence in warnings:
        logger.warning("warning: %s", sentence)
    found = {}
    stream = predictor.stream(paths, batch_size=selection.batch_size, workers=made.workers, known=selection.known)
    for answer in chain.from_iterable(stream):
        if answer.scores is None:
            raise DataError(answer.error)
        found[answer.image] = predictor.name(answer.scores, selection.threshold, selection.top_k)
    return found


def _images_of(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """The paths of all images of a dataset, whatever their split, each once."""
    from mldec.registry import DATASETS

    config = build_config(compose.compose(overrides, config_dir, divides=False)).dataset
    indexes = (DATASETS[config.name].build(config, split=split) for split in config.splits)
    return list(dict.fromkeys(index.path(row) for index in indexes for row in range(len(index))))


def prepare(
    options: PredictOptions, overrides: Sequence[str], known: Mapping[str, int] | None = None
) -> tuple[Predictor, Selection, list[str]]:
    """The network, which labels it lists, and a warning for each option that has no effect.

    `known`: in place of the option.
    """
    from mldec.engine import text_rendering
    from mldec.engine.prediction import Selection, choose_threshold
    from mldec.engine.predictor import load
    from mldec.system import keep_freed_memory

    if options.font is not None:
        text_rendering.use_font(str(options.font))
    predictor = load(options.run, options.weights, options.device or "auto", options.precision or "auto")
    if predictor.device.type == "cpu":
        keep_freed_memory()
    warnings = _choose_label_embeddings(predictor, options, overrides)
    if options.labels is not None:
        predictor.set_labels(options.labels)
    if known is None and options.known is not None:
        known = read_label_states("known", options.known)
    predictor.check_known(known or {})
    top_k = options.top_k
    if predictor.single_label and options.threshold is None and options.thresholds in (None, "tuned"):
        if top_k is None and options.thresholds is not None:
            logger.info("note: thresholds=tuned: images of this run have one label each, so the best label is listed")
        top_k = top_k or 1
    source = None if top_k is not None else options.thresholds
    threshold, more = choose_threshold(predictor, source, options.threshold)
    warnings += more
    if options.annotated and (lost := text_rendering.unreadable(predictor.labels.names)):
        warnings.append(
            f"annotated=true: the font lacks characters of {len(lost)} labels (first: {lost[0]}); use font=FILE.ttf"
        )
    if options.weighting:
        predictor.check_maps(options.weighting)  # before an image is scored
    selection = Selection(
        threshold=threshold,
        top_k=top_k,
        all_scores=options.scores == "all",
        annotated=options.annotated,
        maps=options.weighting,
        known=known,
        batch_size=options.batch_size or 32,
        workers=options.workers,
    )
    return predictor, selection, warnings + _unused(options)


def _unused(options: PredictOptions) -> list[str]:
    """A sentence for each option that has no effect."""
    best = f"top_k={options.top_k} lists the best labels, whatever their score"
    reasons: dict[str, str] = {}
    if options.top_k is not None:
        reasons |= {"threshold": best, "thresholds": best}
    if options.output is None:
        reasons |= dict.fromkeys(("scores", "resume"), "without output=… nothing is written")
    if not (options.annotated or options.weighting):
        reasons["font"] = "no images are drawn; add annotated=true"
    given = {name: value for name in reasons if (value := getattr(options, name)) is not None}
    return [f"{name}={show_value(value)}: {reasons[name]}" for name, value in given.items()]


def _choose_label_embeddings(predictor: Predictor, options: PredictOptions, overrides: Sequence[str]) -> list[str]:
    """Look new labels up where `label_embeddings=` and `head.label_embeddings.…=` say.

    Returns a sentence for each that has no effect. Raises ConfigError for unknown settings.
    """
    source = options.label_embeddings
    given = ([f"label_embeddings={source}"] if source is not None else []) + list(overrides)
    if not given:
        return []
    if predictor.label_embeddings_config is None:
        return [f"{option}: this network has no label embeddings" for option in given]
    if options.labels is None:
        return [f"{option}: without labels=… none are looked up" for option in given]
    if source is not None:
        predictor.take_label_embeddings_from(source)
    if overrides:
        stored = to_mapping(predictor.config)
        stored["head"]["label_embeddings"] = to_mapping(predictor.label_embeddings_config)
        predictor.label_embeddings_config = build_config(compose.change(stored, overrides)).head.label_embeddings
    vocabulary = predictor.model.vocabulary
    if vocabulary is not None and not set(options.labels) - set(vocabulary.known.names):
        return [f"{option}: the run has embeddings of all these labels, none are looked up" for option in given]
    assert predictor.label_embeddings_config is not None
    return predictor.label_embeddings_config.unused()


def _settings(
    predictor: Predictor, selection: Selection, options: PredictOptions, overrides: Sequence[str]
) -> dict[str, Any]:
    """What predictions depend on beside the images: an interrupted command resumes only with the same."""
    import numpy as np

    checkpoint = Path(predictor.path).resolve()
    labels = "\n".join(predictor.labels.names).encode("utf-8", "backslashreplace")
    thresholds = np.asarray(selection.threshold, np.float64).tobytes()
    settings: dict[str, Any] = {"run": str(checkpoint), "changed": checkpoint.stat().st_mtime}
    for name in ("weights", "label_embeddings", "threshold", "thresholds", "top_k", "scores", "annotated", "maps"):
        settings[name] = getattr(options, name)
    digests = {"labels": labels, "values of the thresholds": thresholds}
    settings |= {name: hashlib.sha256(content).hexdigest()[:12] for name, content in digests.items()}
    settings["known"] = {name: int(state) for name, state in sorted((selection.known or {}).items())} or None
    return settings | {"overrides": list(overrides), "precision": options.precision}


def _files_read(options: PredictOptions, argv: Sequence[str]) -> list[str]:
    """The files that are read beside the images."""
    sources = options.input
    lists = ["/dev/stdin" if source == "-" else source[1:] for source in sources if source[:1] in ("@", "-")]
    labels = [item.partition("=@")[2] for item in argv if item.startswith("labels=@")]
    named = (options.run, options.thresholds, options.font, options.label_embeddings)
    return [*lists, *labels, *(str(value) for value in named if value is not None)]
