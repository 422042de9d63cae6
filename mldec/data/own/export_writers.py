"""The formats of `mldec data export`: a function each that writes one file, and a table of them.

csv           path,labels with `;` between labels, or lists as JSON in every cell where a name could be misread; with
              unknown labels a column for each label: 1 present, 0 absent, -1 unknown. Several splits: a column split
jsonl         the same as objects: {"path": …, "labels": […]}, or a key for each label
coco          COCO's JSON: an annotation for each label of an image, without a box, since none is known
label_studio  a list of tasks, labels as choices: annotations of a dataset, predictions with scores of a prediction
hf            a folder for load_dataset("imagefolder"): see export_folder.py

Predictions also have `scores`, one for each of `labels`; in COCO each annotation has one. A file is written
whole or not at all, an image at a time.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from mldec.data.image import read_size
from mldec.data.index import UNKNOWN
from mldec.data.own.export_set import ExportImage, ExportSet
from mldec.errors import DataError, shortened
from mldec.files import replacing
from mldec.labels import to_cell

OnDone = Callable[[int], None]

SEPARATORS = ";,|/\t\"'["  # in a name, with which a joined cell could be read in two ways
NO_LABEL = {"nan", "none", "na", "n/a", "null", "-1"}  # names that readers of tables take for no label
FORMULA = "=+-@"  # how cells begin that a spreadsheet computes
SERVED = "/data/local-files/?d="  # before a path of the local files that Label Studio serves
CONTROL, OBJECT = "labels", "image"  # names in Label Studio's labeling configuration


@dataclass(frozen=True)
class WriterOptions:
    """What some of the formats can be told.

    Attributes:
        prefix: label_studio: text before each path; after a URL or an absolute path, paths are percent-encoded.
        model_version: label_studio: of predictions.
        blank_unknown: csv: nothing rather than -1 for an unknown label, since -1 in a file without 0 may mean absent.
    """

    prefix: str = SERVED
    model_version: str = "mldec"
    blank_unknown: bool = False


@dataclass(frozen=True)
class FileFormat:
    """A format with one file, or one for each split.

    Attributes:
        suffix: of its files.
        write: writes a set to a file and calls `on_done` with the number of images written since its last call.
        beside: a file that goes with it, by the end of its name: its text, or "" where none is needed.
        with_unknown: whether it can say that a label is unknown.
        with_splits: whether one file can hold several splits.
    """

    suffix: str
    write: Callable[[Path, ExportSet, WriterOptions, OnDone], None]
    beside: tuple[str, Callable[[ExportSet], str]] | None = None
    with_unknown: bool = True
    with_splits: bool = True


def write_csv(file: Path, images: ExportSet, options: WriterOptions, on_done: OnDone) -> None:
    """Write a CSV."""
    encode = _cell_encoder(images.labels, "" if options.blank_unknown and images.unknown else UNKNOWN)
    columns: list[str] | None = None
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        for row in table_rows(images, "path"):
            if columns is None:
                columns = list(row)
                writer.writerow([to_cell(name) for name in columns])
            cells = [_safe_path(row["path"]), *(encode(row[name]) for name in columns[1:])]
            writer.writerow(cells)
            on_done(1)


def write_jsonl(file: Path, images: ExportSet, options: WriterOptions, on_done: OnDone) -> None:
    """Write JSON lines."""
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as target:
        for row in table_rows(images, "path"):
            target.write(to_json(row | {"path": _safe_path(row["path"])}) + "\n")
            on_done(1)


def write_coco(file: Path, images: ExportSet, options: WriterOptions, on_done: OnDone) -> None:
    """Write COCO's JSON; sizes are read from the images. Raises DataError for one that cannot be read."""
    columns = {name: column for column, name in enumerate(images.labels, start=1)}

    def entries() -> Iterator[dict[str, Any]]:
        for number, (_, image) in enumerate(images.images(), start=1):
            try:
                width, height = read_size(os.path.join(images.root, image.name))
            except DataError as error:
                raise DataError(
                    f"{error}. COCO's format needs the size of each image; `mldec data verify fix=true` leaves out "
                    "those that cannot be read, format=csv needs none"
                ) from None
            yield {"id": number, "file_name": image.name, "width": width, "height": height}
            on_done(1)

    def annotations() -> Iterator[dict[str, Any]]:
        count = 0
        for number, (_, image) in enumerate(images.images(), start=1):
            for place, name in enumerate(image.present):
                count += 1
                scored = {} if image.scores is None else {"score": image.scores[place]}
                yield {"id": count, "image_id": number, "category_id": columns[name], **scored}

    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as target:
        target.write('{"info": {"description": "labels of images, without boxes, written by mldec data export"},\n')
        target.write('"licenses": [],\n"categories": ')
        _write_list(target, ({"id": column, "name": name} for name, column in columns.items()))
        target.write(',\n"images": ')
        _write_list(target, entries())
        target.write(',\n"annotations": ')
        _write_list(target, annotations())
        target.write("}\n")


def write_label_studio(file: Path, images: ExportSet, options: WriterOptions, on_done: OnDone) -> None:
    """Write a list of tasks."""

    def tasks() -> Iterator[dict[str, Any]]:
        for split, image in images.images():
            yield _task(image, split, options)
            on_done(1)

    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as target:
        _write_list(target, tasks())
        target.write("\n")


def label_names(images: ExportSet) -> str:
    """The names of the labels, one per line, in order, which `dataset.labels=` reads; "" where each has a column."""
    return "" if images.unknown else "".join(f"{name}\n" for name in images.labels)


def labeling_configuration(images: ExportSet) -> str:
    """What a project of Label Studio needs to show the tasks: the image, and its labels as choices."""
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in images.labels)
    return (
        f'<View>\n  <Image name="{OBJECT}" value="$image"/>\n'
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="multiple">\n{choices}  </Choices>\n</View>\n'
    )


def table_rows(images: ExportSet, path_column: str) -> Iterator[dict[str, Any]]:
    """Each image as a row: its path, a list `labels` or, where some are unknown, a column for each label, and its split
    where there are several. Raises DataError for a label that is called as another column."""
    classes = images.unknown > 0
    taken = {path_column, "split"} if images.several else {path_column}
    if classes and (clash := taken & set(images.labels)):
        raise DataError(
            f"a label is called {sorted(clash)[0]}, as the column of the images' paths or splits; rename it, or use "
            "unknown=absent, which lists labels in one column"
        )
    for split, image in images.images():
        row: dict[str, Any] = {path_column: image.name}
        if classes:
            assert image.states is not None
            row |= zip(images.labels, image.states.tolist(), strict=True)
        else:
            row["labels"] = list(image.present)
            if image.scores is not None:
                row["scores"] = list(image.scores)
        if images.several:
            row["split"] = split
        yield row


def to_json(value: Any) -> str:
    """JSON on one line, in UTF-8 as it is."""
    return json.dumps(value, ensure_ascii=False)


def _cell_encoder(labels: Iterable[str], unknown: Any) -> Callable[[Any], Any]:
    """How the values of a row become cells: one way for the whole file, chosen by the names of all labels.

    `unknown` stands for the state of an unknown label.
    """
    joined = not any(_needs_list(name) for name in labels)

    def encode(value: Any) -> Any:
        if isinstance(value, list):
            return ";".join(map(str, value)) if joined else to_json(value)
        if isinstance(value, str):
            return to_cell(value)
        return unknown if value == UNKNOWN else value

    return encode


def _needs_list(name: str) -> bool:
    misread = any(sign in name for sign in SEPARATORS) or name != name.strip() or name.lower() in NO_LABEL
    return misread or name[0] in FORMULA


def _safe_path(path: str) -> str:
    """The same path, such that neither a spreadsheet computes it nor a reader of tables takes its beginning for a
    comment, a quote or space."""
    return f"./{path}" if path[0] in f"{FORMULA}#\"'[{{" or path != path.strip() or "\\" in path else path


def _write_list(target: IO[str], items: Iterable[Any]) -> None:
    """A JSON list, an item per line."""
    target.write("[")
    for number, item in enumerate(items):
        target.write((",\n" if number else "\n") + to_json(item))
    target.write("\n]")


def _task(image: ExportImage, split: str, options: WriterOptions) -> dict[str, Any]:
    """A task of Label Studio. Choices are one result, of which the interface shows the last one only if there are more;
    so the scores of single labels are in the data, and `score` is the lowest of them: the label most in doubt."""
    path = quote(image.name) if options.prefix.startswith(("/", "http://", "https://")) else image.name
    data: dict[str, Any] = {"image": options.prefix + path} | ({"split": split} if split else {})
    result: list[dict[str, Any]] = []
    if image.present:
        value = {"choices": list(image.present)}
        result = [{"id": "labels", "from_name": CONTROL, "to_name": OBJECT, "type": "choices", "value": value}]
    if image.scores is None:
        return {"data": data, "annotations": [{"result": result}]}
    data["scores"] = dict(zip(image.present, image.scores, strict=True))
    prediction: dict[str, Any] = {"model_version": options.model_version, "result": result}
    if image.scores:
        prediction["score"] = result[0]["score"] = min(image.scores)
    return {"data": data, "predictions": [prediction]}


#: By the name that `format=` takes.
FORMATS = {
    "csv": FileFormat(".csv", write_csv, ("labels.txt", label_names)),
    "jsonl": FileFormat(".jsonl", write_jsonl, ("labels.txt", label_names)),
    "coco": FileFormat(".json", write_coco, with_unknown=False, with_splits=False),
    "label_studio": FileFormat(".json", write_label_studio, ("config.xml", labeling_configuration), with_unknown=False),
}


def check_unknown(form: str, images: ExportSet) -> None:
    """Raise DataError where labels are unknown and the format cannot say so."""
    if images.unknown and form in FORMATS and not FORMATS[form].with_unknown:
        raise DataError(
            f"format={form} cannot say that a label is unknown, and {images.unknown:,} labels of images are; use "
            "unknown=absent to write them as absent, or format=csv, jsonl or hf, which can"
        )


def check_repeated(images: ExportSet, advice: str) -> None:
    """Raise DataError where an image belongs to several splits of one file."""
    seen: dict[str, str] = {}
    for split, image in images.images() if images.several else ():
        if image.name in seen:
            raise DataError(
                f"{shortened(image.name)} is in {seen[image.name]} and in {split}, which one file cannot say; {advice}"
            )
        seen[image.name] = split
