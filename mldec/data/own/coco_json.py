"""COCO's JSON of one's own: with null ids of annotations, backslashes, a byte order mark, or a file for each split.

Read as cocodataset.org's "data format" has it: `images` with `id` and `file_name`, `categories` with `id` and `name`,
`annotations` with `image_id` and `category_id`. Roboflow writes <split>/_annotations.coco.json, whose first category
stands for the project and has no annotation (roboflow.com/formats/coco-json).
"""

from __future__ import annotations

from typing import Any

from mldec.data.own.documents import label_text, path_text, reading
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, make_listing
from mldec.errors import DataError, shortened

COCO = "COCO JSON"


def looks_like_coco(document: Any) -> bool:
    """Whether a document is in COCO's format."""
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "categories"))


def read_coco(source: Source) -> Listing:
    """COCO's JSON: a label is present where the image has an annotation of it; labels by ascending category id."""
    with reading(source.path, COCO):
        document = source.document
        if not isinstance(document.get("annotations"), list):
            raise DataError("no `annotations`, so nothing is known of its images; use the file that has them")
        names = _by_id(document["categories"], "category", "name", label_text)
        paths = _by_id(document["images"], "image", "file_name", path_text)
        present: dict[Any, dict[str, None]] = {image: {} for image in paths}
        for number, one in enumerate(document["annotations"], start=1):
            image, category = one["image_id"], one["category_id"]
            for what, found, known in (("image", image, paths), ("category", category, names)):
                if found is None or isinstance(found, (list, dict)) or found not in known:
                    raise DataError(
                        f"annotation {number} has the {what}_id {shortened(found)}, which no {what} has; delete it, or "
                        "correct the id"
                    )
            present[image][names[category]] = None
        entries = [Entry(path, tuple(present[image])) for image, path in paths.items()]
        used = {name for labels in present.values() for name in labels}
        labels, decisions = _without_project(document["categories"], list(names.values()), used)
    return make_listing(source, COCO, entries, labels, decisions=decisions)


def _by_id(items: list[dict[str, Any]], what: str, key: str, text: Any) -> dict[Any, str]:
    """{id: text} by ascending id. What has no id cannot be referred to, and is kept under a place of its own."""
    found: dict[Any, str] = {}
    for item in items:
        number = item.get("id")
        if isinstance(number, (list, dict, bool, float)):
            raise DataError(f"{what} id {shortened(number)}: an integer or text is needed")
        value = text(item[key])
        number = ("without id", len(found)) if number is None else number
        if found.setdefault(number, value) != value:
            raise DataError(f"two of its {what} entries have the id {shortened(number)}; ids must differ")
    if all(isinstance(number, int) for number in found):
        return dict(sorted(found.items()))
    return found


def _without_project(categories: list[dict[str, Any]], names: list[str], used: set[str]) -> tuple[list[str], list[str]]:
    """The labels without Roboflow's category for the project, the supercategory of all others; and what was decided."""
    for category in categories:
        name = label_text(category["name"])
        others = [one for one in categories if one is not category]
        if name not in used and others and all(one.get("supercategory") == name for one in others):
            return [label for label in names if label != name], [
                f"category {name}, which stands for all others, left out"
            ]
    return names, []
