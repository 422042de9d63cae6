"""Property: a file is whole or what it was before, and nothing unfinished stays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mldec.errors import ConfigError
from mldec.files import remove_partial, replacing


def fail(path: Path, error: BaseException) -> None:
    with replacing(path) as partial:
        partial.write_text("half of the n")
        raise error


def test_a_write_that_fails_leaves_what_was_there_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "below" / "figures.json"
    with replacing(path) as partial:
        assert partial.suffix == ".json"
        partial.write_text("old")
    with pytest.raises(OSError, match=r"cannot write: No space left on device.*figures\.json"):
        fail(path, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        fail(path, KeyboardInterrupt())
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", [".", "below"])
def test_a_directory_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("below").mkdir()
    with pytest.raises(ConfigError, match=r"is a directory; name a file in it"), replacing(name):
        pass


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [
        tmp_path / name
        for name in ("a.partial", ".hidden", "checkpoints/best.pt", "partial.csv", "other/.best.pt.8.partial")
    ]
    left = [tmp_path / name for name in (".config.yaml.partial.yaml", "checkpoints/.best.pt.77.partial")]
    for path in (*kept, *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_partial(tmp_path, tmp_path / "checkpoints", tmp_path / "absent")
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)
