"""Which export a file or folder is."""

from __future__ import annotations

from mldec.data.own.listing import Listing


def recognise(path: str) -> Listing | None:
    """The listing of an export; None for what is none that is known."""
    return None
