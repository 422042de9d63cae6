"""The VGG Image Annotator (VIA): a project, or its annotations as JSON.

Read as VIA 2.0 writes it (CodeDoc.md; via.js, `pack_via_metadata`): `_via_img_metadata` of a project, or that object by
itself, is {id: {filename, size, regions, file_attributes}}; a region has `region_attributes`. A checkbox is {option:
true}, a dropdown or radio button the id of its option, which `_via_attributes` of a project describes. VIA 1.0 has
`regions` as an object. VIA 3 (ox-vgg/via, via-3.x.y/projects) has `attribute`, `file`, `view` and `metadata`: a
view is of files, and each of the metadata of a view has the `av` of attributes, by their ids: text, or the ids of
options with commas between them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mldec.data.dataset import name_some
from mldec.data.own.documents import LABEL_KEYS, label_text, path_text, reading, unique
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, make_listing
from mldec.errors import DataError, whole_number

VIA = "VGG Image Annotator JSON"
_NAMES = (*LABEL_KEYS, "name", "type", "object", "object_name", "object_category")
_TEXTS = ("caption", "public_domain", "image_url", "image_quality", "description")  # attributes that VIA itself offers


def looks_like_via(document: Any) -> bool:
    """Whether a document is a project of VIA 2, or annotations of VIA 1 or 2."""
    if not isinstance(document, dict) or not document:
        return False
    images = document.get("_via_img_metadata", document)
    return isinstance(images, dict) and all(
        isinstance(item, dict) and {"filename", "regions"} <= item.keys() for item in list(images.values())[:50]
    )


def read_via(source: Source) -> Listing:
    """VIA's JSON: the values of the attributes of files and regions are labels.

    Of several attributes, those with the usual names of labels count, or those with options to choose from, or the one
    that was set as label_column. Raises DataError if that leaves more than one with free text.
    """
    with reading(source.path, VIA):
        document = source.document
        images = list(document.get("_via_img_metadata", document).values())
        given = [(item, _attributes(item)) for item in images]
        names = sorted({name for _, attributes in given for found in attributes for name in found})
        described = {**(groups := document.get("_via_attributes") or {}).get("file", {}), **groups.get("region", {})}
        chosen = _chosen(source, names, described)
        entries = []
        for item, attributes in given:
            labels = [
                text
                for found in attributes
                for name in chosen
                for text in _labels(found.get(name), (described.get(name) or {}).get("options") or {})
            ]
            entries.append(Entry(path_text(item["filename"]), unique(labels)))
    return make_listing(source, VIA, entries, decisions=[f"labels from the attributes {', '.join(chosen)}"])


def looks_like_via3(document: Any) -> bool:
    """Whether a document is a project of VIA 3."""
    return isinstance(document, dict) and all(
        isinstance(document.get(key), dict) for key in ("project", "attribute", "file", "view", "metadata")
    )


def read_via3(source: Source) -> Listing:
    """A project of VIA 3, as `read_via` reads those of VIA 2."""
    with reading(source.path, VIA):
        document = source.document
        described = document["attribute"]
        images = {
            str(view): {"filename": document["file"][str(file)]["fname"], "regions": []}
            for view, content in document["view"].items()
            for file in content["fid_list"]
        }
        for one in document["metadata"].values():
            found = {described[key]["aname"]: _chosen3(described[key], value) for key, value in one["av"].items()}
            images[str(one["vid"])]["regions"].append({"region_attributes": found})
        kinds = {one["aname"]: {"type": "radio" if one.get("options") else "text"} for one in described.values()}
    inner = {"_via_img_metadata": images, "_via_attributes": {"region": kinds}}
    return read_via(replace(source, document=inner))


def _chosen3(attribute: dict[str, Any], value: Any) -> Any:
    """The options of a value, or its text."""
    options = attribute.get("options")
    return {options[name]: True for name in value.split(",") if name} if options and isinstance(value, str) else value


def _attributes(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The attributes of a file and of each of its regions; an empty list, as some write it, stands for none."""
    regions = item["regions"]
    parts = regions.values() if isinstance(regions, dict) else regions
    found = [item.get("file_attributes"), *(part.get("region_attributes") for part in parts)]
    return [dict(attributes) for attributes in found if attributes]


def _chosen(source: Source, names: list[str], described: dict[str, Any]) -> list[str]:
    if source.label_column is not None:
        chosen = [name for name in names if name == source.label_column]
    else:
        names = [name for name in names if name.lower() not in _TEXTS] or names
        usual = [name for name in names if name.lower() in _NAMES]
        options = [
            name for name in names if (described.get(name) or {}).get("type") in ("checkbox", "radio", "dropdown")
        ]
        chosen = usual or options or names
        if len(chosen) > 1 and not usual and not options:
            chosen = []
    if not chosen:
        raise DataError(
            f"which of the attributes {name_some(names, len(names), 10) or '(none)'} holds the labels? Use "
            "dataset.label_column=NAME"
        )
    return chosen


def _labels(value: Any, options: dict[str, Any]) -> list[str]:
    """The labels of an attribute: the options that are true, or its text; an option's number stands for its text."""
    if value is None or value == "":
        return []
    ids = [name for name, state in value.items() if state] if isinstance(value, dict) else [value]
    found = []
    for item in ids:
        text = label_text(item)
        described = options.get(text) if whole_number(text) is not None else None
        found.append(label_text(described) if described else text)
    return found
