"""Property: the commands do what their options describe: text, files and exit codes."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mldec.commands import compose
from mldec.commands.evaluate import EvaluateOptions, measured_config
from mldec.commands.main import COMMANDS, run
from mldec.commands.options import parse
from mldec.config import build_config
from mldec.data.dataset import DatasetConfig
from mldec.engine.metric_writer import read_records
from mldec.registry import HEADS
from tests.forked import begin, finish

ROOT = Path(__file__).parent.parent.parent
TINY_COCO = ROOT.parent / "shared" / "data" / "tiny_coco"


def only_run(parent: Path) -> Path:
    (folder,) = parent.iterdir()
    return folder


def test_help_names_every_command_and_every_command_helps(capsys):
    assert run([]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command in text
        assert run([command, "--help"]) == 0
        assert f"usage: mldec {command}" in capsys.readouterr().out


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys):
    for argv in (
        ["trian"],
        ["train", "experiment=digits", "hed=gap"],
        ["evaluate"],
        ["evaluate", "run=/nowhere"],
        ["train", "resume=/nowhere"],
    ):
        assert run(argv) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert "Traceback" not in captured.err


def test_debug_true_shows_the_traceback(capsys):
    assert run(["train", "experiment=digits", "hed=gap", "debug=true"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_nothing_is_left_behind_by_an_experiment_that_is_refused(small_digits, tmp_path, capsys):
    overrides = [*small_digits, f"output={tmp_path / 'outputs'}"]
    assert run(["train", *overrides, "head.num_groups=120"]) == 2  # only the labels show that it is wrong
    assert "exceeds the 80" in capsys.readouterr().err
    assert run(["train", *overrides, "loss=ce"]) == 2
    assert "loss=asl or loss=bce" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_directory_that_cannot_be_made_is_one_line(small_digits, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["train", *small_digits, f"output={tmp_path / 'file'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(tmp_path / "file") in error
    assert "Traceback" not in error


def test_train_then_evaluate_gives_the_same_figures(small_digits, tmp_path, capsys):
    assert run(["train", *small_digits, f"output={tmp_path}"]) == 0
    folder = only_run(tmp_path / "digits")
    assert str(folder) in capsys.readouterr().out
    assert {"config.yaml", "environment.json", "data.json", "metrics.jsonl"} <= {path.name for path in folder.iterdir()}
    assert run(["evaluate", f"run={folder}"]) == 0
    record = json.loads((folder / "evaluation" / "digits_test" / "metrics.json").read_text())
    test = read_records(folder / "metrics.jsonl")[-1]
    assert record["metrics"] == {name: test[name] for name in record["metrics"]}
    assert record["protocol"]["name"] == "standard"
    assert record["data"] == json.loads((folder / "data.json").read_text())["test"]
    table = (folder / "evaluation" / "digits_test" / "per_class_ap.csv").read_text()
    assert table == (folder / "per_class_ap.csv").read_text()
    assert len(list(csv.reader(table.splitlines()))) == 81

    # By file, other split, other protocol, other place.
    overrides = [
        f"run={folder / 'checkpoints' / 'last.pt'}",
        "split=val",
        "weights=raw",
        "protocol=paper",
        f"output={tmp_path / 'there'}",
    ]
    assert run(["evaluate", *overrides]) == 0
    other = json.loads((tmp_path / "there" / "metrics.json").read_text())
    assert (other["split"], other["weights"], other["protocol"]["name"]) == ("val", "raw", "paper")
    assert other["metrics"]["classes_counted"] == 80  # the paper's AP is 0 for empty classes, not undefined


def test_val_is_what_the_run_held_out_and_limits_are_lifted(small_digits, tmp_path, capsys):
    """A run of the paper's protocol trained on all of train; another share of it as val would have been trained on."""
    overrides = [*small_digits, "runtime.limit_eval_batches=1", "runtime.eval_batch_size=8", "schedule.epochs=1"]
    assert run(["train", *overrides, "protocol.holdout=0.3", f"run_dir={tmp_path / 'run'}"]) == 0
    overrides = [
        "evaluate",
        f"run={tmp_path / 'run'}",
        "split=val",
        "protocol.holdout=0.9",
        f"output={tmp_path / 'there'}",
    ]
    assert run(overrides) == 0
    record = json.loads((tmp_path / "there" / "metrics.json").read_text())
    assert record["protocol"]["holdout"] == 0.3
    assert record["images"] == 24


def test_a_resumed_run_does_not_look_for_its_first_weights_again(small_digits, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(["train", *small_digits, f"run_dir={first}", "schedule.epochs=1"]) == 0
    assert run(["train", *small_digits, f"run_dir={second}", f"init_from={first}"]) == 0
    shutil.rmtree(first)
    assert run(["train", f"resume={second}", "schedule.epochs=3", "allow_schedule_change=true"]) == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_sweep_that_is_stopped_lets_the_run_save(signum, code, small_digits, tmp_path):
    """Ctrl-C reaches all processes of a terminal; a scheduler's signal may reach the first alone."""
    overrides = [*small_digits, f"output={tmp_path / 'runs'}", "schedule.epochs=500", "seed=0,1", "-m"]
    said = tmp_path / "said"
    process = begin(["train", *overrides], output=str(said))  # in a session of its own, as of a terminal
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/sweep/*/*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(process.pid, signum) if signum == signal.SIGINT else os.kill(process.pid, signum)
        process.join(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.exitcode == code, said.read_text()
    folder = only_run(only_run(tmp_path / "runs" / "sweep"))  # the second run did not begin
    assert f"mldec train resume={folder}" in said.read_text()


def test_another_dataset_is_shown_as_the_run_saw_its_own():
    """A run of 64 px is not measured at the 448 px that COCO's own networks see, nor at another crop."""
    trained = build_config(compose.compose(["dataset=digits", "dataset.crop=0.9", "dataset.interpolation=bilinear"]))

    def measured(*overrides: str) -> DatasetConfig:
        return measured_config(trained, parse(["run=x", *overrides], EvaluateOptions, "evaluate")[1]).dataset

    other = measured("dataset=coco", "dataset.root=/data")
    assert (other.name, other.root) == ("coco", "/data")
    assert (other.image_size, other.crop) == (trained.dataset.image_size, 0.9) == (64, 0.9)
    assert other.interpolation == "bilinear"
    assert measured("dataset=coco", "dataset.image_size=224").image_size == 224
    assert measured("dataset=coco", "dataset.crop=null").crop is None
    assert measured("dataset.root=/elsewhere").image_size == 64


def test_evaluate_refuses_other_labels(small_digits, tmp_path, capsys):
    assert run(["train", *small_digits, f"run_dir={tmp_path / 'run'}", "schedule.epochs=1"]) == 0
    assert run(["evaluate", f"run={tmp_path / 'run'}", "dataset.colours=3", small_digits[1]]) == 2
    assert "other labels (30) than the checkpoint (80)" in capsys.readouterr().err
    assert run(["train", *small_digits, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_resume_takes_harmless_changes_and_refuses_those_of_the_course(small_digits, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(["train", *small_digits, f"run_dir={folder}"]) == 0
    assert run(["train", f"resume={folder}", "runtime.workers=1"]) == 0
    assert "note: changed runtime.workers: 0 -> 1" in capsys.readouterr().err
    for change in ("schedule.epochs=3", "seed=5", "head.dim=64"):
        assert run(["train", f"resume={folder}", change]) == 2
        assert f"{change.partition('=')[0]}" in capsys.readouterr().err
    assert run(["train", f"resume={folder}", "schedule.epochs=3", "allow_schedule_change=true"]) == 0
    evaluated = [r["epoch"] for r in read_records(folder / "metrics.jsonl") if r["kind"] == "eval"]
    assert evaluated == [1, 2, 3]
    assert run(["train", f"resume={folder}", "head.dim=64", "allow_schedule_change=true"]) == 2


def test_ctrl_c_leaves_a_run_that_can_be_resumed(small_digits, tmp_path):
    folder = tmp_path / "run"
    overrides = [
        sys.executable,
        "train.py",
        *small_digits,
        f"run_dir={folder}",
        "schedule.epochs=500",
        "runtime.workers=1",
    ]
    process = subprocess.Popen(overrides, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while len(read_records(folder / "metrics.jsonl")) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert f"mldec train resume={folder}" in output
    assert (folder / "checkpoints" / "last.pt").exists()


def test_several_runs_have_no_directory_in_common(small_digits, tmp_path, capsys):
    assert run(["train", *small_digits, f"run_dir={tmp_path / 'one'}", "seed=0,1", "-m"]) == 2
    assert "each run needs a directory of its own; use output=DIR" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()


def test_a_sweep_runs_every_combination_in_its_own_process(small_digits, tmp_path):
    overrides = [*small_digits, f"output={tmp_path}", "schedule.epochs=1", "head.num_groups=20,80", "-m"]
    said = tmp_path / "said"
    finish(["train", *overrides], output=str(said))
    output = said.read_text()
    configs = [compose.read_yaml(folder / "config.yaml") for folder in only_run(tmp_path / "sweep").iterdir()]
    assert sorted(config["head"]["num_groups"] for config in configs) == [20, 80]
    shown = [line.split() for line in output.splitlines() if line.startswith("head.num_groups=")]
    assert [words[0] for words in shown] == ["head.num_groups=20", "head.num_groups=80"]
    assert re.search(r"differences are paired over \d+ labels of one seed", output)


def test_show_prints_size_cost_and_schedule_and_writes_nothing(small_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["show", *small_digits]) == 0
    text = capsys.readouterr().out
    assert "6 = 2 epochs of 3 steps of 32 images" in text
    assert "multiply-accumulates" in text
    assert run(["show", "experiment=coco_tresnet_l", "num_labels=80"]) == 0
    text = capsys.readouterr().out
    assert "51,337,936 parameters, 51,276,496 trained" in text  # paper §1.5
    assert "36.15 G multiply-accumulates" in text  # paper §3.6
    assert os.listdir(tmp_path) == []


def test_plugins_register_components_of_ones_own(small_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(HEADS, "_components", dict(HEADS._components))  # what the plugin adds goes with the test
    (tmp_path / "my_parts.py").write_text(
        "from dataclasses import dataclass\n"
        "from mldec.config import ComponentConfig\n"
        "from mldec.models.heads.gap import GlobalAveragePool\n"
        "from mldec.registry import HEADS\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class MyConfig(ComponentConfig):\n    scale: float = 1.0\n\n"
        "@HEADS.register('my_head', MyConfig)\n"
        "def build(config, *, in_features, labels):\n    return GlobalAveragePool(in_features, len(labels))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = [override for override in small_digits if not override.startswith("head.")]
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "mine.yaml").write_text("name: my_head\n")
    overrides = [
        *mine,
        "head=mine",
        "head.scale=2.0",
        f"run_dir={tmp_path / 'run'}",
        "schedule.epochs=1",
        f"--config-dir={tmp_path}",
    ]
    assert run(["train", *overrides, "plugins=[my_parts]"]) == 0
    assert run(["evaluate", f"run={tmp_path / 'run'}", "plugins=[my_parts]"]) == 0
    assert run(["train", *overrides, "plugins=[no_such_module]"]) == 2
    assert "plugins=no_such_module" in capsys.readouterr().err


@pytest.mark.skipif(not TINY_COCO.exists(), reason="the real COCO sample is not here")
def test_the_paper_s_experiment_starts_on_a_real_coco_folder(tmp_path, capsys):
    """At 96 px and two batches at a time, to be a matter of seconds; nothing else of the recipe changes."""
    overrides = [
        "experiment=coco_tresnet_l",
        f"dataset.root={TINY_COCO}",
        "dataset.year=2017",
        "dataset.image_size=96",
        "backbone.pretrained=false",
        "schedule.epochs=1",
        "schedule.batch_size=10",
        "runtime=cpu",
        "runtime.workers=1",
        "runtime.limit_train_batches=2",
        "runtime.limit_eval_batches=2",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert run(["train", *overrides]) == 0
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert records[-1]["kind"] == "test"
    assert records[-1]["protocol"] == "paper"
    assert records[-1]["classes_counted"] == 80
