"""JSON of Datumaro, FiftyOne and mmpretrain.

Read as these write it:
* Datumaro, dm_format_version 1.0 (openvinotoolkit/datumaro@1c1c46d, src/datumaro/plugins/data_formats/datumaro/
  exporter.py): annotations/<subset>.json holds `items`, each with `annotations` whose `label_id` counts the labels of
  categories.label.labels, and images/<subset>/ the images.
* FiftyOne (voxel51/fiftyone, fiftyone/utils/data/importers.py, FiftyOneImageClassificationDatasetImporter): labels.json
  holds `classes` and `labels`, {path in data/ without suffix: place in classes, name, or list of these}; exporters.py
  (@0019bf5), LegacyFiftyOneDatasetExporter: samples.json holds `samples` with `filepath`, `tags`, fields with `_cls`.
* mmpretrain 1.0 (open-mmlab/mmpretrain@0979e78, mmpretrain/datasets/multi_label.py): `metainfo.classes` and `data_list`
  with `img_path` and `gt_label` (`img_label` in its docstring), a place in classes or a list of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mldec.data.dataset import name_some
from mldec.data.own.documents import label_text, path_text, reading, split_of, unique
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, make_listing
from mldec.errors import DataError, counted, setting, shortened

DATUMARO, FIFTYONE, FIFTYONE_SAMPLES = "Datumaro JSON", "FiftyOne labels.json", "FiftyOne samples.json"
MMPRETRAIN = "mmpretrain JSON"


def looks_like_datumaro(document: Any) -> bool:
    """Whether a document is Datumaro's."""
    return _holds(document, items=list, categories=dict)


def read_datumaro(source: Source) -> Listing:
    """Datumaro's JSON: labels of images and of shapes."""
    with reading(source.path, DATUMARO):
        names = [label_text(label["name"]) for label in source.document["categories"]["label"]["labels"]]
        entries = []
        for item in source.document["items"]:
            ids = [one["label_id"] for one in item["annotations"] if one.get("label_id") is not None]
            path = (item.get("image") or {}).get("path") or item["id"]
            entries.append(Entry(path_text(path), unique([_named(place, names) for place in ids])))
    return make_listing(source, DATUMARO, entries, names)


def looks_like_fiftyone(document: Any) -> bool:
    """Whether a document is the labels.json of FiftyOne's classification or detection datasets."""
    return _holds(document, labels=dict) and isinstance(document.get("classes", ""), (list, type(None)))


def read_fiftyone(source: Source) -> Listing:
    """FiftyOne's labels.json; images whose label is null are not labelled, and left out."""
    with reading(source.path, FIFTYONE):
        classes = source.document["classes"]
        names = None if classes is None else [label_text(name) for name in classes]
        labels = source.document["labels"]
        data = os.path.join(source.folder, "data")
        folder = data if os.path.isdir(data) else None
        entries = [
            Entry(path_text(path), unique([_named(item, names) for item in _listed(target)]), folder=folder)
            for path, target in labels.items()
            if target is not None
        ]
    left_out = len(labels) - len(entries)
    decisions = [f"{counted(left_out, 'image')} whose label is null left out"] if left_out else []
    return make_listing(source, FIFTYONE, entries, names, decisions=decisions)


def looks_like_fiftyone_samples(document: Any) -> bool:
    """Whether a document is the samples.json of a FiftyOneDataset."""
    return _holds(document, samples=list) and all(
        isinstance(item, dict) and "filepath" in item for item in document["samples"][:50]
    )


def read_fiftyone_samples(source: Source) -> Listing:
    """FiftyOne's samples.json: labels of one field, `ground_truth` if there are several; splits from tags."""
    with reading(source.path, FIFTYONE_SAMPLES):
        samples = source.document["samples"]
        fields = sorted({key for one in samples for key, value in one.items() if _fiftyone_labels(value) is not None})
        field = source.label_column or ("ground_truth" if "ground_truth" in fields else "".join(fields[:1]))
        if field not in fields or (len(fields) > 1 and source.label_column is None and field != "ground_truth"):
            raise DataError(
                f"which of the fields {name_some(fields, len(fields), 8) or '(none with labels)'} holds the labels? "
                "Use dataset.label_column=NAME"
            )
        entries, left_out = list[Entry](), 0
        used = dict[str, None]()
        for one in samples:
            found = _fiftyone_labels(one.get(field))
            if found is None:
                left_out += 1
                continue
            tags = {tag: split for tag in one.get("tags") or [] if (split := split_of(tag)) is not None}
            tags = {tag: split for tag, split in tags.items() if tag not in (source.ignore or ())}
            if len(set(tags.values())) > 1:
                raise DataError(
                    f"{shortened(one['filepath'])} has the tags {name_some(tags, len(tags))}, which are several "
                    f"splits; leave one, or do without one of them: {setting('dataset.ignore', (list(tags)[-1],))}"
                )
            used |= dict.fromkeys(tags)
            entries.append(Entry(path_text(one["filepath"]), unique(found), split=next(iter(tags.values()), None)))
    decisions = [f"labels from the field {field}"]
    if used:
        decisions.append(f"split by tags ({name_some(used, len(used), 10)})")
    if left_out:
        decisions.append(f"{counted(left_out, 'sample')} without {field} left out")
    return make_listing(source, FIFTYONE_SAMPLES, entries, decisions=decisions)


def _fiftyone_labels(value: Any) -> list[str] | None:
    """The labels of a field of a sample; None for a field that has none: no label, or not labelled."""
    if not isinstance(value, dict) or not isinstance(kind := value.get("_cls"), str):
        return None
    lists = {"Classifications": "classifications", "Detections": "detections", "Polylines": "polylines"}
    lists["Keypoints"] = "keypoints"
    items = value.get(lists[kind], []) if kind in lists else [value] if "label" in value else None
    if items is None:
        return None
    return [label_text(item["label"]) for item in items if item.get("label") is not None]


def looks_like_mmpretrain(document: Any) -> bool:
    """Whether a document is of OpenMMLab 2.0's style."""
    return _holds(document, data_list=list, metainfo=dict)


def read_mmpretrain(source: Source) -> Listing:
    """mmpretrain's JSON."""
    with reading(source.path, MMPRETRAIN):
        meta = source.document["metainfo"]
        classes = meta.get("classes", meta.get("CLASSES"))
        names = None if classes is None else [label_text(name) for name in classes]
        entries = []
        for item in source.document["data_list"]:
            places = item["gt_label"] if "gt_label" in item else item["img_label"]
            path = path_text(item["img_path"])
            entries.append(Entry(path, unique([_named(place, names) for place in _listed(places)])))
    decisions = [] if names is not None else ["no metainfo.classes: labels are their numbers"]
    return make_listing(source, MMPRETRAIN, entries, names, decisions=decisions)


def _holds(document: Any, **kinds: type) -> bool:
    return isinstance(document, dict) and all(isinstance(document.get(key), kind) for key, kind in kinds.items())


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _named(item: Any, names: Sequence[str] | None) -> str:
    """The name of a label from its place in `names`, or itself; a box stands for its `label`."""
    item = item["label"] if isinstance(item, dict) else item
    if names is None or isinstance(item, str):
        text = label_text(item)
        if names is not None and text not in names:
            raise DataError(f"label {shortened(text)} is none of the {len(names)} classes that the file names")
        return text
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < len(names):
        raise DataError(f"label {shortened(item)} is no place in the {len(names)} classes that the file names")
    return names[item]
