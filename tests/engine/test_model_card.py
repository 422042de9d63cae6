"""Properties: a card shows labels as they are written, whatever they are written with, and says what was measured."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from mldec.engine.export.model_card import escape, model_card
from mldec.metrics import f1_at_threshold

HOSTILE = [
    "<script>alert(1)</script>",
    "</code></pre><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "**bold** __strong__ _it_ ~~no~~",
    "`code` $x$ | cell | \\",
    "http://evil.example www.evil.example a@b.example",
    "--- # heading",
    "&lt;b&gt; &amp;",
    "a: {b: !!python/object:os.system [c]}",
    "two\nlines\n\n# and a heading",
    "snake_case 3.5 (in) 50% naïve 猫",
]


def description(names):
    settings = {"name": HOSTILE[0], "model": HOSTILE[4]}
    return {
        "name": HOSTILE[9],
        "mldec": "0",
        "labels": names,
        "seen": None,
        "activation": "sigmoid",
        "preprocessing": {
            "image_size": 64,
            "crop": None,
            "resize": "bilinear",
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
            "input": "uint8",
            "normalization_included": True,
            "before_the_graph": ["decode"],
            "in_the_graph": ["divide by 255"],
        },
        "inputs": ["images", "label_vectors"],
        "thresholds": None,
        "weights": "ema",
        "step": 3,
        "metrics": {"ema": {"mAP": 12.345678, "CF1": None}},
        "test": None,
        "test_split": "test",
        "epoch_chosen_on_test": False,
        "data": {HOSTILE[5]: {"images": 3, "labels": 2, "fingerprint": "0123456789abcdef0"}},
        "environment": {"device": HOSTILE[2], "commit": HOSTILE[8]},
        "label_embeddings": {"names": names, "trained": 2, "width": 5, "source": HOSTILE[1]},
        "config": {
            "seed": 0,
            "schedule": {"epochs": 1, "batch_size": 2, "max_lr": 0.1},
            "protocol": {"name": "standard", "average_precision": "exact", "threshold": 0.5},
            **dict.fromkeys(("dataset", "backbone", "head", "loss", "augment", "optimizer"), settings),
        },
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_name_is_markup(text):
    rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(f"In order: {escape(text)}; next.")
    assert re.findall(r"<[^>]*>", rendered) == ["<p>", "</p>"]
    assert html.unescape(rendered)[len("<p>In order: ") :].startswith(text)
    assert not re.search(r"https?://|www\.|\S@\S", escape(text))  # which many renderers make links of


def test_harmless_signs_stay_readable():
    assert escape(HOSTILE[-1]) == HOSTILE[-1]


def test_a_card_with_hostile_names_is_whole():
    sizes = {"model.safetensors": 10, "model.onnx": 10, "model.pt2": 10}
    text = model_card(description(HOSTILE), sizes, dict.fromkeys(sizes, 1e-6), ["a note"])
    card = ModelCard(text)
    assert card.data.to_dict()["model-index"][0]["name"] == HOSTILE[9]
    assert card.data.eval_results[0].metric_value == 12.3457
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "mldec"
    rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(card.text)
    tags = set(re.findall(r"</?(\w+)", rendered))
    assert tags <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "pre", "code", "ul", "ol", "li"}
    assert rendered.count("<h1>") == 1
    assert {len(re.findall("<t[dh]>", row)) for row in rendered.split("<tr>")[1:]} <= {2, 3, 4}


MEASURED = {"mAP": 80.0, "CF1": 60.0, "OF1": 70.0}


@pytest.mark.parametrize(
    ("changes", "split", "biased"),
    [
        ({"test": MEASURED}, "test", False),
        ({"test": MEASURED, "epoch_chosen_on_test": True}, "test", True),  # val = the test images
        ({"test": MEASURED, "test_split": "val", "epoch_chosen_on_test": True}, "val", True),  # test = the val images
        ({"metrics": {"ema": MEASURED}}, "val", True),
    ],
)
def test_card_and_metadata_name_the_split_whose_images_were_measured(changes, split, biased):
    card = ModelCard(model_card(description(["cat", "dog"]) | changes, {}, {}, []))
    assert {result.dataset_split for result in card.data.eval_results} == {split}
    assert f"On the {split} split of" in card.text
    assert ("optimistically biased" in card.text) == biased
    assert ("not evaluated on a test split" in card.text) == (split == "val")


def test_metrics_are_defined_as_they_are_computed():
    scores, targets = np.random.default_rng(0).random((2, 40, 3)).round(1), np.eye(3, dtype=np.int8)[[0, 1, 1, 2] * 10]
    found = f1_at_threshold(scores[0], targets, 0.5)
    text = model_card(description(["a", "b", "c"]) | {"test": {"CF1": found.CF1, "OF1": found.OF1}}, {}, {}, [])
    predicted, present = scores[0] > 0.5, targets == 1
    rows = dict(re.findall(r"\| (CF1|OF1) \| [\d.]+ \| harmonic mean of (.*), at the protocol's threshold, % \|", text))
    for name, axis, meaning in (
        ("CF1", 0, "mean class precision and mean class recall"),
        ("OF1", None, "precision and recall of all decisions"),
    ):
        true = (predicted & present).sum(axis)
        precision, recall = (float(np.mean(true / total.sum(axis))) for total in (predicted, present))
        assert getattr(found, name) == pytest.approx(200 * precision * recall / (precision + recall))
        assert rows[name] == meaning


def test_many_labels_do_not_fill_the_card():
    text = model_card(description([f"label {n}" for n in range(9600)]), {}, {}, [])
    assert "label 199, and 9,400 more" in text
    assert "label 200" not in text
