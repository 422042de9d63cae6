"""Property: overrides become exactly one experiment, or one sentence with what to use instead."""

from __future__ import annotations

import sys

import pytest

from mldec.commands import compose, main
from mldec.commands.options import EXPERIMENT, parse
from mldec.commands.train import TrainOptions
from mldec.config import build_config, to_mapping
from mldec.errors import ConfigError


@pytest.fixture(autouse=True)
def _components() -> None:
    compose.load_components(())


def composed(*overrides: str, notes: list[str] | None = None) -> dict:
    return compose.compose(overrides, notes=notes)


@pytest.mark.parametrize("name", compose.choices("experiment"))
def test_every_experiment_composes_and_validates_and_survives_yaml(name, tmp_path):
    data = ["dataset=digits"] if name.startswith(("probe", "finetune")) else []  # those on any data set
    config = build_config(composed(f"experiment={name}", *data))
    (tmp_path / "config.yaml").write_text(compose.to_yaml(to_mapping(config)))
    assert build_config(compose.read_yaml(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in compose.GROUPS for choice in compose.choices(group)]
)
def test_every_choice_of_every_group_composes_and_validates(group, choice):
    # The paper's protocol cycles momentum, which cosine has not; the standard one goes with everything.
    more = ["backbone.model=resnet18"] if (group, choice) == ("backbone", "timm") else []
    more += ["dataset.train=mine.csv"] if choice in ("table", "coco_json") else []
    more += ["dataset.root=mine"] if choice == "folder" else []
    if "???" in (compose.config_folder() / group / f"{choice}.yaml").read_text():
        more += ["head.label_embeddings.source=random:3"]
    config = build_config(composed("experiment=digits", f"{group}={choice}", *more))
    if group not in ("runtime", "protocol"):
        assert getattr(config, group).name


def test_the_papers_protocol_depends_on_the_dataset():
    """Open Images' published figure is of another AP than COCO's; an override still wins."""
    assert composed("dataset=openimages", "protocol=paper")["protocol"]["average_precision"] == "partial"
    assert composed("dataset=openimages")["protocol"]["average_precision"] == "exact"
    assert composed("experiment=coco_tresnet_l", "dataset=voc2007")["protocol"]["average_precision"] == "exact"
    overrides = ("dataset=openimages", "protocol=paper", "protocol.average_precision=paper")
    assert composed(*overrides)["protocol"]["average_precision"] == "paper"


def test_null_chooses_nothing():
    assert composed("experiment=digits", "debug=null") == composed("experiment=digits")
    with pytest.raises(ConfigError, match="no dataset chosen"):
        composed("dataset=null")
    with pytest.raises(ConfigError, match="head=null: no such head"):
        composed("dataset=digits", "head=null")


@pytest.mark.parametrize("choice", compose.choices("debug"))
def test_every_debug_choice_goes_with_an_experiment(choice):
    assert build_config(composed("experiment=digits", f"debug={choice}"))


def test_the_command_line_wins_over_the_experiment_and_the_experiment_over_the_protocol():
    paper = build_config(composed("experiment=coco_tresnet_l"))
    assert paper.optimizer.name == "adam"
    assert paper.schedule.cycle_momentum
    assert paper.dataset.unannotated == "drop"
    assert paper.protocol.average_precision == "paper"
    mine = build_config(composed("experiment=coco_tresnet_l", "optimizer=sgd", "schedule.cycle_momentum=false"))
    assert mine.optimizer.name == "sgd"
    assert not mine.schedule.cycle_momentum
    assert build_config(composed("experiment=digits", "protocol=paper")).optimizer.name == "adam"


def test_the_published_coco_recipe_is_what_the_experiment_says():
    """Paper §4.1, appendix C."""
    config = build_config(composed("experiment=coco_tresnet_l"))
    assert (config.backbone.name, config.head.name, config.head.num_groups, config.head.dim) == (
        "tresnet_l",
        "ml_decoder",
        None,
        768,
    )
    schedule = config.schedule
    assert (schedule.epochs, schedule.batch_size, schedule.max_lr, schedule.pct_start) == (40, 56, 1e-4, 0.2)
    assert (config.loss.gamma_neg, config.loss.gamma_pos, config.loss.clip, config.loss.reduction) == (
        4,
        0,
        0.05,
        "sum",
    )
    assert config.optimizer.weight_decay == 1e-4
    assert config.ema.decay == 0.9997
    assert not config.ema.warmup
    assert config.augment.cutout == 0.5
    assert config.augment.randaugment
    assert config.backbone.normalize == "unit"
    assert (config.dataset.year, config.dataset.image_size) == (2014, 448)


def test_the_zero_shot_recipe_of_the_released_script_is_another_than_that_of_the_paper():
    found = []
    for name in ("nuswide_zsl", "nuswide_zsl_code"):
        config = build_config(composed(f"experiment={name}", "dataset.root=x"))
        found.append((config.loss.name, config.optimizer.weight_decay))
        assert config.loss.reduction == "sum"
        assert (config.schedule.epochs, config.schedule.batch_size, config.schedule.max_lr) == (40, 56, 1e-4)
    assert found == [("bce", 1e-4), ("asl", 1e-2)]


def test_another_source_of_label_embeddings_leaves_the_names_of_the_stored_one_behind():
    stored = {"source": "a.npy", "names": "a.txt", "aliases": "b.tsv", "templates": ["{}"], "seed": 0}

    def changed(*overrides: str) -> dict:
        return compose.change({"head": {"label_embeddings": stored}}, overrides)["head"]["label_embeddings"]

    assert changed("head.label_embeddings.source=b.txt") == {**stored, "source": "b.txt", "names": None}
    assert changed("head.label_embeddings.source=a.npy") == stored
    both = changed("head.label_embeddings.names=b.txt", "head.label_embeddings.source=b.npy")
    assert (both["source"], both["names"]) == ("b.npy", "b.txt")


def test_any_key_of_a_component_can_be_set_though_no_file_mentions_it():
    assert build_config(composed("experiment=digits", "head.num_groups=20", "loss.gamma_neg=2")).head.num_groups == 20


def test_any_timm_model_is_a_choice_of_backbone():
    backbone = build_config(composed("experiment=digits", "backbone=convnext_tiny")).backbone
    assert (backbone.name, backbone.model) == ("timm", "convnext_tiny")


def test_settings_of_a_replaced_component_are_left_out_with_a_note(capsys):
    notes = []
    mapping = composed("experiment=digits", "head=gap", notes=notes)
    assert mapping["head"] == {"name": "gap", "dropout": 0.0}
    assert "head=gap has no dim; left out head.dim=128" in notes
    assert capsys.readouterr() == ("", "")  # composing prints nothing
    with pytest.raises(ConfigError, match=r"head\.num_groups"):
        build_config(composed("experiment=digits", "head=gap", "head.num_groups=3"))
    # What both have is kept: heads are compared at equal widths.
    assert (
        composed("experiment=digits", "head=transformer_decoder")["head"]["dim"]
        == composed("experiment=digits")["head"]["dim"]
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=digit"], "no such experiment; did you mean digits?"),
        (["experiment=digits", "head=ml_decodr"], "no such head; did you mean ml_decoder?"),
        (["experiment=digits", "hed=gap"], "hed=gap: no such option of mldec train; did you mean head?"),
        (["experiment=digits", "epochs=3"], "epochs=3: no such option of mldec train; did you mean schedule.epochs?"),
        (["workers=3", "experiment=digits"], "did you mean runtime.workers?"),
        (
            ["experiment=digits", "head.num_group=20"],
            "head.num_group: head=ml_decoder has no such setting; did you mean num_groups?",
        ),
        (["experiment=digits", "schedule.epochs=many"], "schedule.epochs=many: expected an integer ≥ 1"),
        (["experiment=digits", "seed=1,2"], "several values need -m"),
        (["experiment=digits", "+seed=1"], "no '+' or '~' is needed"),
        (["experiment=digits", "hydra.run.dir=x"], "run_dir="),
        (["experiment=digits", "name=a b(c"], "cannot be read as key=value"),
        (["experiment=digits", "seed=" + "9" * 5000], "an integer of 5,000 digits; integers from -9,223,"),
        ([], "no dataset chosen; add dataset=PATH"),
    ],
)
def test_a_mistake_gets_one_sentence_that_helps(overrides, message):
    with pytest.raises(ConfigError) as caught:
        build_config(composed(*parse(overrides, TrainOptions, "train")[1].overrides))
    assert message in str(caught.value)


@pytest.mark.parametrize("argument", ["experiment", "--epochs=3", "-x"])
def test_what_is_no_override_is_refused(argument):
    with pytest.raises(ConfigError):
        parse([argument], TrainOptions, "train")


def test_debug_shows_tracebacks_or_is_a_choice(capsys):
    for argument, shown in (("debug=true", True), ("debug=True", True), ("debug=false", False), ("debug=fast", False)):
        assert main.run(["show", "hed=gap", argument]) == 2
        assert ("Traceback" in capsys.readouterr().err) == shown, argument
    for argument, left in (("debug=true", ()), ("debug=false", ()), ("debug=fast", ("debug=fast",))):
        assert parse([argument], TrainOptions, "train")[1].overrides == left


def test_a_config_file_may_choose_values_but_neither_code_nor_plugins(tmp_path):
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment" / "mine.yaml"
    head = "# @package _global_\ndefaults:\n  - override /dataset: digits\n"
    mine.write_text(head + "name: mine\nseed: 7\n")
    assert compose.compose(["experiment=mine"], str(tmp_path))["seed"] == 7
    for harm in (
        "hydra: {callbacks: {evil: {_target_: os.system}}}\n",
        "hydra: {launcher: {_target_: os.system}}\n",
        "plugins: [os]\n",
    ):
        mine.write_text(head + harm)
        with pytest.raises(ConfigError):
            compose.compose(["experiment=mine"], str(tmp_path))
    mine.write_text(head + "head: {_target_: os.system}\n")
    with pytest.raises(ConfigError, match="_target_: head=ml_decoder has no such setting"):
        build_config(compose.compose(["experiment=mine"], str(tmp_path)))


def test_a_sweep_is_the_product_of_its_axes():
    runs = compose.expand_sweep(["experiment=digits", "head=gap,ml_decoder", "seed=range(0,3)"])
    assert len(runs) == 6
    assert runs[0] == ["experiment=digits", "head=gap", "seed=0"]
    assert len({tuple(run) for run in runs}) == 6


def test_a_stored_experiment_takes_keys_and_choices_but_no_experiment():
    stored = to_mapping(build_config(composed("experiment=digits")))
    changed = compose.change(stored, ["runtime.workers=3", "dataset=coco", "dataset.root=/data/coco"])
    assert changed["runtime"]["workers"] == 3
    assert changed["dataset"]["name"] == "coco"
    assert build_config(changed).dataset.root == "/data/coco"
    assert stored == to_mapping(build_config(stored))  # untouched
    with pytest.raises(ConfigError, match="whole new experiment"):
        compose.change(stored, ["experiment=digits"])


def test_an_experiment_may_build_on_another_and_replace_its_head(tmp_path):
    (tmp_path / "experiment").mkdir()
    mine = "# @package _global_\ndefaults:\n  - digits\n  - override /head: gap\n  - _self_\nname: mine\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(mine)
    notes = []
    config = build_config(compose.compose(["experiment=mine"], str(tmp_path), notes))
    assert (config.head.name, config.name, config.schedule.epochs) == ("gap", "mine", 6)
    assert any("left out head.dim=128" in note for note in notes)
    (tmp_path / "experiment" / "mine.yaml").write_text(mine + "head: {dimm: 3}\n")
    with pytest.raises(ConfigError, match=r"head\.dimm"):
        build_config(compose.compose(["experiment=mine"], str(tmp_path)))


def test_modules_are_found_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "parts_of_mine.py").write_text("loaded = True\n")
    compose.load_components(["parts_of_mine"])
    assert sys.modules["parts_of_mine"].loaded


def test_a_directory_of_configs_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match="no such directory"):
        parse(["--config-dir=/nowhere/at/all"], TrainOptions, "train")


def test_commands_that_take_an_experiment_take_all_of_it():
    assert set(EXPERIMENT) == {
        *compose.CHOICES,
        "name",
        "seed",
        "output",
        "run_dir",
        "init_from",
        "init_part",
        "recipe",
        "cache",
    }
