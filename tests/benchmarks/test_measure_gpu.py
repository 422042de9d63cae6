"""`scripts/measure_gpu.py`, as far as that can be told without a GPU: its order, its budget, its records."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from mldec.benchmarks import gpu, rate
from mldec.commands import benchmark_subjects, compose
from mldec.commands.benchmark_subjects import REPORT_WORDS, SUBJECTS
from mldec.engine import config_checks, environment

SCRIPTS = Path(__file__).parents[2] / "scripts"
spec = importlib.util.spec_from_file_location("measure_gpu", SCRIPTS / "measure_gpu.py")
measure_gpu = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = measure_gpu  # where dataclasses look up their annotations
spec.loader.exec_module(measure_gpu)


def parsed(name: str, **options) -> tuple[str, compose.Arguments]:
    subject, *words = gpu.benchmark_words(name, **options)
    return subject, compose.parse(words, own=(*SUBJECTS[subject].words, *REPORT_WORDS))


@pytest.mark.parametrize("name", gpu.RUNS)
def test_each_measurement_is_an_experiment_that_fits_together(name):
    subject, arguments = parsed(name)
    if subject == "model":
        for case in benchmark_subjects._cases(arguments):
            config_checks.check_config(case.config)
            assert (case.config.runtime.device, case.config.runtime.precision) == ("cuda", "bf16")
    else:
        config = benchmark_subjects._experiment(arguments, "digits")
        assert (config.runtime.device, config.runtime.precision) == ("cuda", "bf16")


def test_the_paper_s_table_9_comes_first_then_the_largest_network_then_three_that_are_compiled():
    cases = [benchmark_subjects._cases(parsed(name)[1]) for name in list(gpu.RUNS)[:7]]
    for found, labels in zip(cases[:3], (100, 1000, 5000), strict=True):
        assert [(case.config.head.name, case.num_labels) for case in found] == [
            (head, labels) for head in ("gap", "ml_decoder", "transformer_decoder")
        ]
        assert {(case.config.backbone.name, case.config.dataset.image_size) for case in found} == {("tresnet_m", 224)}
        assert found[1].config.head.num_groups == 100
    assert {(case.config.backbone.name, case.config.dataset.image_size) for case in cases[3]} == {("tresnet_l", 448)}
    assert [case.config.runtime.compile for found in cases for case in found] == [False] * 11 + [True] * 3


def test_a_rehearsal_keeps_what_is_compared_and_shrinks_the_rest():
    for name in gpu.RUNS:
        large, small = (
            dict(word.split("=", 1) for word in gpu.benchmark_words(name, tiny=t)[1:]) for t in (False, True)
        )
        assert large.keys() <= small.keys()
        for key in ("experiment", "heads", "runtime.channels_last", "largest_batch"):
            assert small.get(key) == large.get(key)
        assert small.get("runtime.compile", "false") == "false"


#: One of each subject, and of each kind of network.
REHEARSED = ("table9_100", "resnet50_compiled_channels_last", "loop", "loss")


@pytest.mark.parametrize(
    "names",
    [REHEARSED, pytest.param(tuple(name for name in gpu.RUNS if name not in REHEARSED), marks=pytest.mark.slow)],
)
def test_rehearsed_on_the_cpu_each_leaves_a_record(names, tmp_path, monkeypatch):
    monkeypatch.setattr(rate, "matrix_side", lambda device: 64)
    monkeypatch.setattr(tracking, "_git_commit", lambda: None)
    words = ["device=cpu", "tiny=true", f"records={tmp_path}", "commit=0123abc"]
    assert measure_gpu.main([*names, *words]) == 0
    for name in names:
        record = json.loads((tmp_path / f"{name}_gpu.json").read_text())
        assert record["environment"]["commit"] == "0123abc"
        assert record["environment"]["precision"] == ("float32" if name == "loss" else "bfloat16")
        assert record["took"] > 0
        for figure in record["figures"]:
            if figure["value"] is None:
                assert "CUDA" in figure["note"], figure


def test_a_record_of_cuda_names_the_driver_and_the_versions(monkeypatch):
    said = environment.subprocess.CompletedProcess([], 0, stdout="580.159.04\n580.159.04\n")
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: said)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    found = environment.environment(torch.device("cuda"))
    assert (found["device"], found["driver"], found["cuda"]) == ("a GPU", "580.159.04", torch.version.cuda)
    assert "cudnn" in found
    assert "driver" not in environment.environment(torch.device("cpu"))


def test_what_does_not_fit_into_the_budget_is_left_out_and_listed(monkeypatch, capsys, tmp_path):
    clock, ran = [0.0], []
    monkeypatch.setattr(measure_gpu.time, "monotonic", lambda: clock[0])

    def measured(words):
        ran.append(Path(words[-1]).stem)
        clock[0] += 70
        Path(words[-1].removeprefix("output=")).write_text('{"environment": {"commit": "1"}}')
        return 0

    monkeypatch.setattr(measure_gpu, "run", measured)
    assert measure_gpu.main(["budget=165", f"records={tmp_path}"]) == 0
    assert ran == ["table9_100_gpu", "table9_1000_gpu", "resnet50_channels_last_gpu"]  # 20 s fit where 75 s do not
    said = capsys.readouterr().out
    assert "left out for want of time (budget=165): table9_5000 (about 75 s), tresnet_l (about 30 s)," in said


def test_one_that_fails_does_not_stop_the_others(monkeypatch, capsys, tmp_path):
    def failing(words):
        if "head_gpu" in words[-1]:
            raise RuntimeError("no kernel image")
        return 1

    monkeypatch.setattr(measure_gpu, "run", failing)
    assert measure_gpu.main(["head", "loss", f"records={tmp_path}"]) == 1
    captured = capsys.readouterr()
    assert "failed: head, loss" in captured.out
    assert "no kernel image" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hed"], "hed: no such measurement; did you mean head?"),
        (["bugdet=3"], "bugdet: no such option; did you mean budget?"),
        (["budget=soon"], "budget=soon: expected seconds above 0"),
        (["budget=nan"], "budget=nan: expected seconds above 0"),
        (["tiny=yes"], "tiny=yes: expected true or false"),
        (["device=cpu"], "is for the records of a GPU at full size"),
        (["tiny=true"], "is for the records of a GPU at full size"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(words, message, capsys):
    assert measure_gpu.main(words) == 2
    assert message in capsys.readouterr().err
