"""Lists of images to leave out: excluded.txt, which `mldec data verify fix=true` writes and every dataset reads.

A line names one image by its path relative to the dataset's folder, either as it is or as a JSON string in quotation
marks. The second form stands for every name, and is written wherever the first would be read as another: `"#7.jpg"`,
`"a\\nb.jpg"`, `" x.jpg"`. Empty lines and those that begin with # are ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from mldec.errors import DataError
from mldec.files import write_text
from mldec.untrusted import open_text

EXCLUDED = "excluded.txt"
HEADER = (
    "# Images that are left out, one per line; `mldec data verify fix=true` adds to it. A name that begins with # or\n"
    '# has spaces at an end stands as a JSON string, such as "#7.jpg".\n'
)


def read_exclusions(path: str | os.PathLike[str]) -> set[str]:
    """The images that a list leaves out, by their normalised paths relative to the dataset's folder.

    Raises DataError if the list cannot be read, or a line begins with a quotation mark and is no JSON string.
    """
    found = set()
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                name = line.strip()
                if name and not name.startswith("#"):
                    found.add(os.path.normpath(_unquoted(name, f"{os.fspath(path)} line {number}")))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{os.fspath(path)}: cannot be read as a list of images, one per line: {error}") from None
    return found


def add_exclusions(names: Iterable[str], path: Path) -> int:
    """Add images to a list, or begin it; its lines stay. Returns how many images it names then.

    Args:
        names: paths relative to the dataset's folder.

    Raises:
        DataError: an existing file is no such list.
    """
    known, text = set[str](), HEADER
    if path.exists():
        known = read_exclusions(path)
        with open_text(path) as file:
            text = file.read() or HEADER
    new = sorted({os.path.normpath(name) for name in names} - known)
    text += "" if text.endswith("\n") else "\n"
    write_text(path, text + "".join(f"{quoted(Path(name).as_posix())}\n" for name in new))
    return len(known) + len(new)


def quoted(name: str) -> str:
    """`name` as one line of text: as it is, or as a JSON string where a reader of lines would read another name."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if plain else json.dumps(name)


def _unquoted(name: str, where: str) -> str:
    if not name.startswith('"'):
        return name
    try:
        value = json.loads(name)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, str) or not value or "\0" in value:
        raise DataError(
            f"{where}: {name[:60]} begins with a quotation mark, so it must be a name as a JSON string; write a "
            'quotation mark within as \\"'
        )
    return value
