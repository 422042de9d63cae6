"""`scripts/component_benchmarks.py`: that it runs and counts correctly. How fast anything is, is not tested."""

import component_benchmarks
import pytest
import torch
from component_benchmarks import DIM, FEATURES, FFN_DIM, Shape, macs

from mldec.benchmarks import rate
from mldec.benchmarks.figure import Figure
from mldec.models.heads import MLDecoder

FAST = ["repeats=2", "seconds=0.001", "runtime.threads=1", "runtime.device=cpu"]


@pytest.fixture(autouse=True)
def small_limit(monkeypatch):
    monkeypatch.setattr(rate, "matrix_side", lambda device: 64)


def figures_of(subject: str, *options: str) -> dict[str, Figure]:
    figures = {figure.name: figure for figure in component_benchmarks.measure(subject, [*FAST, *options]).figures}
    assert all(figure.value is None or figure.value >= 0 for figure in figures.values())
    return figures


def test_the_head_is_measured_against_a_matrix_product(monkeypatch):
    monkeypatch.setattr(component_benchmarks, "SHAPES", (Shape(80, 20, 9, 2),))
    monkeypatch.setattr(component_benchmarks, "FEW", Shape(100, 100, 9, 2))
    monkeypatch.setattr(component_benchmarks, "MANY", Shape(300, 100, 9, 2))
    figures = figures_of("head")
    shares = [name for name in figures if name.endswith("of the matrix product")]
    assert len(shares) == 4
    assert {figures[name].target for name in shares} == {85, 80, 70, None}
    assert figures["300 classes against 100, 100 queries: forward and backward"].better == "lower"


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_work_of_the_head_is_counted_as_torch_counts_it(dropout):
    from torch.utils.flop_counter import FlopCounterMode

    shape = Shape(90, 20, 9, 2)
    module = MLDecoder(FEATURES, shape.classes, shape.queries, dim=DIM, ffn_dim=FFN_DIM, dropout=dropout)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module(torch.zeros(shape.images, shape.tokens, FEATURES))
    assert macs(shape, shared=dropout == 0) == pytest.approx(counter.get_total_flops() / 2, rel=1e-6)


def test_the_loss_is_measured_against_its_plain_chain():
    figures = figures_of("loss", "scale=0.01")
    ratio = figures["asymmetric loss over the plain chain"]
    assert (ratio.target, ratio.better, len(ratio.samples)) == (0.5, "lower", 2)
    plain, ours = figures["asymmetric loss, plain chain"].samples, figures["asymmetric loss"].samples
    assert ratio.samples == pytest.approx([a / b for a, b in zip(ours, plain, strict=True)])


@pytest.mark.slow  # builds TResNet-L
def test_the_ema_is_measured_against_a_copy_and_a_step():
    figures = figures_of("ema")
    assert figures["update of tresnet_l over a copy of its bytes"].target == 3
    assert 0 < figures["update in a training step of digits"].value < 100


def test_mean_ap_is_measured_and_equals_scikit_learn():
    figures = figures_of("metric", "scale=0.002")
    assert figures["mean AP over scikit-learn's"].target == 0.1
    assert figures["largest difference of an AP from scikit-learn's"].value < 1e-12
    assert figures["mean AP of many labels"].target == 240
    assert figures["mean AP of many labels: peak memory"].target == 8


@pytest.mark.slow  # starts nine processes
def test_the_index_is_measured_on_annotations_of_the_published_format():
    figures = figures_of("index", "scale=0.0001")
    assert figures["index built in one pass"].note == "900 images, 6,000 label rows"
    assert {name: figure.target for name, figure in figures.items() if figure.target is not None} == {
        "peak memory of building": 4,
        "index opened from its cache": 1,
        "private memory of the workers": 5,
    }
