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
    assert "Not measured yet: no GPU was at hand." in page
    assert "* `table9_5000`: Table 9, TResNet-M at 224 px, 5,000 classes" in page
    assert "MS-COCO, TResNet-L, 448 px: 40 epochs of 82,081 | 103 (published for an RTX 3090) | 8.9 h | 1.1 h" in page


def test_a_gpu_s_own_rate_takes_the_place_of_the_published_one():
    rate = figure("ml_decoder K=80, 80 labels: training", 1000.0)
    page = performance.page({"tresnet_l_gpu": record("model", rate)}, {})
    assert "no GPU was at hand" not in page
    assert "1,000 (measured, above) | 0.9 h" in page


def test_what_a_gpu_was_asked_is_shown_in_order_and_what_is_lacking_is_said():
    environment = {**ENVIRONMENT, "device": "a GPU", "driver": "580.1", "cuda": "13.0", "cudnn": 91900}
    found = {
        "tests_gpu": {**record("tests", figure("tests passed", 7, note="failed: one")), "environment": environment}
    }
    found |= {name: record("model", figure("gap: training", 1.0)) for name in ("head_gpu", "table9_100_gpu")}
    page = performance.page(found, {})
    shown = [page.index(title) for title in ("### The tests marked", "### Table 9, TResNet-M", "### ML-Decoder alone")]
    assert shown == sorted(shown)
    assert "| tests passed | 7 x |  |  | failed: one |" in page
    assert "2026-01-02, a GPU, 2 threads, driver 580.1, cuda 13.0, cudnn 91900, Python 3.12" in page
    lacking = page[page.index("Not measured yet:") :]
    assert "* `table9_1000`: " in lacking
    assert "* `table9_100`: " not in lacking
    assert "no GPU was at hand" not in page


def test_committed_records_of_a_gpu_are_of_a_gpu():
    for name, found in performance.read(performance.RECORDS).items():
        if name.endswith("_gpu"):
            assert found["environment"]["driver"], name
            assert found["environment"]["commit"], name


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
