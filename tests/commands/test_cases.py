"""Property: cases of users whose options were renamed hold under the new names: 57, 65, 67 and 68 of shared/cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mldec.commands.main import run
from tests.curve import SMALLER, small_experiment


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run(["train", *small_experiment(digits_root), *SMALLER, "schedule.epochs=1", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def image(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)).save(name)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], named: str) -> None:
    """Exit code 2 and one error line that names what is wrong."""
    capsys.readouterr()
    assert run(argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert named in line


def listed(path: str) -> list[str]:
    return [json.loads(line)["path"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_57_fix_leaves_out_the_right_image(capsys):
    """Of two broken images called '#7.jpg' and 'x<newline>p03.jpg' none stays; p03.jpg, which is sound, does."""
    sound, broken = [f"p0{number}.jpg" for number in range(6)], {"hash": "#7.jpg", "newline": "x\np03.jpg"}
    for name in sound:
        image(name)
    for name in broken.values():
        Path(name).write_bytes(b"broken")
    rows = [{"path": name, "labels": [f"is{name[:3]}"]} for name in sound]
    rows += [{"path": name, "labels": [kind]} for kind, name in broken.items()]
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = ["dataset=table", "dataset.train=t.jsonl"]
    assert run(["data", "verify", *table, "workers=1", "fix=true", "output=problems.txt"]) == 0
    assert run(["data", "stats", *table, "output=stats"]) == 0
    labels = json.loads(Path("stats/train.json").read_text())["labels"]
    present = {label["label"]: label["present"] for label in labels}
    assert [present[f"is{name[:3]}"] for name in sound] == [1] * 6
    assert present["hash"] == present["newline"] == 0


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "normalization": lambda c: {"normalization": {"mean": [0.0] * 4, "std": [1.0] * 3}},
    "ema": lambda c: {"ema": [1]},
    "model": lambda c: {"model": {1: torch.zeros(1)}, "ema": None, "reported": "raw"},
    "reported": lambda c: {"reported": "foo"},
}


@pytest.mark.parametrize("field", CHANGES)
def test_65_a_wrong_field_of_a_checkpoint_is_refused_by_name(field, trained, capsys):
    image("a.jpg")
    assert run(["predict", f"run={trained}/checkpoints/best.pt", "input=a.jpg", "weights=best", "top_k=1"]) == 0
    content = torch.load(trained / "checkpoints" / "best.pt", weights_only=True)
    torch.save(content | CHANGES[field](content), f"{field}.pt")
    refused(["predict", f"run={field}.pt", "input=a.jpg", "weights=best", "top_k=1"], capsys, f"{field}.pt")


def test_67_wrong_values_are_refused_in_one_line(trained, digits_root, capsys):
    image("a.jpg")
    assert run(["predict", f"run={trained}", "input=a.jpg", "top_k=2"]) == 0
    refused(["predict", f"run={trained}", "input=a.jpg", "top_k=²"], capsys, "top_k")
    train = ["train", *small_experiment(digits_root), *SMALLER, "debug=fast"]
    refused([*train, "seed=18446744073709551616", "run_dir=x"], capsys, "seed")
    Path("file").write_text("")
    refused([*train, "run_dir=file"], capsys, "file")


def test_68_predictions_lose_no_image_and_overwrite_no_input(trained, capsys):
    long = "a" * 251 + ".jpg"
    for name in ("p00.jpg", "p01.jpg", "p02.jpg", long):
        image(f"p/{name}")
    for name in ("p00.jpg", "p01.jpg", "p02.jpg"):
        image(f"q/{name}")
    predict = ["predict", f"run={trained}", "top_k=1"]
    assert run([*predict, "input=p", "output=o", "annotated=true"]) in (0, 1)
    assert sorted(Path(path).name for path in listed("o/predictions.jsonl")) == sorted(
        ["p00.jpg", "p01.jpg", "p02.jpg", long]
    )
    for _ in range(2):  # the second time its own drawings lie among the input
        assert run([*predict, "input=q", "output=q/out", "annotated=true"]) == 0
        assert len(listed("q/out/predictions.jsonl")) == 3
    Path("list.csv").write_text("p/p00.jpg\np/p01.jpg\n")
    refused([*predict, "input=@list.csv", "output=list.csv"], capsys, "list.csv")
    assert Path("list.csv").read_text() == "p/p00.jpg\np/p01.jpg\n"
