"""`scripts/performance.py`: each measurement is understood, and the page says what the records say."""

import importlib.util
from pathlib import Path

import pytest

from mldec.benchmarks.growth import AXES
from mldec.commands import compose
from mldec.commands.benchmark_subjects import REPORT_WORDS, SUBJECTS

SCRIPT = Path(__file__).parents[2] / "scripts" / "performance.py"
spec = importlib.util.spec_from_file_location("performance", SCRIPT)
performance = importlib.util.module_from_spec(spec)
spec.loader.exec_module(performance)

ENVIRONMENT = {"device": "a device", "threads": 2, "python": "3.12", "commit": "0123456789abcdef"}
ENVIRONMENT["packages"] = {"torch": "2.7", "timm": "1.0"}


def record(subject: str, *figures: dict, **more: object) -> dict:
    return {"subject": subject, "date": "2026-01-02", "environment": ENVIRONMENT, "figures": list(figures), **more}


def figure(name: str, value: float, **more: object) -> dict:
    return {"name": name, "value": value, "unit": "x", **more}


@pytest.mark.parametrize("name", performance.RUNS)
def test_each_measurement_is_understood(name):
    subject, *words = performance.RUNS[name]
    own = SUBJECTS[subject].words
    typed = compose.parse([*words, "runtime.device=cpu"], own=(*own, *REPORT_WORDS))
    for word in typed.overrides:
        assert word.partition("=")[0].partition(".")[0] in (*compose.CHOICES, "runtime"), word
    assert name == "growth" or name in performance.SAID


def test_the_page_says_what_was_measured_and_what_was_not():
    slow = {"value": 3.0, "target": 2.0}
    page = performance.page({"loss_cpu": record("loss", figure("asymmetric loss over the plain chain", **slow))}, {})
    assert "asymmetric loss over the plain chain | 3 x | at most 2 x | missed" in page
    assert "2026-01-02, a device, 2 threads, Python 3.12, torch 2.7, timm 1.0, commit 0123456789." in page
    assert "no GPU was at hand" in page
    assert "MS-COCO, TResNet-L, 448 px: 40 epochs of 82,081 | 103 (published for an RTX 3090) | 8.9 h | 1.1 h" in page


def test_a_gpu_s_own_rate_takes_the_place_of_the_published_one():
    rate = figure("ml_decoder K=80, 80 labels: training", 1000.0)
    page = performance.page({"tresnet_l_gpu": record("model", rate)}, {})
    assert "no GPU was at hand" not in page
    assert "1,000 (measured, above) | 0.9 h" in page


def test_growth_is_the_slope_between_the_two_largest_values():
    points = [
        {"head": head, "axis": axis, "value": value, "milliseconds": value**2.0, "mebibytes": None}
        for axis, values in AXES.items()
        for value in values
        for head in ("ML-Decoder", "transformer decoder")
    ]
    page = performance.page({"growth_cpu": record("growth", points=points)}, {})
    for axis in AXES:
        assert f"| {axis} | x 4.00 | - |" in page
    assert "takes x 4.00 the time already" in page


def test_the_committed_page_is_the_one_of_the_committed_records():
    records, before = performance.read(performance.RECORDS), performance.read(performance.BEFORE)
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page(records, before)
    for _, names in performance.CHANGES:
        for name, figure in names:
            for found in (records, before):
                assert figure in {each["name"] for each in found[f"{name}_cpu"]["figures"]}
