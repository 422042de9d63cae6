"""Property: `mldec import` makes a run directory that all commands take, or leaves nothing behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mldec
from mldec.commands import compose
from mldec.commands.import_weights import ImportOptions, compose_run
from mldec.commands.main import run
from mldec.commands.options import parse
from mldec.config import build_config
from mldec.engine.imported_run import choose_labels
from mldec.metrics import mean_average_precision
from mldec.models.backbone import BackboneConfig
from mldec.models.classifier import Classifier
from mldec.models.heads import GlobalAveragePool, MLDecoder, ZeroShotMLDecoder
from mldec.models.label_embeddings import LabelEmbeddingsConfig, read_label_embeddings
from mldec.models.published import read_published
from mldec.registry import BACKBONES
from tests.published_files import authors_file, stir

LABELS = ("person", "traffic light", "dog", "toothbrush", "wine glass")
SIDE, IMAGES = 64, 12
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
SMALL = {"dim": 16, "ffn_dim": 24}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's tree with a few images of the size that the network sees, so that nothing is resized."""
    root, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split in ("train2014", "val2014"):
        (root / split).mkdir()
        boxes = []
        for image in range(IMAGES):
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(root / split / f"{image}.png")
            for category in {image % 5, int(rng.integers(5))}:
                box = {"image_id": image, "category_id": category, "iscrowd": 0, "bbox": [0, 0, 1, 1], "area": 1}
                boxes.append({"id": len(boxes), **box})
        content = {
            "images": [{"id": image, "file_name": f"{image}.png"} for image in range(IMAGES)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS)],
            "annotations": boxes,
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def body():
    return BACKBONES["resnet18"].build(BackboneConfig(name="resnet18"), image_size=SIDE)


def write(path: Path, classifier: Classifier, labels=LABELS) -> Path:
    head = "fc." if isinstance(classifier.head, MLDecoder) else ""
    torch.save(
        {"model": authors_file(classifier, head), "idx_to_class": dict(enumerate(labels))}
        if labels
        else authors_file(classifier, head),
        path,
    )
    return path


@pytest.fixture(scope="module")
def published(body, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    """A file of a ResNet with an ML-Decoder of three queries, and the network itself."""
    torch.manual_seed(0)
    classifier = stir(Classifier(body, MLDecoder(512, len(LABELS), 3, **SMALL)))
    return write(tmp_path_factory.mktemp("files") / "resnet18_mld.pth", classifier), classifier


def scores_of(classifier: Classifier, paths) -> np.ndarray:
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        return classifier((pixels / 255 - IMAGENET[0]) / IMAGENET[1]).sigmoid().numpy()


def test_import_evaluate_and_predict_give_the_scores_of_the_published_network(published, coco, tmp_path, capsys):
    file, classifier = published
    folder, cache = tmp_path / "run", f"dataset.cache={tmp_path}"
    options = [f"checkpoint={file}", "experiment=coco_tresnet_l", f"dataset.root={coco}", f"image_size={SIDE}", cache]
    assert run(["import", *options, f"run_dir={folder}"]) == 0
    printed, diagnostics = capsys.readouterr()
    assert "note: backbone.name: resnet18 as in the file, not tresnet_l as in the experiment" in diagnostics
    assert "head         ml_decoder: 3 queries, D = 16" in printed
    assert "labels       5: person, traffic light, dog, toothbrush, …" in printed
    assert f"evaluate       mldec evaluate run={folder}\n" in printed
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "environment.json",
        "labels.txt",
        "metrics.jsonl",
    }
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["imported"]["layout"] == "authors"
    assert len(environment["imported"]["sha256"]) == 64

    paths = sorted((coco / "val2014").iterdir(), key=lambda path: int(path.stem))
    scores = scores_of(classifier, paths)
    assert run(["evaluate", f"run={folder}", "runtime=cpu", "runtime.workers=0"]) == 0
    record = json.loads((folder / "evaluation" / "coco_test" / "metrics.json").read_text())
    assert (record["weights"], record["protocol"]["name"], record["images"]) == ("raw", "paper", IMAGES)
    boxes = json.loads((coco / "annotations" / "instances_val2014.json").read_text())["annotations"]
    targets = np.zeros((IMAGES, len(LABELS)), np.int8)
    for box in boxes:
        targets[box["image_id"], box["category_id"]] = 1
    assert record["metrics"]["mAP"] == pytest.approx(mean_average_precision(scores, targets, "paper"), abs=1e-6)
    with (folder / "evaluation" / "coco_test" / "per_class_ap.csv").open(newline="") as table:
        assert [row["label"] for row in csv.DictReader(table)] == list(LABELS)

    assert (
        run(["predict", f"run={folder}", f"input={coco / 'val2014'}", "threshold=0", f"output={tmp_path / 'out'}"]) == 0
    )
    predictor = mldec.load(folder, device="cpu")
    assert predictor.labels.names == LABELS
    np.testing.assert_allclose(predictor.scores([str(path) for path in paths]), scores, atol=1e-5)


def test_without_a_dataset_a_run_can_predict_and_be_evaluated_on_any(published, coco, tmp_path, capsys):
    file, classifier = published
    assert run(["import", f"checkpoint={file}", f"image_size={SIDE}", f"output={tmp_path}"]) == 0
    assert "dataset=… dataset.root=…" in capsys.readouterr().out
    (folder,) = (tmp_path / "resnet18_mld").iterdir()
    paths = [coco / "val2014" / "0.png"]
    np.testing.assert_allclose(mldec.load(folder, device="cpu").scores(paths), scores_of(classifier, paths), atol=1e-5)
    (tmp_path / "mine.csv").write_text(f"path,labels\n{paths[0]},dog;wine glass\n{coco}/val2014/1.png,person\n")
    table = f"{tmp_path / 'mine.csv'}"
    own = [f"dataset.train={table}", f"dataset.test={table}", "dataset.root=/", "runtime=cpu", "runtime.workers=0"]
    assert run(["evaluate", f"run={folder}", *own]) == 0
    assert (folder / "evaluation" / "table_test" / "metrics.json").is_file()
    data = ["dataset=coco", f"dataset.root={coco}", f"dataset.cache={tmp_path}"]
    assert run(["evaluate", f"run={folder}", *data, "runtime=cpu", "runtime.workers=0"]) == 0
    measured = json.loads(next((folder / "evaluation").glob("coco_*/metrics.json")).read_text())
    assert measured["dataset"]["image_size"] == SIDE  # that of the weights, not COCO's own
    capsys.readouterr()
    assert run(["evaluate", f"run={folder}"]) == 2
    assert "no_dataset_was_named_when_this_was_imported.csv: no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_starts_from_imported_weights_and_does_not_resume(published, coco, tmp_path, capsys):
    file, classifier = published
    folder, cache = tmp_path / "run", f"dataset.cache={tmp_path}"
    data = [f"dataset.root={coco}", f"dataset.image_size={SIDE}", cache]
    assert run(["import", f"checkpoint={file}", "experiment=coco_tresnet_l", *data, f"run_dir={folder}"]) == 0
    network = ["backbone=resnet18", "backbone.pretrained=false", "head.num_groups=3", "head.dim=16", "head.ffn_dim=24"]
    small = ["schedule.batch_size=4", "debug=fast", "runtime=cpu", "runtime.workers=0", "augment=none"]
    begin = [*data, *network, *small, f"init_from={folder}", f"run_dir={tmp_path / 'second'}"]
    capsys.readouterr()
    assert run(["train", "experiment=coco_tresnet_l", *begin]) == 0
    tensors = len(classifier.state_dict())
    assert f"{tensors} of {tensors} tensors loaded" in capsys.readouterr().out
    assert run(["train", f"resume={folder}"]) == 2
    assert f"as after mldec import; start a new run from its weights: init_from={folder}" in capsys.readouterr().err


def test_where_the_labels_come_from(published, coco, tmp_path):
    file, classifier = published
    compose.load_components(())

    def chosen(file: Path, *more: str) -> tuple[list[str], str]:
        found = read_published(file)
        options, arguments = parse([f"checkpoint={file}", *more], ImportOptions, "import")
        config = build_config(compose_run(found, options, arguments)[0])
        labels, notes = choose_labels(found, config, options.labels, has_data=bool(more[1:]))
        return list(labels.names), "".join(notes)

    data = ["experiment=coco_tresnet_l", f"dataset.root={coco}", f"dataset.cache={tmp_path}"]
    bare = write(tmp_path / "bare.pth", classifier, labels=None)
    assert chosen(bare, *data) == (list(LABELS), "")
    assert chosen(bare, "labels=a,b c,d,e,f") == (["a", "b c", "d", "e", "f"], "")
    (tmp_path / "names.txt").write_text("\n".join("vwxyz"))
    (tmp_path / "names.json").write_text(json.dumps(dict(enumerate("vwxyz"))))
    for ending in ("txt", "json"):
        assert chosen(file, f"labels=@{tmp_path / 'names'}.{ending}") == (list("vwxyz"), "")
    # Spelt in another way they are the dataset's; in another order they are not, with a note.
    spelt = write(tmp_path / "spelt.pth", classifier, ("Person", "traffic_light", "dog", "toothbrush", "wine  glass"))
    assert chosen(spelt, *data) == (list(LABELS), "")
    labels, note = chosen(write(tmp_path / "turned.pth", classifier, LABELS[::-1]), *data)
    assert labels == list(LABELS[::-1])
    assert "another order (first: 'wine glass' and 'person')" in note
    labels, note = chosen(file, data[0], "dataset.root=/nowhere")
    assert labels == list(LABELS)
    assert note.startswith("coco is not at hand, its labels were not compared: dataset.root=/nowhere")


def test_the_file_overrides_the_network_of_an_experiment(published):
    compose.load_components(())
    found = read_published(published[0])
    argv = [f"checkpoint={published[0]}", "experiment=table1/ml_decoder_k20", "head.dropout=0.3"]
    mapping, notes = compose_run(found, *parse(argv, ImportOptions, "import"))
    assert [note.split(":")[0] for note in notes] == ["backbone.name", "head.num_groups"]
    head = build_config(mapping).head
    assert (head.num_groups, head.dim, head.ffn_dim, head.dropout) == (3, 16, 24, 0.3)
    assert build_config(mapping).protocol.name == "paper"


def test_average_pooling_and_zero_shot_heads(body, coco, tmp_path, capsys):
    torch.manual_seed(0)
    paths = sorted((coco / "val2014").iterdir())[:4]
    pooling = stir(Classifier(body, GlobalAveragePool(512, len(LABELS))))
    file = write(tmp_path / "gap.pth", pooling)
    assert run(["import", f"checkpoint={file}", f"image_size={SIDE}", f"run_dir={tmp_path / 'gap'}"]) == 0
    scores = mldec.load(tmp_path / "gap", device="cpu").scores(paths)
    np.testing.assert_allclose(scores, scores_of(pooling, paths), atol=1e-5)

    embeddings = read_label_embeddings(LabelEmbeddingsConfig(source="random:12"), LABELS)
    zero_shot = stir(
        Classifier(
            body,
            ZeroShotMLDecoder(512, 5, queries="label_embeddings", fc="shared", label_embeddings=embeddings, **SMALL),
        )
    )
    file = write(tmp_path / "zsl.pth", zero_shot, labels=None)
    begin = ["import", f"checkpoint={file}", f"image_size={SIDE}", f"run_dir={tmp_path / 'zsl'}"]
    assert run([*begin, "labels=dog,cat"]) == 2
    assert "label embeddings of width 12, which it does not hold" in capsys.readouterr().err
    assert run([*begin, "label_embeddings=random:12"]) == 2
    assert "does not name its labels; use labels=@FILE" in capsys.readouterr().err
    assert run([*begin, "label_embeddings=random:13", "labels=dog,cat"]) == 2
    assert "label embeddings of width 12, those of random:13 have width 13" in capsys.readouterr().err
    assert not (tmp_path / "zsl").exists()
    assert run([*begin, "label_embeddings=random:12", "labels=dog,cat"]) == 0
    predictor = mldec.load(tmp_path / "zsl", device="cpu")
    predictor.set_labels(LABELS)  # of which only one was named before
    np.testing.assert_allclose(predictor.scores(paths), scores_of(zero_shot, paths), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "checkpoint=… is missing"),
        (["checkpoint=FILE", "backbone=resnet34"], "missing: layer1.2.conv1.weight"),
        (["checkpoint=FILE", "backbone=resnet19"], "did you mean resnet18"),
        (["checkpoint=FILE", "head=gap"], "head.name=gap: the file holds ml_decoder"),
        (["checkpoint=FILE", "head.num_groups=5"], "head.num_groups=5: the file holds 3"),
        (["checkpoint=FILE", "head.dimm=5"], "head.dimm: head=ml_decoder has no such setting; did you mean dim"),
        (["checkpoint=FILE", "backbone.pretrained=other.pth"], "backbone.pretrained: the file decides it"),
        (["checkpoint=FILE", "label_embeddings=random:12"], "label_embeddings: has no effect"),
        (["checkpoint=FILE", "head.label_embeddings.source=random:12"], "head.label_embeddings.source: has no effect"),
        (["checkpoint=FILE", "labels=a,b"], "labels=…: 2 names, but"),
        (["checkpoint=FILE", "labels=a,b,a,c,d"], "found more than once: a"),
        (["checkpoint=FILE", "labels=@names.txt"], "labels=@names.txt: cannot be read"),
        (["checkpoint=FILE", "key=ema"], "no state dict under 'ema'"),
        (["checkpoint=FILE", "loss=ce"], "use loss=asl or loss=bce"),
        (
            ["checkpoint=FILE", "chedule.epochs=3"],
            "chedule.epochs=3: no such option of mldec import; did you mean schedule",
        ),
        (["checkpoint=nothing.pth"], "no such file of weights: nothing.pth"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(published, tmp_path, capsys, options, message):
    options = [word.replace("FILE", str(published[0])) for word in options]
    assert run(["import", *options, f"image_size={SIDE}", f"output={tmp_path / 'outputs'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "outputs").exists()


def test_a_disk_that_is_full_leaves_nothing_behind_and_no_run_is_overwritten(published, tmp_path, monkeypatch, capsys):
    options = ["import", f"checkpoint={published[0]}", f"image_size={SIDE}", f"run_dir={tmp_path / 'run'}"]

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mldec.engine.run_directory.write_json", full)
        assert run(options) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run(options) == 0
    before = (tmp_path / "run" / "checkpoints" / "best.pt").read_bytes()
    assert run(options) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "best.pt").read_bytes() == before


def test_a_file_that_needs_import_says_so(published, capsys):
    assert run(["evaluate", f"run={published[0]}"]) == 2
    assert f"mldec import checkpoint={published[0]}" in capsys.readouterr().err
