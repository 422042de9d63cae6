"""The annotations of a dataset whose images are shrunk: boxes adjusted, all other files copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mldec.data.coco import CocoConfig, CocoJsonConfig
from mldec.data.dataset import FilesConfig
from mldec.data.shrink import copy_regular, shrink_coco_json, shrink_voc_xml
from mldec.data.voc import VocConfig


def shrink_annotations(
    config: Any, output: Path | None, places: Mapping[str, str], copied: Sequence[str]
) -> dict[str, str]:
    """Write annotations with their boxes adjusted. Returns settings that the new dataset needs beside its root.

    Args:
        output: the new dataset's directory; None: only check that all can be adjusted, and write nothing.
        places: the directory of each split's images, relative to the dataset's.
        copied: other files of the dataset, relative to its directory.
    """
    folder = Path(config.folder)

    def new(*parts: str) -> Path | None:
        return None if output is None else output.joinpath(*parts)

    if isinstance(config, CocoConfig):
        for place in places.values():
            name = f"annotations/instances_{place}.json"
            shrink_coco_json(folder / name, new(place), new(name))
    if isinstance(config, VocConfig):
        for path in (Path(name) for name in copied if Path(name).parent.name == "Annotations"):
            if path.suffix == ".xml":
                image = str(path.parent.parent / "JPEGImages" / f"{path.stem}.jpg")
                shrink_voc_xml(folder / path, new(image), new(str(path)))
    settings: dict[str, str] = {}
    if isinstance(config, FilesConfig):
        taken = set(copied)
        for split, place in places.items():
            file, home = Path(config.file(split)).resolve(), folder.resolve()
            name = str(file.relative_to(home)) if file.is_relative_to(home) else file.name
            if not file.is_relative_to(home) and name in taken:  # of another file
                name = f"{split}-{name}"
            taken.add(name)
            if isinstance(config, CocoJsonConfig):
                shrink_coco_json(file, new(place), new(name))
                settings[f"dataset.{split}_images"] = str(new(place))
            elif output is not None:
                copy_regular(file, output / name)
            settings[f"dataset.{split}"] = str(new(name))
    return settings
