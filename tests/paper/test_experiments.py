"""Every experiment composes, is valid, and its network at full size takes a step on two images of the right size."""

import importlib.util
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from mldec.commands import compose
from mldec.config import Config, build_config, with_settings
from mldec.engine import build, config_checks, config_properties
from mldec.engine.mixing import answer_random_queries
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.complexity import count_macs
from mldec.models.hub import TRESNETS
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.pretrained import find_source
from mldec.models.tokens import HeadOutput
from mldec.paper.planning import candidates
from mldec.paper.requirements import RATE, describe_hardware, describe_start
from mldec.paper.tables import load_tables

ROWS = {
    row.experiment: row
    for scale in ("paper", "desk")
    for table in load_tables(scale)
    for row in table.reproduced
    if row.experiment
}

#: Computed for real in `make test`; the others, whose images take seconds each or whose weights take gigabytes, only
#: when slow tests are asked for, and as shapes otherwise.
LIGHT = {
    "desk/table1/gap",
    "desk/table2/ml_decoder_k72",
    "desk/table3/both",
    "desk/table4/group",
    "desk/table7/label_embeddings",
    "desk/table13/softmax_ml_decoder",
    "table2/ml_decoder_k200",
    "table3/both",
    "table8/learnable_embeddings",
    "table9/ml_decoder",
    "table13/softmax_ml_decoder",
}
#: Networks of a row of Table 5 but for the number of labels: only when slow tests are asked for.
FEWER_LABELS = {f"table11/{key}" for key in ("add_gcn", "asl", "csra", "gmp", "ml_gcn", "query2label", "ssgrl")}
#: Attention among 5,000 and 9,605 queries in eight heads: gigabytes for each image, as the paper found out.
NEVER = {"table2/transformer_decoder", "table9/transformer_decoder", "desk/table9/transformer_decoder"}


@pytest.fixture(scope="module", autouse=True)
def components():
    compose.load_components(())


@cache
def composed(name: str) -> Config:
    """The config of an experiment, which several tests look at."""
    return build_config(compose.compose([f"experiment={name}"]))


def make(name: str, device: str = "cpu"):
    """An experiment's config and network for as many labels as its dataset has."""
    config = composed(name)
    config_checks.check_config(config)
    labels = LabelSpace([f"label {number}" for number in range(ROWS[name].needs.labels)])
    words = None
    if config_properties.uses_label_embeddings(config):
        words = LabelEmbeddings(labels.names, torch.randn(len(labels), 300, device="cpu"), "random")
    with torch.device(device):
        return config, build.build_classifier(config, labels, words, pretrained=False)


ANY_DATA = {"probe", "finetune", "probe_table", "probe_table_zsl"}  # experiments on the user's own images


@pytest.mark.parametrize("name", compose.choices("experiment"))
def test_it_composes_and_is_valid(name, capsys):
    if name in ANY_DATA:
        config = build_config(compose.compose([f"experiment={name}", "dataset=digits"]))
    else:
        config = composed(name)
    config_checks.check_config(config)
    assert not config_checks.find_unused(config)
    assert config.name == name.replace("/", "_")


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("desk/")])
def test_the_paper_is_reproduced_by_its_own_protocol(name):
    config = composed(name)
    assert config.protocol.name == "paper"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_says_which_weights_its_experiment_loads(name):
    """Full names in timm's hub, so that neither another default nor another tag goes unnoticed."""
    config = composed(name)
    settings = config.backbone
    model = getattr(settings, "model", settings.name)
    source = find_source(model, settings.pretrained)
    assert source is None or source.kind == "hub"
    assert (source.name if source else "none") == ROWS[name].needs.weights
    if source is not None and model not in TRESNETS:  # not left to the version of timm
        assert "." in model or settings.pretrained is not True


def test_every_row_of_coco_says_that_the_published_one_started_from_open_images():
    found = {}
    for table in load_tables("paper"):
        for row in table.reproduced:
            if row.needs.dataset == "coco" and row.cells.get("method", "ML-Decoder") == "ML-Decoder":
                found[row.experiment] = (row.cells.get("backbone"), describe_start(row))
    assert len(found) == 4 + 2 + 3 + 4 + 6  # tables 1, 5, 7, 10 and figure 5
    for experiment, (backbone, text) in found.items():
        assert ("Open Images" in text) == (backbone != "ResNet-101"), experiment  # of which nothing is published
        header = " ".join((headers().EXPERIMENTS / f"{experiment}.yaml").read_text(encoding="utf-8").split("\n# "))
        assert f"Starts from {text}." in header


def test_hours_are_those_of_what_is_computed():
    """Three passes of an image and epoch; one if the backbone is frozen, and in one epoch alone if tokens are kept."""
    config, row = composed("table6/lesa"), ROWS["table6/lesa"]
    epochs = config.schedule.epochs
    cost = round(RATE * 3600 / row.needs.images / epochs)  # of an image, such that a pass through all epochs takes 1 h
    one_view = describe_hardware(row, config, lambda: 20 * epochs * cost)
    assert "about 20 hours on" in one_view
    plain = replace(config, cache=replace(config.cache, tokens=False))
    assert "about 20 hours on" in describe_hardware(row, plain, lambda: 20 * cost)
    trained = replace(plain, backbone=replace(config.backbone, freeze="none"))
    assert "about 60 hours on" in describe_hardware(row, trained, lambda: 20 * cost)


FITTED: set[str] = set()  # networks that were found to fit: rows of several tables share them
PROBE_ROWS = [(table, row) for table in load_tables("probe") for row in table.reproduced]


@pytest.mark.parametrize(("table", "row"), PROBE_ROWS, ids=[f"{table.id}-{row.key}" for table, row in PROBE_ROWS])
def test_a_row_at_probe_scale_fits_any_data_set(table, row):
    """With every candidate of what it chooses; the network as shapes alone."""
    chooser = row if row.chosen_in is None else table.row(row.chosen_in)
    data = "dataset=cifar100" if "top1" in table.figures else "dataset=digits"
    settings = [f"{key}={value}" for key, value in row.settings.items()]
    overrides = [f"experiment={row.experiment}", *settings, *candidates(chooser)[0], data, "backbone.pretrained=false"]
    config = build_config(compose.compose(overrides))
    for values in itertools.product(*chooser.choose.values()):
        config_checks.check_config(with_settings(config, dict(zip(chooser.choose, values, strict=True))))
    assert not config_checks.find_unused(config)
    assert config.recipe is None
    network = repr([config.backbone, config.head, config.dataset.image_size, row.needs.labels])
    if network in FITTED:
        return
    FITTED.add(network)
    labels = LabelSpace([f"label {number}" for number in range(row.needs.labels)])
    words = LabelEmbeddings(labels.names, torch.randn(len(labels), 384), "random")
    with torch.device("meta"):
        given = words if config_properties.uses_label_embeddings(config) else None
        classifier = build.build_classifier(config, labels, given, pretrained=False)
        side = config.dataset.image_size
        logits = classifier.eval()(torch.empty(2, 3, side, side))
    assert logits.shape == (2, row.needs.labels)


@pytest.mark.parametrize("table", load_tables("probe"), ids=lambda table: table.id)
def test_rows_at_probe_scale_have_the_same_budget_of_tuning(table):
    """Each row that trains a head tries as many settings as any other; longer runs use what the shorter one chose.

    Rows with a method's own recipe are untuned, and say so.
    """
    tuned = [row for row in table.reproduced if row.cells.get("recipe") != "own"]
    sizes = {len(candidates(row)) for row in tuned if row.chosen_in is None}
    assert len(sizes) == 1
    assert all(row.choose or row.chosen_in for row in tuned)


@pytest.mark.parametrize("name", sorted(set(ROWS) - LIGHT - FEWER_LABELS))
def test_its_network_fits_images_and_labels(name):
    """As shapes alone: nothing is computed, and no memory is taken."""
    config = composed(name)
    backbone = replace(config.backbone, pretrained=bool(config.backbone.pretrained), normalize="auto")
    network = repr([backbone, config.head, config.dataset.image_size, ROWS[name].needs.labels])
    if network in FITTED:
        return
    FITTED.add(network)
    config, classifier = make(name, device="meta")
    assert classifier.head is not None
    side = config.dataset.image_size
    images = torch.empty(2, 3, side, side, device="meta")
    logits, details = outputs(classifier.train(), images)
    assert set(getattr(config.loss, "needs", ())) <= set(details)
    expected = ROWS[name].needs.labels + getattr(config.head, "random_queries", 0)
    assert logits.shape == (2, expected)
    logits.sum().backward()
    assert all(p.grad is not None for p in classifier.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_it_takes_a_step(name):
    take_a_step(name)


@pytest.mark.slow  # seconds each: TResNet-L and XL at up to 640 px on the CPU, 3 minutes in all
@pytest.mark.parametrize("name", sorted(set(ROWS) - LIGHT - NEVER))
def test_it_takes_a_step_at_full_size(name):
    take_a_step(name)


def outputs(classifier: Classifier, images: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """Logits, and what else the head gives to its loss; nothing for most."""
    output = classifier(images)
    return (output.logits, output.details) if isinstance(output, HeadOutput) else (output, {})


def take_a_step(name: str) -> None:
    """One update changes the weights, and the loss is a number."""
    torch.manual_seed(0)
    config, classifier = make(name)
    optimizer, loss = build.build_optimizer(config, classifier), build.build_loss(config)
    before = next(p for p in classifier.head.parameters() if p.requires_grad).detach().clone()
    side, labels = config.dataset.image_size, ROWS[name].needs.labels
    images = torch.rand(2, 3, side, side)
    targets = torch.zeros(2, labels)
    targets[[0, 1], [0, labels - 1]] = 1
    logits, details = outputs(classifier.train(), images)
    targets, known = answer_random_queries(targets, torch.ones(2, labels, dtype=torch.bool), logits.shape[1])
    value = loss(logits, targets, known, details=details)
    value.backward()
    optimizer.step()
    assert torch.isfinite(value)
    after = next(p for p in classifier.head.parameters() if p.requires_grad)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["table1/gap", "table2/ml_decoder_k200", "table10/tresnet_l_224"])
def test_counted_costs_are_the_published_ones(name):
    config, classifier = make(name)
    published = ROWS[name].published["macs"]
    assert count_macs(classifier, config.dataset.image_size) / 1e9 == pytest.approx(published, rel=0.02)


def headers():
    path = Path(__file__).parents[2] / "scripts" / "write_headers.py"
    spec = importlib.util.spec_from_file_location("write_headers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECKED = ["table1/ml_decoder_k20", "table9/gap", "table2/transformer_decoder", "desk/table1/gap", "coco_tresnet_l"]


@pytest.mark.parametrize("name", CHECKED)
def test_the_comment_at_its_head_is_up_to_date(name):
    check_header(name)


@pytest.mark.slow  # counts the cost of every network: a minute
@pytest.mark.parametrize("name", sorted(set(ROWS) - set(CHECKED)))
def test_every_comment_is_up_to_date(name):
    check_header(name)


def check_header(name: str) -> None:
    """`python scripts/write_headers.py` would change nothing."""
    module = headers()
    text = (module.EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8")
    assert module.with_header(text, module.header(name)) == text
    assert f"experiment={name}" in text


def test_a_name_with_a_width_says_the_width_that_is_trained():
    """`LESA-256`: its tokens, or its decoder, are that wide."""
    named = 0
    for table in load_tables("probe"):
        for row in table.reproduced:
            found = re.search(r"-(128|256)\b", str(row.cells.get("method", "")))
            if found is None:
                continue
            words = [f"{key}={value}" for key, value in row.settings.items()]
            head = build_config(compose.compose([f"experiment={row.experiment}", "dataset=digits", *words])).head
            widths = {getattr(head, name, None) for name in ("projection", "dim")} - {None}
            assert widths == {int(found[1])}, (table.id, row.key)
            named += 1
    assert named > 20
