"""Properties: only regular files are read, no further than a bound, and whatever is wrong is one line with the name."""

import json
import os
import time
from pathlib import Path

import pytest

from mldec import untrusted as files
from mldec.errors import DataError
from mldec.untrusted import open_regular, open_text, read_bytes, read_json


def unusual(folder: Path) -> list[str]:
    """A pipe that nobody writes to, links to it and to a device without end, and a folder."""
    os.mkfifo(folder / "pipe")
    (folder / "to_pipe").symlink_to("pipe")
    (folder / "to_zero").symlink_to("/dev/zero")
    (folder / "folder").mkdir()
    return [str(folder / name) for name in ("pipe", "to_pipe", "to_zero", "folder")]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    for path in unusual(tmp_path):
        for read in (open_regular, open_text, read_json, lambda name: read_bytes(name, most=10)):
            with pytest.raises(DataError, match=r"not a regular file|is a folder") as caught:
                read(path)
            assert path in str(caught.value)
    assert time.monotonic() - began < 10


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "b.json").symlink_to("a.json")
    assert read_json(tmp_path / "b.json") == [1]


def test_a_sparse_file_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    path.write_text("{")
    os.truncate(path, 5 * 2**30)
    with pytest.raises(DataError, match=r"huge.json: holds NUL bytes, so it is no text in UTF-8"):
        read_json(path)
    with pytest.raises(DataError, match=r"holds NUL bytes"), open_text(path) as file:
        file.readline()
    with pytest.raises(DataError, match=r"5,368,709,120 bytes; at most 1,000 are read"):
        read_bytes(path, most=1000)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 3 * 2**20)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 2**20 + b"\n" + b"y" * 2**20 + b"\r" + b"z" * 2**20)
    with open_text(path) as file:
        assert [len(line) for line in file] == [2**20 + 1, 2**20 + 1, 2**20]
    path.write_bytes(b"x" * 5 * 2**20)
    with pytest.raises(DataError, match=r"a.txt: a line of more than"), open_text(path) as file:
        file.readline()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": "caf\xe9"}', "cannot be read as JSON"),
        (b"[1, 2", "cannot be read as JSON, or was cut short"),
        (b"[" + b"9" * 5000 + b"]", "cannot be read as JSON"),
        (b"[1]\0", "holds NUL bytes"),
        (json.dumps([1]).encode("utf-16"), "saved as UTF-16"),
        (b"", "cannot be read as JSON"),
    ],
)
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mark_of_byte_order_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert read_json(tmp_path / "a.json") == {"a": "é"}
