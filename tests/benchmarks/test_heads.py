"""Times of heads on tokens: what is timed trains the head alone, and ratios are over the last row."""

import pytest
import torch

from mldec.benchmarks.heads import TokenNetwork, measure
from mldec.benchmarks.model import Case
from mldec.commands import benchmark
from tests.curve import make

FROZEN = ["dataset=digits", "backbone=resnet_digits", "backbone.pretrained=false", "dataset.image_size=64"]


def config(*head: str):
    return make(["experiment=probe_table", *FROZEN, *head])


def test_a_step_trains_the_head_on_tokens_and_nothing_else():
    network = TokenNetwork(config("head=csra"), 5)
    before = {name: value.clone() for name, value in network.trainer.state.model.state_dict().items()}
    network.train(4)
    changed = {
        name for name, value in network.trainer.state.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"head.weight"}
    assert network._batch(4).images.shape == (4, *network.shape)


def test_figures_of_heads_and_their_ratios():
    cases = [Case("pooling", config("head=gap"), 5), Case("decoder", config("head.dim=32", "head.num_heads=4"), 5)]
    figures = {figure.name: figure for figure in measure(cases, repeats=2, seconds=0.01)}
    width = TokenNetwork(cases[0].config, 5).shape[1]
    assert figures["pooling: parameters"].value == 5 * width + 5
    assert figures["pooling: multiply-accumulates of an image"].value == pytest.approx(5 * width / 1e6)
    for what in ("training step of 64 images", "logits of 1 image", "logits of 64 images"):
        assert figures[f"decoder: {what}, over decoder"].value == 1
        assert 0 < figures[f"pooling: {what}, over decoder"].value < 1
        assert len(figures[f"pooling: {what}"].samples) == 2
    assert figures["pooling: logits of 1 image"].value < figures["pooling: logits of 64 images"].value


def test_the_rows_of_a_table_are_measured(tmp_path, capsys):
    page = tmp_path / "heads.md"
    given = ["rows=gap,csra", "repeats=1", "seconds=0.01", "num_labels=4", *FROZEN, f"page={page}"]
    assert benchmark.main(["heads", *given]) == 0
    assert "| GAP |" in capsys.readouterr().out
    assert "over CSRA" in page.read_text()
