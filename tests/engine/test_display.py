"""Property: on a file there are plain lines, on a terminal a bar; square brackets are never markup."""

from __future__ import annotations

import io

from rich.console import Console

from mldec.engine.display import Display


def shown(terminal: bool) -> tuple[Display, Console]:
    display = Display()
    console = Console(record=True, force_terminal=terminal, width=200, soft_wrap=True, file=io.StringIO())
    display.console = display.diagnostics = console
    return display, console


def test_lines_are_for_files_and_bars_for_terminals():
    for terminal in (False, True):
        display, console = shown(terminal)
        with display.bar("epoch 1/2", 10) as bar:
            bar.advance(1, "loss [1.0]")
        display.line("step 1 [x]")
        display.say("found [red]")
        text = console.export_text()
        assert ("step 1 [x]" in text) is not terminal
        assert "found [red]" in text


def test_the_table_has_one_header():
    display, console = shown(False)
    display.epoch_row({"epoch": "1", "raw mAP": "10.00"})
    display.epoch_row({"epoch": "2", "raw mAP": "20.00"})
    lines = console.export_text().splitlines()
    assert lines == ["      epoch    raw mAP", "          1      10.00", "          2      20.00"]


def test_a_quiet_display_says_nothing(capsys):
    display = Display(quiet=True)
    display.say("x")
    with display.bar("y", 3) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")
