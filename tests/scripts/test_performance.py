"""`scripts/performance.py`: its plan, order, budget and records without a GPU, and the page made from the records."""

import functools
import json

import performance
import pytest
import torch
from performance import Options, benchmark_arguments

from mldec.benchmarks import rate
from mldec.commands import benchmark
from mldec.commands.options import parse
from mldec.engine import config_checks, environment

GPU, TINY = Options(device="cuda"), Options(device="cpu", tiny=True)
ENVIRONMENT = {"device": "a device", "threads": 2, "python": "3.12", "commit": "0123456789abcdef"}
ENVIRONMENT["packages"] = {"torch": "2.7", "timm": "1.0"}


@functools.cache
def configs_of(name: str) -> list[tuple]:
    """Of a measurement on the GPU: number of labels and config of each network."""
    subject, *arguments = benchmark_arguments(name, GPU)
    options, rest = parse(arguments, benchmark.SUBCOMMANDS[subject], f"benchmark {subject}")
    if subject == "train":
        return [(options.num_labels, benchmark._config(rest))]
    return [(case.num_labels, case.config) for case in benchmark.make_cases(options, rest)]


NETWORKS = [name for name, entry in performance.PLAN["gpu"].items() if entry["run"].startswith(("model", "train"))]


def test_each_measurement_on_a_gpu_fits_together():
    for name in NETWORKS:
        for _, config in configs_of(name):
            config_checks.check_config(config)
            assert (config.runtime.device, config.runtime.precision) == ("cuda", "bf16")


def test_the_papers_table_9_comes_first_then_the_largest_network_then_three_that_are_compiled():
    found = [configs_of(name) for name in list(performance.PLAN["gpu"])[:7]]
    for cases, labels in zip(found[:3], (100, 1000, 5000), strict=True):
        assert [(config.head.name, count) for count, config in cases] == [
            (head, labels) for head in ("gap", "ml_decoder", "transformer_decoder")
        ]
        assert {(config.backbone.name, config.dataset.image_size) for _, config in cases} == {("tresnet_m", 224)}
        assert cases[1][1].head.num_groups == 100
    assert {(config.backbone.name, config.dataset.image_size) for _, config in found[3]} == {("tresnet_l", 448)}
    assert [config.runtime.compile for cases in found for _, config in cases] == [False] * 11 + [True] * 3


def test_each_measurement_on_the_cpu_is_understood():
    for name, entry in performance.PLAN["cpu"].items():
        subject, *arguments = benchmark_arguments(name, Options(device="cpu"))
        if subject in benchmark.SUBCOMMANDS:
            parse(arguments, benchmark.SUBCOMMANDS[subject], f"benchmark {subject}")
        else:
            assert subject in performance.component_benchmarks.SUBJECTS, entry


def test_a_rehearsal_keeps_what_is_compared_and_shrinks_the_rest():
    for name in performance.PLAN["gpu"]:
        large, small = (dict(option.split("=", 1) for option in benchmark_arguments(name, o)[1:]) for o in (GPU, TINY))
        assert large.keys() <= small.keys()
        for key in ("experiment", "heads", "runtime.channels_last", "largest_batch"):
            assert small.get(key) == large.get(key)
        assert small.get("runtime.compile", "false") == "false"


#: One of each kind of network, the training loop, and a component.
REHEARSED = ("resnet50_compiled_channels_last", "loop", "loss")
OTHERS = tuple(name for name in performance.PLAN["gpu"] if name not in REHEARSED)


@pytest.mark.parametrize("names", [REHEARSED, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_rehearsed_on_the_cpu_each_leaves_a_record(names, tmp_path, monkeypatch):
    monkeypatch.setattr(rate, "matrix_side", lambda device: 64)
    monkeypatch.setattr(environment, "_git_commit", lambda: None)
    assert performance.main([*names, "device=cpu", "tiny=true", f"records={tmp_path}", "commit=0123abc"]) == 0
    for name in names:
        record = json.loads((tmp_path / f"{name}_gpu.json").read_text())
        assert record["environment"]["commit"] == "0123abc"
        assert record["environment"]["precision"] == ("float32" if name == "loss" else "bfloat16")
        assert record["took"] > 0
        for figure in record["figures"]:
            if figure["value"] is None:
                assert "CUDA" in figure["note"], figure


def test_a_record_of_cuda_names_the_driver_and_the_versions(monkeypatch):
    done = environment.subprocess.CompletedProcess([], 0, stdout="580.159.04\n580.159.04\n")
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    found = environment.environment(torch.device("cuda"))
    assert found["device"] == "a GPU"
    assert (found["driver"], found["cuda"]) == ("580.159.04", torch.version.cuda)
    assert "cudnn" in found
    assert "driver" not in environment.environment(torch.device("cpu"))


def test_what_does_not_fit_into_the_budget_is_left_out_and_listed(monkeypatch, capsys, tmp_path):
    clock, ran = [0.0], []
    monkeypatch.setattr(performance.time, "monotonic", lambda: clock[0])

    def measured(name, options):
        ran.append(name)
        clock[0] += 70

    monkeypatch.setattr(performance, "measure", measured)
    assert performance.main(["device=cuda", "budget=165", f"records={tmp_path}"]) == 0
    assert ran == ["table9_100", "table9_1000", "resnet50_channels_last"]  # 20 s fit where 75 s do not
    listed = capsys.readouterr().out
    assert "left out for lack of time (budget=165): table9_5000 (about 75 s), tresnet_l (about 30 s)," in listed


def test_one_that_fails_does_not_stop_the_others(monkeypatch, capsys, tmp_path):
    def failing(argv):
        if "head_gpu" in argv[-1]:
            raise RuntimeError("no kernel image")
        return 1

    monkeypatch.setattr(performance, "run", failing)
    monkeypatch.setattr(performance.component_benchmarks, "SUBJECTS", {})
    assert performance.main(["head", "loss", "device=cuda", f"records={tmp_path}"]) == 1
    captured = capsys.readouterr()
    assert "failed: head, loss" in captured.out
    assert "no kernel image" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hed", "device=cuda"], "hed: no such measurement; did you mean head?"),
        (["head"], "device: missing; use device=cpu or device=cuda"),
        (["tiny=true"], "device: missing"),
        (["bugdet=3"], "bugdet: no such option; did you mean budget?"),
        (["budget=soon"], "budget: expected seconds above 0"),
        (["budget=nan"], "budget: expected seconds above 0"),
        (["device=cpu", "tiny=yes"], "tiny=yes: expected true or false"),
        (["device=cpu", "tiny=true"], "is for records at full size"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(arguments, message, capsys):
    assert performance.main(arguments) == 2
    assert message in capsys.readouterr().err


# The page -------------------------------------------------------------------------------------------------------------


def record(subject: str, *figures: dict) -> dict:
    return {"subject": subject, "date": "2026-01-02", "environment": ENVIRONMENT, "figures": list(figures)}


def figure(name: str, value: float, **more: object) -> dict:
    return {"name": name, "value": value, "unit": "x", **more}


def test_the_page_shows_what_was_measured_and_what_was_not():
    slow = {"value": 3.0, "target": 2.0}
    page = performance.page({"loss_cpu": record("loss", figure("asymmetric loss over the plain chain", **slow))})
    assert "asymmetric loss over the plain chain | 3 x | at most 2 x | missed" in page
    assert "2026-01-02, a device, 2 threads, Python 3.12, torch 2.7, timm 1.0, commit 0123456789." in page
    assert "Not measured yet; `make gpu-check`" in page
    assert "* `table9_5000`: Table 9, TResNet-M at 224 px, 5,000 classes" in page
    assert "* `head`: ML-Decoder alone" in page
    assert "MS-COCO, TResNet-L, 448 px: 40 epochs of 82,081 | 103 (published for an RTX 3090) | 8.9 h | 1.1 h" in page


def test_a_measured_rate_replaces_the_published_one():
    page = performance.page({"tresnet_l_gpu": record("model", figure("ml_decoder K=80, 80 labels: training", 1000.0))})
    assert "1,000 (measured, above) | 0.9 h" in page


def test_measurements_on_a_gpu_are_shown_in_order_and_missing_ones_are_listed():
    environment = {**ENVIRONMENT, "device": "a GPU", "driver": "580.1", "cuda": "13.0", "cudnn": 91900}
    found = {
        "tests_gpu": {**record("tests", figure("tests passed", 7, note="failed: one")), "environment": environment}
    }
    found |= {name: record("model", figure("gap: training", 1.0)) for name in ("head_gpu", "table9_100_gpu")}
    page = performance.page(found)
    page = page[page.index("## On a GPU") :]
    shown = [page.index(title) for title in ("### The tests marked", "### Table 9, TResNet-M", "### ML-Decoder alone")]
    assert shown == sorted(shown)
    assert "| tests passed | 7 x |  |  | failed: one |" in page
    assert "2026-01-02, a GPU, 2 threads, driver 580.1, cuda 13.0, cudnn 91900, Python 3.12" in page
    missing = page[page.index("Not measured yet;") :]
    assert "* `table9_1000`: " in missing
    assert "* `table9_100`: " not in missing


def test_committed_records_of_a_gpu_are_of_a_gpu():
    for name, found in performance.read_records(performance.RECORDS).items():
        if name.endswith("_gpu"):
            assert found["environment"]["driver"], name
            assert found["environment"]["commit"], name


def test_the_committed_page_is_the_one_of_the_committed_records():
    records = performance.read_records(performance.RECORDS)
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page(records)
