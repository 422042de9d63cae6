"""`scripts/gpu_check.py` and `scripts/gpu_wheels.py`: missing packages are installed beside, the budget is kept."""

import importlib.util
import json
import os
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import gpu_check
import gpu_wheels
import pytest
import torch
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder with a wheel of numpy, which is installed, and one of a package that is not."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("numpy", "only_in_a_wheel"):
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "value = 7\n")
            about = f"{name}-1.0.dist-info"
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(gpu_check, "WHEELS", folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def test_only_what_is_lacking_is_installed_and_only_beside(wheels, tmp_path, monkeypatch):
    monkeypatch.setitem(gpu_check.MODULES, "only_in_a_wheel", "only-in-a-wheel")
    environment = gpu_check.prepare(tmp_path / "check", on_gpu=False)
    assert [path.name for path in (tmp_path / "check" / "site").glob("*.py")] == ["only_in_a_wheel.py"]
    assert importlib.util.find_spec("only_in_a_wheel").origin.startswith(str(tmp_path))
    assert str(tmp_path / "check" / "site") in environment["PYTHONPATH"].split(os.pathsep)


def test_what_is_neither_installed_nor_in_the_wheels_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(gpu_check, "WHEELS", tmp_path)
    monkeypatch.setitem(gpu_check.MODULES, "no_such_module", "no-such-package")
    with pytest.raises(gpu_check.Problem, match=r"has no no-such-package, and .wheels has none; run make gpu-wheels"):
        gpu_check.prepare(tmp_path / "check", on_gpu=False)


def test_without_a_gpu_it_says_so_and_leaves_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(gpu_check, "WHEELS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert "torch finds no CUDA device; device=cpu tiny=true records=DIR rehearses" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bugdet=3"], "bugdet: no such option; allowed: budget,"),
        (["budget=8m"], "budget=8m: expected whole seconds above 0"),
        (["tests=no"], "tests=no: expected true or false"),
        (["device=cpu"], "is for records of a GPU at full size; use records=DIR"),
    ],
)
def test_bad_input_is_refused_before_anything_is_installed(arguments, message, capsys):
    assert gpu_check.main(arguments) == 2
    assert message in capsys.readouterr().err


REPORT = """<testsuites><testsuite>
<testcase name="one"><properties><property name="digits in bf16: test mAP" value="98.75 %"/></properties></testcase>
<testcase name="two"><failure message="far"/></testcase>
<testcase name="three"><skipped/></testcase>
</testsuite></testsuites>"""


def test_tests_come_first_measurements_get_the_rest_and_each_leaves_its_record(tmp_path, monkeypatch, capsys):
    called = []

    def call(command, environment, seconds):
        called.append((command, seconds))
        if "pytest" in command:
            report = next(a for a in command if a.startswith("--junitxml="))
            Path(report.partition("=")[2]).write_text(REPORT)
            return 1
        return 0

    monkeypatch.setattr(gpu_check, "call", call)
    monkeypatch.setattr("mldec.engine.environment._git_commit", lambda: None)
    options = gpu_check.parse([f"records={tmp_path}", "device=cpu", "commit=0123abc", "loop"])
    assert gpu_check.check(options, {}, tmp_path, time.monotonic() + 480) == 1
    (tests, for_tests), (measure, _) = called  # and no page, which is that of the records in docs
    assert 230 < for_tests <= 240
    assert tests[-1].endswith("tests/engine/test_cuda.py")
    budget = next(a for a in measure if a.startswith("budget="))
    assert 450 <= int(budget.removeprefix("budget=")) <= 460
    assert {f"records={tmp_path}", "device=cpu", "tiny=false", "commit=0123abc", "loop"} <= set(measure)
    record = json.loads((tmp_path / "tests_gpu.json").read_text())
    assert record["environment"]["commit"] == "0123abc"
    assert record["figures"] == [
        {"name": "tests passed", "value": 1, "unit": "of 3", "better": "higher", "note": "failed: two"},
        {"name": "digits in bf16: test mAP", "value": 98.75, "unit": "%"},
    ]
    assert "gpu-check: failed: tests; records in" in capsys.readouterr().out


@pytest.mark.parametrize(("device", "chosen"), [("cuda", "cuda"), ("cuda:1", "cuda"), ("cpu", "not slow and not cuda")])
def test_the_tests_are_those_that_are_marked(device, chosen, tmp_path):
    command = gpu_check.test_command(device, tmp_path)
    assert command[command.index("-m", 3) + 1] == chosen


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_what_takes_too_long_is_ended_with_all_that_it_began(tmp_path, capsys):
    child = tmp_path / "child"
    began = time.monotonic()
    assert gpu_check.call(["sh", "-c", f"sleep 300 & echo $! > {child}; wait"], os.environ, 1.0) == 124
    assert time.monotonic() - began < 60
    assert "for lack of time" in capsys.readouterr().out
    state = Path(f"/proc/{int(child.read_text())}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and " Z " not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not state.exists() or " Z " in state.read_text()


# Wheels ---------------------------------------------------------------------------------------------------------------


def test_every_dependency_is_required_by_the_check():
    assert set(gpu_check.MODULES.values()) == {Requirement(line).name for line in DEPENDENCIES} | {"pytest"}


def test_what_mldec_needs_is_included_but_never_what_belongs_to_the_driver():
    included = {each.partition("==")[0] for each in gpu_wheels.needed_packages("3.12")}
    assert {
        "hydra-core",
        "omegaconf",
        "antlr4-python3-runtime",
        "pycocotools",
        "albumentations",
        "pydantic",
    } <= included
    everything = {each.partition("==")[0] for each in gpu_wheels.needed_packages("3.12", gpu_wheels.ASSUMED)}
    assert not everything & {"torch", "torchvision", "timm", "numpy", "triton", "typing-extensions"}
    assert everything - included >= {"scipy", "opencv-python-headless"}
    assert set(gpu_check.MODULES.values()) <= everything | gpu_wheels.closure(gpu_wheels.OF_TORCH, "3.12")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lack=scipy"], "lack: no such option; allowed: python, lacks"),
        (["lacks=torch"], "lacks=torch: allowed are opencv-python-headless, scipy"),
        (["python=3"], "python=3: expected a version such as 3.12"),
    ],
)
def test_bad_words_are_refused_before_anything_is_downloaded(arguments, message, capsys):
    assert gpu_wheels.main(arguments) == 2
    assert message in capsys.readouterr().err
