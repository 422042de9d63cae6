"""CVAT's format "CVAT for images 1.1".

Read as CVAT writes it (cvat-ai/cvat@2eaa89c, site/content/en/docs/dataset_management/formats/format-xml.md): in
annotations.xml, <image name="…" subset="…"> holds <tag label="…"> and the shapes <box>, <polygon>, <polyline>,
<points>, <ellipse>, <cuboid>, <skeleton> and <mask>, each with a label; <meta> names all labels. The images lie in
images/.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from mldec.data.dataset import name_some
from mldec.data.own.documents import label_text, path_text, reading, split_of, unique
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, make_listing
from mldec.errors import DataError, counted

CVAT = "CVAT for images 1.1"
DEFAULT = "default"  # the subset of images that are in none


def looks_like_cvat(document: Any) -> bool:
    """Whether an XML document is one of CVAT's."""
    return isinstance(document, Element) and document.tag == "annotations"


def read_cvat(source: Source) -> Listing:
    """CVAT's XML: labels of tags and shapes. Subsets named train, val or test are splits, others are reported.

    Attributes are not read.
    """
    with reading(source.path, CVAT):
        root = source.document
        images = root.findall("image")
        if not images and root.find("track") is not None:
            raise DataError("is CVAT's format for videos, which names no images; export it as 'CVAT for images 1.1'")
        entries = [
            Entry(
                path_text(image.get("name")),
                unique([label_text(item.get("label")) for item in image if item.get("label") is not None]),
                split=split_of(image.get("subset")),
            )
            for image in images
        ]
        # A skeleton's points are labels of their own in <meta>, with the skeleton as their parent.
        named = [item for item in root.iterfind("meta//labels/label") if item.find("parent") is None]
        names = unique([label_text(item.findtext("name")) for item in named])
        labels = names if named and {name for entry in entries for name in entry.present} <= set(names) else None
        subsets = [name for image in images if split_of(name := image.get("subset") or DEFAULT) is None]
        others = {name: subsets.count(name) for name in dict.fromkeys(subsets) if name != DEFAULT}
    decisions = []
    if others:
        shown = name_some((f"{name} with {counted(count, 'image')}" for name, count in others.items()), len(others), 10)
        decisions.append(f"subsets that name no split, whose images are train: {shown}")
    return make_listing(source, CVAT, entries, labels, decisions=decisions)
