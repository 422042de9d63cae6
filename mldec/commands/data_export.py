"""`mldec data export`: from a set of images to files, with what is printed before and after."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mldec.errors import ConfigError, as_override, counted, setting, shortened
from mldec.files import check_output_directory, check_output_file, refuse_overwriting, write_text

if TYPE_CHECKING:
    from mldec.commands.data import DataExportOptions
    from mldec.data.own.export_set import ExportSet
    from mldec.engine.display import Display

ENDINGS = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".xml", ".txt", ".html"}  # of files


def check_options(options: DataExportOptions, *, has_dataset: bool) -> None:
    """Raise ConfigError for options that contradict one another or have no effect, before anything is read."""
    if has_dataset == (options.predictions is not None):
        found = "both are given" if has_dataset else "neither is given"
        raise ConfigError(f"dataset=NAME or predictions=FILE: {found}; one of them is exported")
    for name in ("threshold", "model_version") if options.predictions is None else ("split", "unknown"):
        if (value := getattr(options, name)) not in (None, "all"):
            kind = "a dataset" if options.predictions is None else "predictions"
            raise ConfigError(f"{name}={shortened(value)}: has no effect on {kind}; leave it out")
    for form, names in {"hf": ("images",), "label_studio": ("prefix", "model_version")}.items():
        for name in names:
            if (value := getattr(options, name)) is not None and options.format != form:
                raise ConfigError(
                    f"{name}={shortened(value)}: has no effect on format={options.format}, only on format={form}; "
                    "leave it out"
                )
    if options.format == "hf":
        if options.output.suffix.lower() in ENDINGS and not options.output.is_dir():
            raise ConfigError(f"output={shortened(options.output)}: format=hf writes a directory; name one")
        check_output_directory("output", options.output)
    elif not _is_file(options.output, options.format):
        check_output_directory("output", options.output)


def export(options: DataExportOptions, images: ExportSet, read: Iterable[str | Path]) -> int:
    """Write the files and print what they are. Returns the exit code.

    Args:
        read: files that must not be overwritten.
    """
    from mldec.data.own import export_writers
    from mldec.engine.display import Display

    display = Display()
    export_writers.check_unknown(options.format, images)
    if options.format == "hf":
        return _export_folder(options, images, display)
    form = export_writers.FORMATS[options.format]
    choices = export_writers.WriterOptions(
        prefix=export_writers.SERVED if options.prefix is None else options.prefix,
        model_version=options.model_version or "mldec",
    )
    parts = _parts(options, images)
    if len(parts) == 1:
        export_writers.check_repeated(images, "use output=DIR, which gets a file for each split, or split=train")
    beside = _beside(options, images)
    refuse_overwriting("output", [*parts, *beside], read)
    display.say(f"note: paths are relative to {images.root}")
    if images.unknown:
        unknown = counted(images.unknown, "unknown label")
        display.say(f"note: {unknown} of images, so each label has a column, with -1 there")
    for file, part in parts.items():
        total = sum(part.counts.values())
        with display.bar(file.name, total) as bar:
            form.write(file, part, choices, bar.advance)
        display.say(f"{file}: {counted(total, 'image')}, {counted(len(images.labels), 'label')}")
    for file, text in beside.items():
        write_text(file, text)
        display.say(f"{file}")
    display.say(f"next: {_next_command(options.format, parts, beside, images)}")
    return 0


def _parts(options: DataExportOptions, images: ExportSet) -> dict[Path, ExportSet]:
    """What goes into which file. Raises ConfigError where the output is no place for it."""
    from mldec.data.own.export_writers import FORMATS

    output, form = options.output, FORMATS[options.format]
    if not _is_file(output, options.format):
        names = {split: split or "predictions" for split in images.splits}
        return {output / f"{name}{form.suffix}": images.only(split) for split, name in names.items()}
    if images.several and not form.with_splits:
        raise ConfigError(
            f"output={shortened(output)}: a file of format={options.format} holds one split, not "
            f"{', '.join(images.splits)}; use output=DIR, which gets a file for each, or split=train"
        )
    return {output: images}


def _beside(options: DataExportOptions, images: ExportSet) -> dict[Path, str]:
    """The file that goes with those of a format, and its text."""
    from mldec.data.own.export_writers import FORMATS

    beside = FORMATS[options.format].beside
    if beside is None or not (text := beside[1](images)):
        return {}
    is_file = _is_file(options.output, options.format)
    return {options.output.with_suffix(f".{beside[0]}") if is_file else options.output / beside[0]: text}


def _is_file(output: Path, form: str) -> bool:
    """Whether `output` names a file of the format, not a directory. Raises ConfigError where it cannot be either."""
    from mldec.data.own.export_writers import FORMATS

    ending, wanted = output.suffix.lower(), FORMATS[form].suffix
    if ending == wanted and not output.is_dir():
        check_output_file("output", output)
        return True
    if ending in ENDINGS and not output.is_dir():
        raise ConfigError(
            f"output={shortened(output)}: a file of format={form} ends in {wanted}; use another ending or a directory"
        )
    return False


def _export_folder(options: DataExportOptions, images: ExportSet, display: Display) -> int:
    from mldec.data.own import export_folder

    output, how = options.output, options.images or "link"
    export_folder.check_new(output)
    total = sum(images.counts.values())
    if how == "none":
        places = dict.fromkeys(images.roots.get(split, images.root) for split in images.splits)
        where = " and ".join(places)
        display.say(f"note: file names are relative to {where}; put the images of each split beside its table")
    else:
        size = export_folder.measure_images(images)
        verb = "copies of" if how == "copy" else "links to"
        display.say(f"note: {verb} {counted(total, 'image')}, {size / 1e6:,.1f} MB, in {images.root}")
        if how == "copy":
            export_folder.check_space(output, size)
    if images.unused:
        count, first = len(images.unused), shortened(images.unused[0])
        display.say(f"warning: {counted(count, 'label')} that no image has, in no file, such as {first}")
    with display.bar(output.name, total) as bar:
        export_folder.write_hf(output, images, how, bar.advance)
    display.say(f"{output}: {counted(total, 'image')}, {counted(len(images.labels), 'label')}")
    display.say(f'in Python: load_dataset("imagefolder", data_dir={str(output)!r})')
    display.say(f"next: mldec data stats {setting('dataset', str(output))}")
    return 0


def _next_command(form: str, parts: dict[Path, ExportSet], beside: dict[Path, str], images: ExportSet) -> str:
    """The command that reads what was written."""
    settings: dict[str, str] = {}
    for file, part in parts.items():
        split = next(iter(part.splits)) if len(parts) > 1 else "train"
        settings[f"dataset.{split}"] = str(file)
    if images.root != os.path.abspath(next(iter(parts)).parent):
        settings["dataset.root"] = images.root
    if form in ("csv", "jsonl") and beside:
        settings["dataset.labels"] = str(next(iter(beside)))
    if form == "label_studio" and "" in images.splits:  # predictions
        settings["dataset.label_column"] = "predictions"
    choice = "dataset=coco_json" if form == "coco" else "dataset=table"
    return shlex.join(["mldec", "data", "stats", choice, *(as_override(*item) for item in settings.items())])
