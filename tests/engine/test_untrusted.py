"""Property: a checkpoint, run directory or exported folder from anybody is used for what it says, or refused in words;
its settings are literal, build no more than its weights, and neither write nor draw anything that nobody typed."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time

import pytest
import torch
from PIL import Image

import mldec
from mldec.commands import compose
from mldec.commands.evaluate import measured_config
from mldec.commands.main import run as command
from mldec.config import to_mapping
from mldec.engine import settings_file
from mldec.engine.checkpoint import load_checkpoint, restore, save_checkpoint
from mldec.engine.export import exported_model
from mldec.engine.metric_writer import read_records, scan_records
from mldec.engine.run_directory import read_metadata
from mldec.engine.stored_config import confine
from mldec.errors import CheckpointError, ConfigError, DataError, MldecError, shortened
from tests.curve import make, small_experiment
from tests.engine.test_export import SMALL, untrained
from tests.nested import put

SECONDS = 30  # on a busy machine; each takes about one


@pytest.fixture
def content(tmp_path):
    return load_checkpoint(untrained(tmp_path))


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert command(["train", *small_experiment(digits_root), *SMALL, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def changed(content, path, value):
    """A copy with one value set by its dotted path; ... takes it out."""
    made = copy.deepcopy(content)
    put(made, path.split("."), value)
    return made


# Fields ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("normalization", {"mean": [0.0] * 4, "std": [1.0] * 3}),
        ("normalization", {"mean": [0.0] * 3, "std": [1.0, 0.0, 1.0]}),
        ("normalization.std", "abc"),
        ("normalization.mean", [float("nan")] * 3),
        ("ema", [1]),
        ("model", {1: torch.zeros(1)}),
        ("model", {"a": 3}),
        ("model", {"." * 100_000: torch.zeros(1)}),
        ("reported", "foo"),
        ("labels", ["thing 0"] * 7),
        ("labels", [1] * 7),
        ("labels", []),
        ("labels", ["a\x1b[2J", *"bcdefg"]),
        ("seen", [True]),
        ("seen", "yes"),
        ("metrics", {"raw": torch.zeros(2)}),
        ("thresholds", {}),
        ("thresholds", {"thing 0": 2}),
        ("thresholds", {"thing 0": "high"}),
        ("step", -1),
        ("step", True),
        ("label_embeddings", {"names": ["a"], "vectors": 3, "source": "x"}),
        ("config", {}),
        ("config.head", 3),
        ("config.head.dim", torch.zeros(3)),
        ("config.head.dim", 2**200),
        ("config.head.name", "os.system"),
        ("config.head._target_", "os.system"),
        ("config.head.queries", "label_embeddings"),
        ("config.plugins", ["antigravity"]),
        ("config.dataset.image_size", 10**6),
        ("config.dataset.crop", 1e-9),
        ("config.runtime.workers", 10**6),
        ("config.runtime.threads", 10**9),
    ],
)
def test_a_wrong_field_is_one_error_that_names_the_file(content, tmp_path, path, value, capsys):
    save_checkpoint(tmp_path / "wrong.pt", changed(content, path, value))
    with pytest.raises((CheckpointError, ConfigError), match=r"wrong\.pt") as caught:
        mldec.load(tmp_path / "wrong.pt", weights="best")
    assert len(str(caught.value)) < 1500


def test_every_entry_of_what_resuming_needs_is_checked(run):
    path = run / "checkpoints" / "last.pt"
    whole = load_checkpoint(path)
    for name, value in (
        ("resume", 3),
        ("resume.optimizer", ...),
        ("resume.optimizer", {"state": 3}),
        ("resume.optimizer.param_groups", [{}]),
        ("resume.scaler", [1]),
        ("resume.ema_updates", "3"),
        ("resume.loss", [1]),
        ("resume.loss", {"mean": 3}),
        ("resume.progress", None),
        ("resume.progress.step", "4"),
        ("resume.progress.window", 3),
        ("resume.progress.surprise", 3),
    ):
        save_checkpoint(path, changed(whole, name, value))
        assert command(["train", f"resume={run}"]) == 2, name


def test_a_value_in_a_message_is_short_whatever_it_is():
    lists: list = []
    for _ in range(50):
        lists = [lists, lists]
    for value in ("x" * 10**6, 10**10_000, lists, dict.fromkeys(range(10**5)), torch.zeros(10**6), [["y" * 10**6] * 9]):
        assert len(shortened(value)) <= 200
    assert shortened(-3) == "-3"
    assert shortened("text") == "text"


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("head.num_layers", 10**7),
        ("head.dim", 10**9),
        ("head.ffn_dim", 2**40),
        ("backbone.widths", [8, 10**8]),
        ("backbone.blocks", [10**7, 1]),
        ("backbone.widths", [8] * 10**5),
        ("backbone", {"name": "timm", "model": "vit_giant_patch14_224"}),
        ("backbone", {"name": "resnet152"}),
        ("head", {"name": "transformer_decoder", "encoder_layers": 10**6}),
    ],
)
def test_a_network_is_built_no_larger_than_its_weights(content, tmp_path, path, value):
    save_checkpoint(tmp_path / "large.pt", changed(content, f"config.{path}", value))
    began = time.monotonic()
    with pytest.raises(MldecError, match=r"large\.pt"):
        restore(tmp_path / "large.pt")
    assert time.monotonic() - began < SECONDS


def test_the_same_holds_for_an_exported_folder(run, tmp_path):
    assert command(["export", f"run={run}", "format=safetensors", f"output={tmp_path / 'out'}"]) == 0
    path = tmp_path / "out" / exported_model.DESCRIPTION
    whole = json.loads(path.read_text())
    for name, value in (("head.num_layers", 10**7), ("head.dim", 10**9), ("dataset.image_size", 10**6)):
        path.write_text(json.dumps(changed(whole, f"config.{name}", value)))
        with pytest.raises(MldecError, match="out"):
            mldec.load(tmp_path / "out")


def test_weights_are_the_same_however_the_network_is_built(content, tmp_path, monkeypatch):
    from mldec.models import bounded

    fast = restore(tmp_path / "network.pt").classifier
    monkeypatch.setattr(bounded, "_shell", lambda make: None)
    slow = restore(tmp_path / "network.pt").classifier
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(fast(images), slow(images))
    pairs = zip(fast.named_parameters(), slow.named_parameters(), strict=True)
    assert all(a == b and p.requires_grad == q.requires_grad for (a, p), (b, q) in pairs)


# Text -----------------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_literal_and_what_is_typed_is_resolved(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    stored = to_mapping(make(["experiment=digits"]))
    stored["output"], stored["dataset"]["exclude"], stored["name"] = "${oc.env:SECRET_TOKEN}", "${broken", "???"
    found = compose.change(stored, ["seed=3", "head=gap", "init_from='${oc.env:SECRET_TOKEN}/${output}'"])
    assert found["output"] == "${oc.env:SECRET_TOKEN}"
    assert found["dataset"]["exclude"] == "${broken"
    assert found["name"] == "???"
    assert (found["seed"], found["head"]["name"]) == (3, "gap")
    assert found["init_from"] == "hunter2/${oc.env:SECRET_TOKEN}"
    assert "hunter2" not in compose.to_yaml(found | {"init_from": None})


def test_no_command_puts_the_environment_in(run, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    path = run / "checkpoints" / "best.pt"
    save_checkpoint(path, changed(load_checkpoint(path), "config.output", "${oc.env:SECRET_TOKEN}"))
    settings = settings_file.read_settings(run / "config.yaml") | {"output": "${oc.env:SECRET_TOKEN}"}
    (run / "config.yaml").write_text(settings_file.write_settings(settings))
    assert command(["evaluate", f"run={run}", f"output={tmp_path / 'e'}"]) == 0
    assert command(["train", f"resume={run}"]) == 0
    assert command(["export", f"run={run}", "format=safetensors", f"output={tmp_path / 'x'}"]) == 0
    assert "hunter2" not in "".join(capfd.readouterr())
    written = [path for folder in (run, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hunter2" in path.read_bytes()]
    assert settings_file.read_settings(run / "config.yaml")["output"] == "${oc.env:SECRET_TOKEN}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not read"),
        ("a: [" * 1000, "more than 20 levels"),
        ("a: 1\na: 2", "twice"),
        ("a: !!python/object:os.system x", "tags are not read"),
        ("a: " + "9" * 5000, "is not an integer of at most 20 decimal digits"),
        ("a: " + "x" * 2**21, "at most 1,048,576 are read"),
        ("", "holds no settings"),
        ("\x00", "cannot be read"),
        ("- 1", "holds no settings"),
    ],
)
def test_settings_that_stand_for_more_than_they_hold(run, text, message, capsys):
    (run / "config.yaml").write_text(text)
    assert command(["train", f"resume={run}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "config.yaml" in error


@pytest.mark.parametrize(
    "value",
    [
        *('!!bool "x"', '!!timestamp "x"', '!!int ""', '!!float ""', "!!float 1:x", "!!binary x", "!!null [x]", "! x"),
        *("!!set {x, y}", "!!omap [x: 1]", "!!pairs [1]", "!!str [1]", "!!seq {x: 1}", "!mine x", "!!map [1]"),
        *("0x" + "f" * 9000, "0b11", "010", "1_000", "1" + ":1" * 3000, "-1:30", "123456789012345678901"),
    ],
)
def test_only_plain_values_and_decimal_integers_are_settings(value, tmp_path):
    path = tmp_path / "config.yaml"
    for text in (f"a: 1\nb: {value}\n", f"a:\n- {value}\n", f"{value}\n" if value.startswith("!") else f"a: [{value}]"):
        path.write_text(text)
        began = time.monotonic()
        with pytest.raises(
            ConfigError, match=r"config\.yaml .*(tags are not read|decimal digits).*\(line \d\)"
        ) as caught:
            settings_file.read_settings(path)
        assert time.monotonic() - began < SECONDS
        assert len(str(caught.value)) < 1000


def test_signs_of_yaml_that_stand_for_other_values_are_text(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: {<<: {b: 1}, b: 2}\nc: {=: 1}\nd: [-0, +7, 18446744073709551615, 1_0.5]\n")
    assert settings_file.read_settings(path) == {
        "a": {"<<": {"b": 1}, "b": 2},
        "c": {"=": 1},
        "d": [0, 7, 18446744073709551615, 10.5],
    }


def test_settings_come_back_as_they_were_written(tmp_path):
    settings = to_mapping(make(["experiment=digits"])) | {"name": "1e-3", "output": "0x1f", "run_dir": "yes"}
    settings["init_from"], settings["dataset"]["root"] = "2026-01-01", "<<"
    (tmp_path / "config.yaml").write_text(settings_file.write_settings(settings), encoding="utf-8")
    assert settings_file.read_settings(tmp_path / "config.yaml") == settings


# Places ---------------------------------------------------------------------------------------------------------------


def test_images_are_drawn_only_where_somebody_typed(run, tmp_path, capsys):
    path, elsewhere = run / "checkpoints" / "best.pt", tmp_path / "elsewhere"
    save_checkpoint(path, changed(load_checkpoint(path), "config.dataset.root", str(elsewhere)))
    assert command(["evaluate", f"run={run}"]) == 2
    assert f"set it: dataset.root={elsewhere}" in capsys.readouterr().err
    assert not elsewhere.exists()
    settings = settings_file.read_settings(run / "config.yaml")
    settings["dataset"]["root"] = str(elsewhere)
    (run / "config.yaml").write_text(settings_file.write_settings(settings))
    assert command(["train", f"resume={run}"]) == 2
    assert command(["report", f"run={run}"]) == 0
    assert not elsewhere.exists()
    assert command(["evaluate", f"run={run}", f"dataset.root={elsewhere}"]) == 0
    assert elsewhere.exists()


def test_how_many_are_drawn_and_how_large_is_typed_too(tmp_path):
    config = make(["experiment=digits", "dataset.train=1000000", f"dataset.root={tmp_path / 'x'}"])
    with pytest.raises(DataError, match=r"at most 50,000 images; set dataset\.train=1000000 on the command line"):
        confine(config, {"dataset.root"}, "a.pt")
    assert confine(config, {"dataset.root", "dataset.train"}, "a.pt") == config
    assert confine(config, {"dataset"}, "a.pt") == config


def test_cifar_is_unpacked_only_where_somebody_typed(tmp_path):
    root = tmp_path / "cifar"
    config = make(["experiment=digits", "dataset=cifar100", "loss=ce", f"dataset.root={root}"])
    assert confine(config, set(), "a.pt") == config  # nothing can be written; reading says what is missing
    (root / "cifar-100-binary").mkdir(parents=True)
    for name in ("train.bin", "test.bin", "fine_label_names.txt"):
        (root / "cifar-100-binary" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=rf"unless you set it: dataset\.root={root}"):
        confine(config, {"dataset.image_size"}, "a.pt")
    for typed in ({"dataset.root"}, {"dataset"}):
        assert confine(config, typed, "a.pt") == config


def test_a_stored_place_of_the_cache_is_not_used(tmp_path, caplog):
    trained = make(["experiment=digits", f"dataset.cache={tmp_path / 'cache'}", f"dataset.root={tmp_path}"])
    overrides = (f"dataset.root={tmp_path}",)
    with caplog.at_level(logging.INFO):
        found = measured_config(trained, compose.Arguments(overrides), "a.pt")
    assert found.dataset.cache is None
    assert "dataset.cache=" in caplog.text
    arguments = compose.Arguments((*overrides, f"dataset.cache={tmp_path / 'mine'}"))
    assert measured_config(trained, arguments, "a.pt").dataset.cache == str(tmp_path / "mine")


def test_what_is_taken_of_this_machine_is_typed(tmp_path):
    for override in ("runtime.workers=1000", "runtime.eval_batch_size=1000000", "schedule.batch_size=1000000"):
        config = make(["experiment=digits", override])
        with pytest.raises(ConfigError, match=rf"set {override.partition('=')[0]}="):
            confine(config, {"dataset"}, "a.pt")
        assert confine(config, {"dataset", override.partition("=")[0]}, "a.pt") == config


# Files that are gone or damaged ---------------------------------------------------------------------------------------


def test_a_lost_best_epoch_is_said_and_not_reported(run, capsys, caplog):
    last, best = (run / "checkpoints" / f"{name}.pt" for name in ("last", "best"))
    content = changed(load_checkpoint(last), "resume.progress.best", 99.0)
    steps = content["resume"]["progress"]["step"] // 2
    content["resume"]["progress"]["best_epoch"] = 1
    save_checkpoint(last, content)
    best.unlink(missing_ok=True)
    (run / "thresholds.csv").write_text("of the lost weights")
    # After the last epoch there is nothing but its own weights.
    assert command(["train", f"resume={run}"]) == 0
    out, diagnostics = capsys.readouterr()
    assert (
        "best.pt is missing: the weights of the best epoch, 1, are lost; the last epoch is used instead" in diagnostics
    )
    assert "weights of epoch 2" in out
    assert read_records(run / "metrics.jsonl")[-1]["epoch"] == 2
    assert not (run / "thresholds.csv").exists()
    caplog.clear()
    assert restore(run).step == 2 * steps
    # Before it, the best of the epochs that remain, however good the lost one was.
    for name, value in (("epochs", 1), ("step", steps), ("updates", steps)):
        content["resume"]["progress"][name] = value
    save_checkpoint(last, content)
    caplog.clear()
    restore(run)
    assert "best.pt is missing, the weights of epoch 1 are lost" in caplog.text
    assert command(["train", f"resume={run}"]) == 0
    test = read_records(run / "metrics.jsonl")[-1]
    assert (test["kind"], test["epoch"]) == ("test", 2)
    assert load_checkpoint(best)["step"] == 2 * steps
    # Before the first step there is nothing that was trained.
    best.unlink()
    content["resume"]["progress"] |= {"best_epoch": 0, "epochs": 0, "step": 0}
    save_checkpoint(last, content | {"step": 0})
    caplog.clear()
    restore(run)
    assert "its head has not been trained, and its scores mean nothing" in caplog.text
    assert (run / "thresholds.csv").exists()


def test_a_damaged_best_epoch_is_as_good_as_lost(run, capsys):
    best = run / "checkpoints" / "best.pt"
    best.write_bytes(best.read_bytes()[:1000])
    assert command(["train", f"resume={run}"]) == 0
    assert "best.pt is damaged" in capsys.readouterr().err
    assert read_records(run / "metrics.jsonl")[-1]["epoch"] == 2


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b'{"seconds": "x", "peak_memory": [1]}'])
def test_files_that_only_note_something_stop_nothing(run, content, capsys, caplog):
    for name in ("cost.json", "data.json", "environment.json"):
        (run / name).write_bytes(content)
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    (run / "metrics.jsonl").write_bytes(b"\n".join([b'{"kind": "tr', b"\xff", b'{"kind": "eval"}', *lines[1:]]) + b"\n")
    assert command(["export", f"run={run}", "format=safetensors", f"output={run / 'x'}"]) == 0
    assert command(["report", f"run={run}"]) == 0
    assert command(["train", f"resume={run}"]) == 0
    assert "metrics.jsonl is damaged: 3 lines are skipped (line 1, 2, 3)" in caplog.text
    if not content.startswith(b'{"'):
        assert "cost.json is damaged" in caplog.text
    assert read_metadata(run / "cost.json")["seconds"] > 0
    records, damaged = scan_records(run / "metrics.jsonl")
    assert not damaged
    assert [record["kind"] for record in records if record["kind"] != "train"] == ["eval", "eval", "test"]


def test_no_command_writes_through_a_linked_subdirectory(run, trained, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    for name in ("images", "checkpoints"):
        shutil.rmtree(run / name)
        (run / name).symlink_to(trained / name)
        files = sorted(run.iterdir())
        assert command(["train", f"resume={run}", "schedule.epochs=9", "allow_schedule_change=true"]) == 2
        assert f"{run / name} is a symbolic link" in capsys.readouterr().err
        assert sorted(run.iterdir()) == files
    for name, words in (("evaluation", ["evaluate"]), ("export", ["export", "format=safetensors"])):
        (run / name).symlink_to(trained)
        assert command([*words, f"run={run}"]) == 2
        assert f"{run / name} is a symbolic link" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_report_of_records_of_any_kind_is_a_page(run):
    odd, names = [None, "x", -1, 1e400, [], {}, True], ("raw", "ema", "loss", "lr", "best")
    lines = [json.dumps({"kind": "eval", "step": 1, "epoch": value, "raw": value}) for value in odd]
    lines += [
        json.dumps({"kind": kind, "step": 1, "epoch": 1, **dict.fromkeys(names, v)})
        for kind in ("train", "eval", "test")
        for v in odd
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")
    assert command(["report", f"run={run}"]) == 0


def test_a_damaged_file_of_thresholds_is_one_error(run, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    predict = ["predict", f"run={run}", f"input={tmp_path / 'image.png'}", f"thresholds={run / 'thresholds.csv'}"]
    for content in (b"", b"nothing\n1\n", b"label,threshold\nx,2\n", b"\xff\xfe"):
        (run / "thresholds.csv").write_bytes(content)
        assert command(["evaluate", f"run={run}"]) == 0  # with the thresholds of best.pt
        assert "thresholds of thresholds.csv" in capsys.readouterr().out
        assert command(predict) == 2
        assert "thresholds.csv" in capsys.readouterr().err
