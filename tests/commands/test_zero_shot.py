"""Property: a zero-shot run trains its start once, and predicts and is measured on any labels, also of other data."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mldec.commands.main import run
from mldec.data.digits import COLOURS, DIGITS, unseen_classes
from mldec.engine.metric_writer import is_complete, read_records

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "nuswide"


def small_zero_shot(digits_root: Path, folder: Path) -> list[str]:
    """experiment=digits_zsl made small, with label embeddings that need no text model."""
    return [
        "experiment=digits_zsl",
        "head.label_embeddings.source=random:12",
        f"dataset.root={digits_root}",
        *(f"dataset.{split}={count}" for split, count in {"train": 96, "val": 24, "test": 24}.items()),
        "schedule.epochs=1",
        "schedule.batch_size=32",
        "head.ffn_dim=32",
        "runtime=cpu",
        "runtime.threads=1",
        "runtime.workers=0",
        "runtime.tensorboard=false",
        f"output={folder / 'outputs'}",
    ]


@pytest.fixture
def zero_shot(digits_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return small_zero_shot(digits_root, tmp_path)


@pytest.fixture(scope="module")
def trained_once(digits_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(["train", *small_zero_shot(digits_root, folder), f"run_dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def trained(trained_once, tmp_path, monkeypatch):
    """A run directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_once, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def image(tmp_path):
    folder = tmp_path / "images" / "inside"
    folder.mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(
            str(folder / f"{number}.jpg"), np.random.default_rng(number).integers(0, 255, (64, 80, 3), np.uint8)
        )
    (folder.parent / "notes.txt").write_text("no image")
    return folder / "0.jpg"


def test_what_a_run_starts_from_is_trained_once_and_resumed_where_it_was_cut_off(zero_shot, tmp_path, capsys):
    options = [*zero_shot, "runtime.limit_train_batches=1"]
    assert run(["train", *options]) == 0
    (start,) = (tmp_path / "outputs" / "digits_zsl_start").iterdir()
    printed, diagnostics = capsys.readouterr()
    assert f"note: starting from digits_zsl_start in {start}, which is trained first, once" in diagnostics
    assert "60 of 60 tensors loaded" in printed
    (config,) = (tmp_path / "outputs" / "digits_zsl").glob("*/config.yaml")
    assert f"init_from: {start}" in config.read_text()

    before = (start / "metrics.jsonl").read_text()
    assert run(["train", *options, "head.fc=shared"]) == 0  # another head: the same start
    assert (start / "metrics.jsonl").read_text() == before
    assert f"note: starting from digits_zsl_start in {start}\n" in capsys.readouterr().err  # which is not trained again
    assert run(["train", *options, "seed=1"]) == 0  # another seed: another start
    assert len(list((tmp_path / "outputs" / "digits_zsl_start").iterdir())) == 2

    lines = before.splitlines()
    (start / "metrics.jsonl").write_text("\n".join(line for line in lines if '"test"' not in line) + "\n")
    assert not is_complete(start)
    assert run(["train", *options]) == 0
    assert is_complete(start)
    assert "resumed at step" in capsys.readouterr().out


def test_a_resumed_run_needs_its_directory_alone_and_not_the_embeddings(zero_shot, tmp_path, capsys):
    listed = [f"{colour} {' '.join(map(str, range(n, n + 12)))}" for n, colour in enumerate(COLOURS)]
    listed += [f"{digit} {' '.join(str((n * k) % 7) for k in range(1, 13))}" for n, digit in enumerate(DIGITS, 1)]
    (tmp_path / "vectors.txt").write_text("\n".join(listed))
    options = [
        *zero_shot,
        "init_from=null",
        "init_part=all",
        f"head.label_embeddings.source={tmp_path / 'vectors.txt'}",
    ]
    assert run(["train", *options, f"run_dir={tmp_path / 'run'}"]) == 0
    before = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["label_embeddings"]
    (tmp_path / "vectors.txt").unlink()
    more = ["schedule.epochs=2", "allow_schedule_change=true"]
    assert run(["train", f"resume={tmp_path / 'run'}", *more]) == 0
    after = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["label_embeddings"]
    assert torch.equal(after["vectors"], before["vectors"])
    assert (after["names"], after["source"]) == (before["names"], before["source"])


def test_a_start_that_does_not_exist_is_one_line(zero_shot, capsys):
    assert run(["train", *zero_shot, "init_from=experiment:digitz"]) == 2
    assert "experiment=digitz: no such experiment; did you mean digits?" in capsys.readouterr().err


def test_evaluating_a_zero_shot_run_gives_its_own_figures(trained, capsys):
    assert run(["evaluate", f"run={trained}"]) == 0
    metrics = json.loads((trained / "evaluation" / "digits_test" / "metrics.json").read_text())["metrics"]
    record = read_records(trained / "metrics.jsonl")[-1]
    assert metrics == {name: record[name] for name in metrics}
    assert "unseen labels (ZSL)" in capsys.readouterr().out


def test_evaluating_on_labels_of_another_dataset(trained, image, tmp_path, capsys):
    rows = [
        ["path", "labels"],
        ["inside/0.jpg", "red seven;zebra"],
        ["inside/1.jpg", "zebra"],
        ["inside/2.jpg", "blue one"],
    ]
    with (tmp_path / "images" / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    table = tmp_path / "images" / "test.csv"
    options = ["dataset=table", f"dataset.train={table}", f"dataset.test={table}", "dataset.image_size=64"]
    assert run(["evaluate", f"run={trained}", *options, f"output={tmp_path / 'there'}"]) == 0
    metrics = json.loads((tmp_path / "there" / "metrics.json").read_text())["metrics"]
    assert {"seen_mAP", "zsl_mAP", "gzsl_mAP"} <= set(metrics)  # of these labels only "zebra" was not trained
    assert metrics["classes_counted"] == 3


def test_any_labels_can_be_predicted(trained, image, tmp_path, capsys):
    options = ["predict", f"run={trained}", f"input={tmp_path / 'images'}", "labels=zebra crossing, espresso,red seven"]
    assert run([*options, "top_k=2", f"output={tmp_path / 'out'}", "maps=true"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["0.jpg", "1.jpg", "2.jpg"]
    for line in lines:
        assert len(line["labels"]) == 2
        assert set(line["labels"]) <= {"zebra crossing", "espresso", "red seven"}
    assert cv2.imread(str(tmp_path / "out" / "maps" / "0.jpg.png")) is not None
    printed, diagnostics = capsys.readouterr()
    assert "3 images, 3 labels" in diagnostics
    assert "0.jpg: " in printed

    listed = tmp_path / "labels.txt"
    listed.write_text("zebra crossing\n\nespresso\n")
    assert run(["predict", f"run={trained}", f"input={image}", f"labels=@{listed}", "threshold=0"]) == 0
    assert "1 image, 2 labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["labels=red seven,red seven"], "found more than once: red seven"),
        (["labels=red seven,red seven"], 'use labels="red seven"'),
        (["labels="], "labels=: empty; set a value"),
        (["labels=@twice.txt"], "found more than once: zebra; list each label once, one per line"),
        (["labels=red seven,,blue one"], "found an empty one"),
        (["labels=red seven,,blue one"], 'use labels="red seven,blue one"'),
        (["labels=zebra", "label_embeddings=rows.npy"], "rows.npy has no names"),
        (["labels=zebra", "label_embeddings="], "label_embeddings=: empty; set a value"),
        (
            ["labels=zebra", "head.label_embeddings.alias=x"],
            "head.label_embeddings.alias: no such setting; did you mean aliases?",
        ),
        (["labels=@absent.txt"], "labels=@absent.txt: cannot be read"),
        (["labels=zebra", "label_embeddings=other.txt"], "width 2, the network was trained with width 12"),
        (
            ["labels=zebra crossing", "label_embeddings=short.txt"],
            "'zebra crossing' (no 'crossing'): nearest known: crossings",
        ),
    ],
)
def test_bad_options_are_one_clear_error(trained, image, tmp_path, capsys, options, message):
    (tmp_path / "other.txt").write_text("zebra 1 2\n")
    (tmp_path / "twice.txt").write_text("zebra\nzebra\n")
    np.save(tmp_path / "rows.npy", np.ones((1, 12), np.float32))
    (tmp_path / "short.txt").write_text(f"zebra {' 1' * 12}\ncrossings {' 2' * 12}\n".replace("  ", " "))
    capsys.readouterr()
    assert run(["predict", f"run={trained}", f"input={image}", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_new_labels_are_looked_up_as_their_aliases_say(trained, image, tmp_path, capsys):
    (tmp_path / "more.txt").write_text(f"crossing {' '.join('12' * 6)}\n")
    (tmp_path / "aliases.txt").write_text("zebra crossing\tcrossing\n")
    options = [
        "labels=zebra crossing",
        "label_embeddings=more.txt",
        "head.label_embeddings.aliases=aliases.txt",
        "top_k=1",
    ]
    assert run(["predict", f"run={trained}", f"input={image}", *options]) == 0
    assert "zebra crossing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["label_embeddings=more.txt"], "label_embeddings=more.txt: without labels=… none are looked up"),
        (
            ["labels=red seven,red five", "label_embeddings=more.txt"],
            "label_embeddings=more.txt: the run has embeddings of all these labels",
        ),
        (
            ["labels=zebra", "label_embeddings=random:12", 'head.label_embeddings.templates=["a {}"]'],
            "head.label_embeddings.templates=['a {}']: without",
        ),
    ],
)
def test_settings_of_label_embeddings_without_effect_are_warnings(trained, image, capsys, options, message):
    assert run(["predict", f"run={trained}", f"input={image}", *options]) == 0
    assert f"warning: {message}" in capsys.readouterr().err


def test_tuned_thresholds_are_of_the_labels_of_the_dataset_alone(trained, image, tmp_path, capsys):
    """Also of those that were not trained; of any other there are none."""
    options = ["predict", f"run={trained}", f"input={image}", "thresholds=tuned", "threshold=0", "output=x.jsonl"]
    assert run([*options, "labels=zebra,red seven,purple eleven"]) == 0
    warning = "thresholds=tuned: 2 of 3 labels are not in it and have threshold=0: zebra, purple eleven"
    assert f"warning: {warning}" in capsys.readouterr().err
    assert {"zebra", "purple eleven"} <= set(json.loads((tmp_path / "x.jsonl").read_text())["labels"])
    assert run([*options, f"labels={unseen_classes(8)[0][0]}"]) == 0
    assert "are not in it" not in capsys.readouterr().err


def test_settings_of_label_embeddings_without_effect_on_an_evaluation_are_warnings(trained, capsys):
    assert run(["evaluate", f"run={trained}", "head.label_embeddings.source=more.txt"]) == 0
    warning = "warning: head.label_embeddings.source: the run has embeddings of all these labels"
    assert warning in capsys.readouterr().err


def test_wrong_label_embeddings_are_an_error_before_the_start_is_trained(zero_shot, tmp_path, capsys):
    options = [*zero_shot, f"head.label_embeddings.source={tmp_path / 'vectors.txt'}"]
    (tmp_path / "vectors.txt").write_text("")
    assert run(["train", *options]) == 2
    assert not (tmp_path / "outputs").exists()


def test_epochs_cannot_be_compared_by_labels_that_val_does_not_know(zero_shot, tmp_path, capsys):
    assert run(["train", *zero_shot, "protocol.zero_shot=zsl"]) == 2
    assert "use protocol.zero_shot=seen or dataset.zero_shot=choose" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()  # nor was the start trained
    assert run(["train", *zero_shot, "init_from=null", "init_part=all", "protocol.zero_shot=zsl"]) == 2
    assert "use protocol.zero_shot=seen or dataset.zero_shot=choose" in capsys.readouterr().err


def test_a_checkpoint_without_label_embeddings_predicts_no_new_labels(small_digits, image, tmp_path, capsys):
    assert run(["train", *small_digits, "schedule.epochs=1", f"run_dir={tmp_path / 'plain'}"]) == 0
    assert run(["predict", f"run={tmp_path / 'plain'}", f"input={image}", "top_k=1", "label_embeddings=x.txt"]) == 0
    assert "warning: label_embeddings=x.txt: this network has no label embeddings" in capsys.readouterr().err
    assert run(["predict", f"run={tmp_path / 'plain'}", f"input={image}", "labels=zebra"]) == 2
    assert (
        "trained without label embeddings. Train one with head=zero_shot head.label_embeddings.source="
        in capsys.readouterr().err
    )


def test_missing_label_embeddings_stop_before_anything_is_written(zero_shot, tmp_path, capsys):
    (tmp_path / "vectors.txt").write_text("red 1 2\nseven 3 4\n")
    options = [*zero_shot, f"head.label_embeddings.source={tmp_path / 'vectors.txt'}"]
    assert run(["train", *options]) == 2
    assert "no label embedding for 79 labels" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


@pytest.fixture
def nus_wide(tmp_path):
    """Miniature images, everything else as published: 1,006 labels, 925 of them trained, embeddings of 300 numbers."""
    root = tmp_path / "nuswide"
    root.mkdir()
    for name in ("nus_classes.json", "nus_unseen_classes.json"):
        (root / name).write_bytes((SAMPLE / name).read_bytes())
    torch.save(torch.from_numpy(np.load(SAMPLE / "nus_wordvec_array.npy")), root / "wordvec_array.pth")
    rows = ["a,b,c", '0.jpg,"[zebra, abandoned]",train', '1.jpg,"[zoo, sky]",train', '2.jpg,"[actor]",train']
    rows += ['3.jpg,"[zebra, zoo]",val', '4.jpg,"[sky, abandoned]",val', '5.jpg,"[actor]",val', "6.jpg,[],val"]
    (root / "data.csv").write_text("\n".join(rows))
    for number in range(7):
        cv2.imwrite(str(root / f"{number}.jpg"), np.full((32, 32, 3), 40 * number, np.uint8))
    return root


ONE_EPOCH = ["schedule.epochs=1", "schedule.batch_size=2", "runtime=cpu", "runtime.threads=1", "runtime.workers=0"]
ONE_EPOCH += ["run_dir=run", "runtime.tensorboard=false", "backbone.pretrained=false"]


def check_zero_shot_metrics(record):
    assert {"zsl_mAP", "zsl_F1@3", "zsl_F1@5", "gzsl_mAP", "gzsl_F1@3", "gzsl_F1@5"} <= set(record)
    # ZSL counts the test images with an unseen label, GZSL those with any label; that without a label counts nowhere.
    assert (record["zsl_images"], record["gzsl_images"]) == (2, 3)
    assert record["zsl_mAP"] == record["zsl_mAP_with_unseen"]
    assert record["gzsl_mAP"] == record["gzsl_mAP_with_any"]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of NUS-WIDE is not here")
@pytest.mark.parametrize("experiment", ["nuswide_zsl", "nuswide_zsl_code"])
def test_the_experiments_of_nus_wide_run_on_its_real_labels_and_vectors(
    nus_wide, tmp_path, monkeypatch, experiment, capsys
):
    monkeypatch.chdir(tmp_path)
    small = ["dataset.image_size=32", "backbone=resnet_digits", "head.dim=64", "head.ffn_dim=64", *ONE_EPOCH]
    assert run(["train", f"experiment={experiment}", f"dataset.root={nus_wide}", *small]) == 0
    assert f"{experiment}: 1006 labels, 3 train" in capsys.readouterr().out
    check_zero_shot_metrics(read_records(tmp_path / "run" / "metrics.jsonl")[-1])
    content = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert content["label_embeddings"]["vectors"].shape == (1006, 300)
    assert sum(content["seen"]) == 925
    assert content["model"]["head.fc.weight"].shape == (64, 1)


TINY = ["backbone.model=test_resnet", "dataset.image_size=64"]  # with tokens of 2 x 2
METHODS = {
    "conse": TINY,
    "fast0tag": [*TINY, "head.hidden=[8,8]"],
    "attention_per_label": TINY,
    "lesa": TINY,
    "biam": [*TINY, "schedule.warmup_epochs=0"],
    "sdl": ["backbone=resnet_digits", "dataset.image_size=32"],
}


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of NUS-WIDE is not here")
@pytest.mark.parametrize("method", METHODS)
def test_the_experiments_of_other_methods_run_on_the_labels_of_nus_wide(nus_wide, tmp_path, monkeypatch, method):
    """Head, loss, optimizer and schedule of Table 6, all but SDL on tokens that are computed once."""
    monkeypatch.chdir(tmp_path)
    options = [f"experiment=table6/{method}", f"dataset.root={nus_wide}", f"dataset.cache={tmp_path / 'cache'}"]
    options += [*ONE_EPOCH, *METHODS[method]]
    assert run(["train", *options]) == 0
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert all(math.isfinite(record["loss"]) for record in records if "loss" in record)
    check_zero_shot_metrics(records[-1])
    assert (tmp_path / "cache" / "tokens").is_dir() == (method != "sdl")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of NUS-WIDE is not here")
def test_show_prints_how_large_the_published_network_is(tmp_path, capsys):
    assert run(["show", "experiment=nuswide_zsl", f"dataset.root={tmp_path}", "num_labels=925"]) == 0
    printed = capsys.readouterr().out
    assert "labels       925" in printed
    assert "weight_decay: 0.0001" in printed


def test_the_query_labels_of_the_docs_were_never_trained():
    text = (Path(__file__).parents[2] / "docs" / "zero-shot.md").read_text(encoding="utf-8")
    (queried,) = re.findall(r'input=photos labels="(\w+ \w+,\w+ \w+)"', text)
    assert set(queried.split(",")) <= set(unseen_classes(8)[0])


def test_the_measured_figures_of_the_page_are_those_of_the_committed_records():
    """docs/zero-shot.md, the rows with three seeds that no desk table has, and the choices."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "zero-shot.md").read_text(encoding="utf-8")
    records = [json.loads(path.read_text()) for path in sorted(docs.glob("records/zero_shot_*.json"))]
    for row, title in (("random_vectors", "source=random:384`"), ("cutout", "`head.query_cutout=0.1`")):
        found = [record["metrics"] for record in records if record["row"] == row]
        zsl, seen = ([metrics[name] for metrics in found] for name in ("zsl_mAP", "seen_mAP"))
        shown = " | ".join(f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}" for v in (zsl, seen))
        assert f"{title} | {shown} |" in page
    for record in records:
        if record["row"] == "choose":
            assert f": {record['val']['zsl_mAP']:.1f}" in page, record["overrides"]
