"""Property: no file, name or value from a stranger commands a terminal or forges a page, whatever command shows it."""

import ast
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from huggingface_hub import ModelCard

from mldec.commands.main import run
from mldec.commands.options import say
from mldec.engine.export.model_card import model_card
from mldec.engine.settings_file import read_settings, write_settings
from mldec.errors import printable
from tests.engine.test_model_card import description

COMMANDS = Path(__file__).parents[2] / "mldec" / "commands"
EVIL = "\x1b]0;pwned\x07\x9b2J\u202e"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """All that was printed, without a character that a terminal would obey."""
    text = "".join(capsys.readouterr())
    assert not set("\x1b\x07\x9b\u202e\r") & set(text), text
    return text


def test_text_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a {EVIL}\nb")
    say(EVIL, error=True)
    found = capsys.readouterr()
    assert found.out == "a \\x1b]0;pwned\\x07\\x9b2J\\u202e\nb\n"
    assert found.err == "\\x1b]0;pwned\\x07\\x9b2J\\u202e\n"


@pytest.mark.parametrize("path", sorted(COMMANDS.glob("*.py")), ids=lambda path: path.stem)
def test_commands_print_escaped_text_only(path: Path) -> None:
    """`print` takes what names nothing (usage, version), or text that `printable` has escaped."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
            text = ast.unparse(node.args[0])
            assert "printable(" in text or (path.stem == "main" and "{" not in text), f"line {node.lineno}: {text}"


def test_a_setting_that_is_left_out_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(
        f"# @package _global_\ndefaults:\n- digits\n- _self_\nhead:\n  dim: {json.dumps(EVIL)}\n"
    )
    words = ["show", f"--config-dir={tmp_path}", "experiment=evil", "head=gap", "num_labels=3"]
    run(words)
    assert "left out head.dim=\\x1b]0;pwned" in printed(capsys)


def test_names_of_images_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"a{EVIL}\nerror: forged.jpg"
    (tmp_path / name).write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "b.jpg"), np.zeros((9, 9, 3), np.uint8))
    rows = [{"path": name, "labels": ["cat"]}, {"path": "b.jpg", "labels": ["cat"]}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = [f"dataset.train={tmp_path / 't.jsonl'}", "dataset=table", "workers=1", f"output={tmp_path / 'p.txt'}"]
    assert run(["data", "verify", *dataset]) == 1
    text = printed(capsys)
    assert "\\nerror: forged.jpg" in text
    assert not any(line.startswith("error: forged") for line in text.splitlines())


def test_files_among_the_records_of_a_table_forge_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "records"
    records.mkdir()
    (records / f"{EVIL}`![x](y)\n# Forged.json").write_text("{}")
    (records / "value.json").write_text(json.dumps({"version": f"{EVIL}\n# Forged"}))
    (records / "name.json").write_text(json.dumps({"version": 1, f"{EVIL}\n# Forged": 1}))
    words = ["1", "scale=desk", "report_only=true", f"records={records}", f"output={tmp_path / 'out'}"]
    assert run(["table", *words]) in (0, 1)
    for text in (printed(capsys), (tmp_path / "out" / "table1.md").read_text()):
        assert "Forged" in text
        assert "\x1b" not in text
        assert not any(line.startswith("# Forged") for line in text.splitlines())
        assert "'![x](y)\\n# Forged.json` (" in text


def test_settings_and_model_cards_are_safe_to_print(tmp_path: Path) -> None:
    """A mark of the text direction is written as its code, and read back as itself."""
    settings = {"name": EVIL, "plain": "naïve 猫", "list": [f"a\n{EVIL}"], EVIL: 1}
    path = tmp_path / "config.yaml"
    path.write_text(write_settings(settings), encoding="utf-8")
    assert printable(path.read_text(encoding="utf-8")) == path.read_text(encoding="utf-8")
    assert read_settings(path) == settings
    assert "naïve 猫" in write_settings({"plain": "naïve 猫"})
    card = model_card(description(["cat\u202e"]) | {"name": f"b{EVIL}"}, {}, {}, [])
    assert printable(card) == card
    assert ModelCard(card).data.to_dict()["model-index"][0]["name"] == f"b{EVIL}"
