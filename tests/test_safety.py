"""Property: files from others run no code, and their names do nothing to a terminal or a spreadsheet."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import numpy as np
import pytest

from mldec.commands.main import run
from mldec.engine.display import Display
from mldec.engine.evaluator import Result, Scores, write_per_class
from mldec.errors import DataError, printable
from mldec.labels import LabelSpace

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("mldec", "scripts") for path in (ROOT / folder).rglob("*.py"))


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_loaded_that_could_run_code(path: Path) -> None:
    """`torch.load` with weights_only=True written out, `numpy.load` without pickles, no `eval`, `exec` or yaml.load."""
    for call in calls(path):
        name = ast.unparse(call.func)
        written = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in ("torch.load", "torch.hub.load", "torch.jit.load"):
            assert written.get("weights_only") == "True", f"line {call.lineno}"
        if name in ("np.load", "numpy.load"):
            assert written.get("allow_pickle", "False") == "False", f"line {call.lineno}"
        assert name not in ("eval", "exec", "yaml.load", "pickle.load", "pickle.loads"), f"line {call.lineno}: {name}"
        assert "shell" not in written, f"line {call.lineno}"


def test_a_label_that_would_command_a_terminal_is_refused() -> None:
    for name in ("cat\x1b[2J", "a\nb", "\x9b31m", "nul\x00"):
        with pytest.raises(DataError, match="holds control characters"):
            LabelSpace(["dog", name])
    assert LabelSpace(["<b>bold</b>", "[red]", "naïve café", "猫"]).names[3] == "猫"


def test_control_characters_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[31mb\tc\n") == "a\\x1b[31mb\tc\n"
    Display().say("image \x1b]0;title\x07.jpg [bold]")
    assert run(["evaluate", "run=no\x1b[2Jwhere"]) == 2
    found = capsys.readouterr()
    assert "\x1b" not in found.out + found.err
    assert "image \\x1b]0;title\\x07.jpg [bold]" in found.out
    assert "no\\x1b[2Jwhere" in found.err


def test_no_label_is_a_formula(tmp_path: Path) -> None:
    names = ["=1+1", "+1", "-1", "@sum", "plain"]
    scores = Scores(np.arange(2), np.zeros((2, 5), np.float32), np.zeros((2, 5), np.int8))
    write_per_class(tmp_path / "ap.csv", Result({}, np.full(5, np.nan)), scores, LabelSpace(names))
    with (tmp_path / "ap.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["label", *(f"'{name}" for name in names[:-1]), "plain"]
