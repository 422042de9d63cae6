"""Property: all commands have one grammar, print what can be used further, and do the same from Python."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import cv2
import numpy as np
import pytest

import mldec
from mldec.commands import compose
from mldec.commands.help import command_help
from mldec.commands.main import run
from mldec.commands.options import NetworkOptions, OutputFile, parse
from mldec.config import Count, build_config, to_mapping
from mldec.errors import ConfigError, DataError
from mldec.field_docs import describe_fields
from tests.commands.test_odd_options import DECLARED
from tests.curve import SCENES, make, small_experiment


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory):
    """A run directory whose name has to be quoted."""
    folder = tmp_path_factory.mktemp("trained") / "my runs" / "it's one"
    result = mldec.train(*small_experiment(digits_root), "schedule.epochs=1", f"run_dir={quoted(folder)}")
    assert result.run_dir == folder
    return result


def quoted(path: Path) -> str:
    """A path as the value of an override: Hydra's grammar has quotes of its own."""
    return '"' + str(path) + '"'


def commands(text: str) -> list[list[str]]:
    """The commands that a text offers, parsed as a shell would."""
    lines = (line[line.index("mldec ") :] for line in text.splitlines() if " mldec " in f" {line}")
    return [shlex.split(line)[1:] for line in lines]


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", DECLARED)
def test_every_option_has_a_description_that_help_prints(command):
    declared = DECLARED[command]
    meanings, text = describe_fields(declared), command_help(command, declared)
    for field in dataclasses.fields(declared):
        assert meanings.get(field.name), field.name
        assert f"\n  {field.name}=" in text
    assert max(map(len, text.splitlines())) <= 120


def test_options_of_one_name_mean_one_thing():
    """Every command that runs a trained network has the same options for it, and `best` weights by default."""
    networks = [cls for cls in DECLARED.values() if issubclass(cls, NetworkOptions)]
    assert {cls.__name__ for cls in networks} == {"EvaluateOptions", "PredictOptions", "ReportOptions"}
    shared = {field.name for field in dataclasses.fields(NetworkOptions)}
    assert shared == {"weights", "device", "batch_size", "workers", "precision"}
    for cls in DECLARED.values():
        fields = {field.name: field for field in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls, include_extras=True)
        if "weights" in fields:
            assert fields["weights"].default == "best", cls
        for name in shared & set(fields) if issubclass(cls, NetworkOptions) else ():
            assert hints[name] == typing.get_type_hints(NetworkOptions, include_extras=True)[name], (cls, name)
        assert dataclasses.is_dataclass(cls)
        assert cls.__dataclass_params__.frozen
    assert inspect.signature(mldec.load).parameters["weights"].default == "best"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    SETTINGS = ("head",)

    count: Count
    output: OutputFile | None = None
    kind: typing.Literal["a", "b"] = "a"


def test_one_parser_reads_options_settings_and_values_from_python():
    options, arguments = parse(["count=3", "head.dim=4", "kind=b"], Example, "example")
    assert (options, arguments.overrides) == (Example(count=3, kind="b"), ("head.dim=4",))
    assert parse(["kind=b"], Example, "example", count=2)[0] == Example(count=2, kind="b")
    for argv, message in {
        ("count=0",): "count=0: expected an integer ≥ 1",
        ("kind=a",): "count=… is missing",
        ("count=1", "kindd=a"): "kindd=a: no such option of mldec example; did you mean kind?",
        ("count=1", "kind=c"): "kind=c: expected one of a, b",
        ("count=1", "loss=asl"): "loss=asl: no such option of mldec example",
        ("count=1", "output=."): "output=.: is a directory; name a file in it",
        ("count=1", "--config-dir=."): "has no effect here",
    }.items():
        with pytest.raises(ConfigError) as caught:
            parse(argv, Example, "example")
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match="counts: no such setting; did you mean count"):
        parse([], Example, "example", count=1, counts=2)


def test_help_imports_neither_torch_nor_hydra():
    """So that `mldec --help` takes less than a tenth of a second."""
    code = "import sys; from mldec.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(str({'torch', 'hydra', 'numpy', 'yaml', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "set()\n"
    assert "usage: mldec COMMAND" in done.stdout


def test_output_into_a_closed_pipe_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m mldec table list | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


# What is printed ------------------------------------------------------------------------------------------------------


def test_printed_commands_can_be_pasted_and_diagnostics_go_to_standard_error(trained, digits_root, tmp_path, capsys):
    folder = tmp_path / "other's run"
    argv = [*small_experiment(digits_root), "schedule.epochs=1", "ema=none", f"run_dir={quoted(folder)}"]
    capsys.readouterr()
    assert run(["train", *argv]) == 0
    printed, diagnostics = capsys.readouterr()
    assert "warning: protocol.report=ema" in diagnostics
    assert not [line for line in printed.splitlines() if line.startswith(("warning:", "note:", "error:"))]
    found = commands(printed)
    assert [command[0] for command in found] == ["evaluate", "predict", "report"]
    for command in found:
        assert command[1] == f"run={folder}"
        assert command[2:] == (["input=DIR", "thresholds=tuned"] if command[0] == "predict" else [])
        assert run([text.replace("=DIR", f"={folder / 'images'}") for text in command]) == 0
    printed, diagnostics = capsys.readouterr()
    assert f"written to {folder / 'evaluation' / 'digits_test'}\n" in printed
    assert f"written to {folder / 'report.html'}" in printed


def test_show_prints_yaml_that_is_read_back(small_digits, tmp_path, capsys):
    assert run(["show", *small_digits, "format=yaml"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert build_config(compose.read_yaml(tmp_path / "config.yaml")) == make(small_digits)
    assert run(["show", f"run={tmp_path}", "format=yaml", "seed=3"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert build_config(compose.read_yaml(tmp_path / "config.yaml")) == make([*small_digits, "seed=3"])
    for argv in ([], ["run=/nowhere"], ["experiment=digitz"], ["dataset=null"]):
        assert run(["show", *argv]) == 2
        assert capsys.readouterr().out == ""


# From Python ----------------------------------------------------------------------------------------------------------


def test_train_gives_metrics_run_directory_and_network(trained, digits_root, tmp_path):
    assert (trained.run_dir / "checkpoints" / "best.pt").exists()
    assert 0 <= trained.metrics["mAP"] <= 100
    assert len(trained.predictor.labels) == 80
    assert trained.predictor is trained.predictor  # loaded once
    config = make([*small_experiment(digits_root), "schedule.epochs=1", f"run_dir={tmp_path / 'run'}"])
    again = mldec.train(config)
    assert again.metrics == trained.metrics
    more = mldec.train(f"resume={tmp_path / 'run'}", "schedule.epochs=2", "allow_schedule_change=true")
    assert more.run_dir == tmp_path / "run"
    for wrong in ((config, "seed=1"), ("experiment=digitz",), ("experiment=digits", "seed=0,1", "-m"), ()):
        with pytest.raises(ConfigError):
            mldec.train(*wrong)


def test_evaluate_measures_as_the_command_does(trained, tmp_path):
    found = mldec.evaluate(trained.run_dir, "protocol.top_k=[1]", split="val", output=tmp_path / "there")
    assert found.directory == tmp_path / "there"
    assert {path.name for path in found.directory.iterdir()} == {"metrics.json", "per_class_ap.csv"}
    assert "CF1@1" in found.metrics
    assert f"{SCENES['val']} images" in found.summary
    reported = mldec.evaluate(str(trained.run_dir))
    assert reported.metrics == {name: trained.metrics[name] for name in reported.metrics}
    for argv, options in (((), {"splitt": "val"}), ((), {"split": "vall"}), (("splitt=val",), {})):
        with pytest.raises(ConfigError, match="split"):
            mldec.evaluate(trained.run_dir, *argv, **options)


def test_predict_gives_labels_by_path_and_writes_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        cv2.imwrite(f"{number}.png", np.random.default_rng(number).integers(0, 255, (48, 60, 3), np.uint8))
    found = mldec.predict(trained.run_dir, "*.png", top_k=2, device="cpu", workers=0)
    assert list(found) == ["0.png", "1.png", "2.png"]
    assert found == mldec.predict(trained.run_dir, [Path("0.png"), "1.png", "2.png"], "top_k=2", device="cpu")
    predictor = mldec.load(trained.run_dir, device="cpu")
    assert list(found.values()) == predictor.predict(list(found), top_k=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]
    with pytest.raises(ConfigError, match="writes no files; use `mldec predict`"):
        mldec.predict(trained.run_dir, "*.png", output="out")
    (tmp_path / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"cannot decode image 0\.png"):
        mldec.predict(trained.run_dir, "*.png")


def test_a_config_survives_its_mapping(small_digits):
    config = make(small_digits)
    assert build_config(to_mapping(config)) == config
