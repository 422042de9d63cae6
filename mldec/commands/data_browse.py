"""`mldec data browse`: images of a dataset with their labels as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mldec.files import write_text
from mldec.system import usable_cores

if TYPE_CHECKING:
    from mldec.data.index import ImageIndex


def browse(name: str, indexes: Mapping[str, ImageIndex], output: Path, *, limit: int) -> int:
    """Write the page and print what was found. Returns the exit code."""
    from mldec.engine.display import Display
    from mldec.report import browse as page
    from mldec.report.browse_images import count_checked

    display = Display()
    total = sum(map(len, indexes.values()))
    checked = count_checked(indexes)
    with display.bar(name, checked + min(limit, total)) as bar:
        folder, workers = output.absolute().parent, usable_cores()
        warnings: list[str] = []
        options = {"limit": limit, "workers": workers}
        text = page.browse(name, indexes, folder, **options, on_done=bar.advance, on_warning=warnings.append)
    for sentence in warnings:
        display.say(f"warning: {sentence}")
    write_text(output, text)
    display.say(f"{min(limit, total):,} of {total:,} images, {checked:,} checked")
    display.say(f"written to {output} ({len(text.encode()) / 1e6:.1f} MB); open it in a browser")
    return 0
