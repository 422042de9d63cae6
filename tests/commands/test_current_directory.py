"""Property: a command that is run within a dataset of a stranger runs no code of it, in no process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Modules that Python and mldec import first, and last.
MODULES = (
    "selectors",
    "socket",
    "struct",
    "tempfile",
    "json",
    "random",
    "queue",
    "torch",
    "yaml",
    "timm",
    "mldec_data",
)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "experiment=none", "seed=0,1", "-m"],
        ["train", "experiment=digits", "dataset.root=nowhere", "dataset.train=0", "runtime.devices=2"],
    ],
)
def test_no_process_imports_from_the_current_directory(tmp_path: Path, words: list[str]) -> None:
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text("open('harm', 'w').close()\nraise SystemExit('harm')\n")
    command = f"import sys; from mldec.__main__ import main; main({words!r})"  # as the mldec script does
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "harm" not in done.stdout + done.stderr
    assert not (tmp_path / "harm").exists()


def test_a_plugin_is_imported_from_the_current_directory_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('mine is imported')\n")
    words = ["train", "plugins=[mine]", "experiment=none", "seed=0,1", "-m"]
    command = [sys.executable, "-P", "-c", f"from mldec.__main__ import main; main({words!r})"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.count("mine is imported") == 2
