"""Property: what is written into a list of images to leave out is what is read from it, for every name of a file."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mldec.data.exclusions import add_exclusions, quoted, read_exclusions
from mldec.data.verify import Problem, write_list
from mldec.errors import DataError

# Whatever a file may be called: all but / and NUL, halves of characters (bytes that are no UTF-8) among them.
parts = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8).filter(lambda p: p not in (".", ".."))
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sets(paths, max_size=5), max_size=3))
@example([{"#7.jpg"}, {"x\np03.jpg", " a.jpg", "a.jpg "}, {'"b.jpg"', "\ufeffc.jpg", "d\r.jpg", "e\x85.jpg"}])
@example([{"\u2028.jpg", "\u3000", "caf\udce9.jpg", "\\n.jpg", '"'}])
def test_every_name_comes_back(tmp_path_factory: pytest.TempPathFactory, rounds: list[set[str]]) -> None:
    path = tmp_path_factory.mktemp("list") / "excluded.txt"
    known: set[str] = set()
    for names in rounds:
        known |= names
        assert add_exclusions(names, path) == len(known)
        assert read_exclusions(path) == known


def test_a_list_by_hand_stays_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "excluded.txt"
    path.write_text("# mine\n\n  a.jpg  \n./sub//b.jpg", encoding="utf-8-sig")
    assert read_exclusions(path) == {"a.jpg", "sub/b.jpg"}
    assert add_exclusions(["a.jpg", "#c.jpg", "d.jpg"], path) == 4
    assert path.read_text(encoding="utf-8-sig") == '# mine\n\n  a.jpg  \n./sub//b.jpg\n"#c.jpg"\nd.jpg\n'


@pytest.mark.parametrize("line", ['"a.jpg', '"a.jpg" b', '""', '"a\\u0000"', '"' + "[" * 100_000])
def test_a_line_that_could_mean_two_names_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.txt").write_text(f"b.jpg\n{line}\n")
    with pytest.raises(DataError, match=r"x.txt line 2: .* begins with a quotation mark"):
        read_exclusions(tmp_path / "x.txt")


def test_broken_images_of_any_name_are_listed_one_a_line(tmp_path: Path) -> None:
    names = ["#7.jpg", "x\np03.jpg", "tab\t.jpg", "plain.jpg"]
    problems = [Problem(str(tmp_path / name), f"cannot read image {tmp_path / name}: no") for name in names]
    write_list(problems, tmp_path / "out" / "problems.txt")
    lines = (tmp_path / "out" / "problems.txt").read_text().split("\n")
    assert len(lines) == len(names) + 1
    assert [line.count("\t") for line in lines[:-1]] == [1] * len(names)
    assert add_exclusions(names, tmp_path / "excluded.txt") == len(names)
    assert read_exclusions(tmp_path / "excluded.txt") == set(names)


def test_plain_names_stay_plain() -> None:
    for name in ("a.jpg", "sub/ü b.jpg", "猫.png", "a#b.jpg", 'a"b.jpg', "a\\b.jpg"):
        assert quoted(name) == name


def test_a_list_that_is_no_file_of_text_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_exclusions(tmp_path / "pipe")
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as a list"):
        add_exclusions(["a"], tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"\xff\xfe"
