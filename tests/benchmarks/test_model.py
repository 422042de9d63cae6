"""`mldec benchmark model`: what it measures and which input it refuses. How fast anything is, is not tested."""

import json
import math

import pytest
import torch

from mldec.benchmarks import model, network, rate
from mldec.benchmarks.memory import PeakMemory, limited_memory
from mldec.benchmarks.model import Case, measure
from mldec.benchmarks.network import Network, largest_fitting, search_largest_batch
from mldec.commands.main import run
from mldec.engine import build
from mldec.engine.trainer import Trainer
from mldec.errors import is_out_of_memory
from mldec.labels import LabelSpace
from mldec.models.complexity import count_macs, count_parameters
from tests.curve import make

CPU = torch.device("cpu")
OVERRIDES = [
    "experiment=digits",
    "dataset.root=/nowhere",
    "dataset.image_size=48",
    "schedule.batch_size=4",
    "head.dim=32",
    "head.ffn_dim=32",
    "runtime=cpu",
    "runtime.threads=1",
]
FAST = ["repeats=2", "seconds=0.001"]
HEADS = "heads=gap,transformer_decoder,ml_decoder"


@pytest.fixture(autouse=True)
def small_and_patient(monkeypatch):
    monkeypatch.setattr(rate, "matrix_side", lambda device: 64)
    monkeypatch.setattr(model, "SLOW", 10**6)  # all rounds, however slow the machine


def fail_above(monkeypatch, size, labels=None):
    """Training on more than `size` images at once runs out of memory, if there are that many labels."""
    real = Trainer.train_step

    def train_step(trainer, batch):
        if len(batch.ids) > size and (labels is None or len(trainer.splits.labels) == labels):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", train_step)


def test_every_head_and_number_of_labels_has_all_figures(tmp_path, capsys):
    arguments = [*OVERRIDES, *FAST, HEADS, "num_labels=12,24", "head.num_groups=20", f"output={tmp_path / 'out.json'}"]
    assert run(["benchmark", "model", *arguments, f"page={tmp_path / 'page.md'}"]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    figures = {figure["name"]: figure for figure in record["figures"]}
    titles = [case["title"] for case in record["cases"]]
    assert titles == [
        "gap, 12 labels",
        "transformer_decoder, 12 labels",
        "ml_decoder K=12, 12 labels",  # never more queries than labels
        "gap, 24 labels",
        "transformer_decoder, 24 labels",
        "ml_decoder K=20, 24 labels",
    ]
    quantities = {
        "training": "img/s",
        "inference": "img/s",
        "training batch": "images",
        "peak memory of training": "MiB",
        "multiply-accumulates": "G",
        "parameters": "M",
        "share of matrix product": "%",
    }
    ratios = {"training over gap": "x", "inference over gap": "x"}
    expected = {
        f"{title}: {quantity}": unit
        for title in titles
        for quantity, unit in (quantities | ({} if title.startswith("gap") else ratios)).items()
    }
    expected |= {"matrix product": "G/s", "largest training batch": "images"}
    assert {name: figure["unit"] for name, figure in figures.items()} == expected
    assert figures.pop("largest training batch")["value"] is None
    for name, figure in figures.items():
        assert figure["value"] >= 0 if "memory" in name else figure["value"] > 0, name
        higher = not any(word in name for word in ("memory", "multiply", "parameters"))
        assert figure["better"] == ("higher" if higher else "lower"), name
    assert len(figures["gap, 12 labels: training"]["samples"]) == 2
    table = capsys.readouterr().out
    assert "only searched for on CUDA, this is cpu" in table
    assert table.strip() in (tmp_path / "page.md").read_text()


def test_counts_are_those_of_the_network():
    config = make(OVERRIDES)
    figures = {figure.name: figure.value for figure in measure([Case("net", config, 12)], repeats=1, seconds=0.001)}
    classifier = build.build_classifier(
        config, LabelSpace([f"label {number}" for number in range(12)]), pretrained=False
    )
    assert figures["net: multiply-accumulates"] * 1e9 == count_macs(classifier, 48)
    assert figures["net: parameters"] * 1e6 == count_parameters(classifier)[0]


def test_a_batch_in_evaluation_costs_no_more_than_its_images():
    classifier = build.build_classifier(
        make([*OVERRIDES, "head=transformer_decoder"]), LabelSpace(list("abcdef")), pretrained=False
    )
    one, four = count_macs(classifier, 48), count_macs(classifier, 48, 4)
    assert one < four < 4 * one  # self-attention among queries is done once


def test_what_does_not_fit_is_a_row_and_the_others_continue(monkeypatch, capsys):
    fail_above(monkeypatch, 0, labels=24)
    assert run(["benchmark", "model", *OVERRIDES, *FAST, "heads=gap,ml_decoder", "num_labels=12,24"]) == 0
    text = capsys.readouterr().out
    assert "| gap, 24 labels | - | - |" in text
    assert "* gap, 24 labels: training: out of memory" in text
    for title in ("gap, 12 labels", "ml_decoder K=12, 12 labels"):
        assert f"* {title}: training: median of 2 rounds, batches of 4" in text


def test_a_batch_that_does_not_fit_is_halved_and_noted(monkeypatch):
    fail_above(monkeypatch, 3)
    figures = {figure.name: figure for figure in measure([Case("net", make(OVERRIDES), 12)], repeats=1, seconds=0.001)}
    assert figures["net: training batch"].value == 2
    assert figures["net: training"].note == "one round, batches of 2, since 4 do not fit into memory"
    assert figures["net: inference"].note == "one round, batches of 4"


def test_running_out_between_rounds_keeps_what_was_measured(monkeypatch):
    fail_above(monkeypatch, 4)
    subject = model._Subject(Case("net", make(OVERRIDES), 12), CPU, 0.001, largest_batch=True)
    subject.round(0.001, 3)
    fail_above(monkeypatch, 0)
    subject.round(0.001, 3)
    subject.round(0.001, 3)
    assert (len(subject.training.samples), len(subject.inference.samples)) == (1, 3)


@pytest.mark.parametrize(("limit", "start", "expected"), [(520, 56, 520), (527, 16, 520), (17, 9, 16), (9, 9, 8)])
def test_the_largest_batch_is_a_multiple_of_8(limit, start, expected):
    assert largest_fitting(lambda size: size <= limit, start) == expected


def test_the_largest_batch_is_exact_below_8_and_never_too_large():
    for limit in range(1, 200):
        for start in range(1, limit + 1):
            found = largest_fitting(lambda size, limit=limit: size <= limit, start)
            assert found == (limit if limit < 8 else limit - limit % 8)


def test_the_search_for_the_largest_batch_trains_and_ends_in_time(monkeypatch):
    fail_above(monkeypatch, 27)
    trained = Network(make(OVERRIDES), 12)
    assert search_largest_batch(trained, 4, 60) == (24, "")
    assert search_largest_batch(trained, 4, -1) == (4, "at least: the search was cut short")
    monkeypatch.setattr(network, "LARGEST", 20)
    assert search_largest_batch(trained, 4, 60) == (16, "at least: the search was cut short")


def test_what_is_parked_trains_on(monkeypatch):
    """Nothing of a step stays behind, and the next one changes the weights and their average."""
    parked = Network(make([*OVERRIDES, "ema.decay=0.5"]), 12)
    parked.train(4)
    before = [parameter.clone() for parameter in parked.trainer.state.model.parameters()]
    average = [parameter.clone() for parameter in parked.trainer.state.ema.module.parameters()]
    parked.move(CPU)
    assert all(parameter.grad is None for parameter in parked.trainer.state.model.parameters())
    parked.trainer.schedule = lambda step: build.build_schedule(parked.trainer.config, 100)(50)
    parked.train(4)
    assert any(not torch.equal(a, b) for a, b in zip(before, parked.trainer.state.model.parameters(), strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(average, parked.trainer.state.ema.module.parameters(), strict=True)
    )


def test_num_groups_are_100_unless_something_else_is_set(capsys):
    arguments = ["benchmark", "model", *OVERRIDES, "repeats=1", "seconds=0.001", "num_labels=120"]
    for given, expected in (([], 100), (["head.num_groups=null"], 120), (["head.num_groups=7"], 7)):
        assert run([*arguments, *given]) == 0
        assert f"| ml_decoder K={expected}, 120 labels |" in capsys.readouterr().out


def test_a_head_with_label_embeddings_is_measured_without_their_file(capsys):
    arguments = [
        *OVERRIDES,
        *FAST,
        "heads=gap,zero_shot",
        "head.label_embeddings.source=/nowhere/glove.txt",
        "num_labels=12",
    ]
    assert run(["benchmark", "model", *arguments]) == 0
    assert "| zero_shot K=12, 12 labels |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "num_labels=… is missing"),
        (["num_labels=0"], "num_labels=0: expected an integer from 1 to 1000000"),
        (["num_labels=12,x"], "num_labels=x: expected an integer"),
        (["num_labels=12,12"], "found an item twice"),
        (["num_labels=12", "heads=foo"], "head=foo: no such head"),
        (["num_labels=12", "heads=gap", "head=gap"], "leave one of both out"),
        (["num_labels=12", "heads=gap,ml_decoder", "head.fo=1"], "head.fo=1: no head of gap, ml_decoder has it"),
        (["num_lables=12"], "num_lables=12: no such option of mldec benchmark model; did you mean num_labels?"),
        (["num_labels=12", "scale=0.1"], "scale=0.1: no such option"),
        (["num_labels=12", "repeats=0"], "repeats=0: expected an integer"),
        (["num_labels=12", "seconds=-1"], "seconds=-1.0: expected a number > 0 and ≤ 1000"),
        (["num_labels=12", "schedule.epoch=3"], "schedule.epoch: schedule=one_cycle has no such setting"),
        (["num_labels=12", "loss=ce"], "loss=asl or loss=bce"),
        (["num_labels=12", "-m"], "-m: has no effect here"),
    ],
)
def test_bad_input_is_one_error(arguments, message, capsys):
    assert run(["benchmark", "model", *OVERRIDES, *arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(error) == 1
    assert error[0].startswith("error: ")
    assert message in error[0]


def test_memory_that_is_not_there_is_an_error_that_can_be_caught():
    with limited_memory(CPU), pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_the_peak_is_measured_anew_each_time():
    peak = PeakMemory(CPU)
    if peak.mib() is None:
        pytest.skip("this system does not tell")
    torch.ones(64, 2**20, dtype=torch.uint8)
    assert math.isclose(peak.mib(), 64, abs_tol=16)
    assert PeakMemory(CPU).mib() < 16
