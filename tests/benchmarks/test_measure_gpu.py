"""`scripts/measure_gpu.py`, as far as that can be told without a GPU: each of its commands is understood."""

import importlib.util
from pathlib import Path

import pytest

from mldec.commands import benchmark_subjects, compose
from mldec.commands.benchmark_subjects import REPORT_WORDS, SUBJECTS
from mldec.engine import build

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_gpu.py"
spec = importlib.util.spec_from_file_location("measure_gpu", SCRIPT)
measure_gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure_gpu)


@pytest.mark.parametrize("name", measure_gpu.RUNS)
def test_each_measurement_is_an_experiment_that_fits_together(name):
    subject, *words = measure_gpu.RUNS[name]
    arguments = compose.parse([*words, *measure_gpu.GPU], own=(*SUBJECTS[subject].words, *REPORT_WORDS))
    if subject == "model":
        for case in benchmark_subjects._cases(arguments):
            build.check_config(case.config)
            assert case.config.runtime.precision == "bf16"
    else:
        config = benchmark_subjects._experiment(arguments, "digits")
        assert (config.runtime.device, config.runtime.precision) == ("cuda", "bf16")


def test_what_is_named_is_run_and_what_comes_too_late_is_left_out(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(measure_gpu, "run", lambda words: ran.append(words[1]) or 0)
    assert measure_gpu.main(["head", "loss"]) == 0
    assert ran == ["head", "loss"]
    monkeypatch.setattr(measure_gpu, "DEADLINE", -1.0)
    assert measure_gpu.main(["head"]) == 0
    assert ran == ["head", "loss"]
    assert "left out" in capsys.readouterr().out
    assert measure_gpu.main(["hed"]) == 2


def test_the_paper_s_table_9_is_measured_at_its_sizes():
    words = measure_gpu.RUNS["table9"][1:]
    arguments = compose.parse(words, own=(*SUBJECTS["model"].words, *REPORT_WORDS))
    cases = benchmark_subjects._cases(arguments)
    assert [case.num_labels for case in cases] == [100] * 3 + [1000] * 3 + [5000] * 3
    assert {case.config.dataset.image_size for case in cases} == {224}
    assert {
        getattr(case.config.head, "num_groups", None) for case in cases if case.config.head.name == "ml_decoder"
    } == {100}
