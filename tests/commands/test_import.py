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
from mldec.engine.imported_run import choose_labels, count_cooccurrence
from mldec.labels import LabelSpace
from mldec.metrics import mean_average_precision
from mldec.models.backbone import BackboneConfig
from mldec.models.classifier import Classifier
from mldec.models.heads import ClassSpecificResidualAttention, GlobalAveragePool, MLDecoder, ZeroShotMLDecoder
from mldec.models.label_embeddings import LabelEmbeddingsConfig, read_label_embeddings
from mldec.models.published import read_published
from mldec.registry import BACKBONES
from tests import method_files
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


# Other methods --------------------------------------------------------------------------------------------------------

EMBEDDINGS = "label_embeddings=random:6"
NEEDED = {"ml_gcn": [EMBEDDINGS], "ssgrl": [EMBEDDINGS]}
ANSWERS = {
    "csra": ("CSRA", "heads of residual attention: 4, lambda = 0.5", "head.residual=0.5"),
    "ml_gcn": ("ML-GCN", "a graph of 5 labels, label embeddings of width 6", ""),
    "ssgrl": ("SSGRL", "a graph of 5 labels, 3 steps, label embeddings of width 6", "head.steps=3"),
    "add_gcn": ("ADD-GCN", "a learned graph of 5 labels and one of each image, D = 6", ""),
    "c_tran": (
        "C-Tran",
        "2 encoder layers over tokens and 5 labels, label_masks=True",
        "head.num_heads=4, head.label_masks=true",
    ),
    "query2label": ("Query2Label", "5 queries, encoder layers: 1, decoder layers: 2, D = 512", "head.num_heads=4"),
}


def counts_of(coco: Path) -> np.ndarray:
    """In how many images of train2014 two labels are both present."""
    boxes = json.loads((coco / "annotations" / "instances_train2014.json").read_text())["annotations"]
    present = np.zeros((IMAGES, len(LABELS)), np.int64)
    for box in boxes:
        present[box["image_id"], box["category_id"]] = 1
    return present.T @ present


def method_file(name: str, coco: Path, folder: Path) -> tuple[Path, Classifier]:
    """A file in the layout of a method, and the network itself, on ImageNet's pixels but for CSRA."""
    torch.manual_seed(0)
    embeddings = read_label_embeddings(LabelEmbeddingsConfig(source="random:6"), LABELS)
    classifier = stir(Classifier(method_files.backbone(), method_files.head_of(name, embeddings, counts_of(coco))))
    path = folder / f"{name}.pth"
    torch.save({"state_dict": method_files.file_of(name, classifier), "epoch": 3}, path)
    return path, classifier


def expected_scores(name: str, classifier: Classifier, paths) -> np.ndarray:
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths]) / 255
    with torch.no_grad():
        return classifier(pixels if name == "csra" else (pixels - IMAGENET[0]) / IMAGENET[1]).sigmoid().numpy()


@pytest.mark.parametrize("name", method_files.METHODS)
def test_files_of_other_methods_become_runs_that_are_evaluated_and_predict(name, coco, tmp_path, capsys):
    file, classifier = method_file(name, coco, tmp_path)
    data = ["experiment=coco_tresnet_l", f"dataset.root={coco}", f"dataset.cache={tmp_path}", f"image_size={SIDE}"]
    folder = tmp_path / "run"
    assert run(["import", f"checkpoint={file}", *data, f"run_dir={folder}", *NEEDED.get(name, [])]) == 0
    printed, diagnostics = capsys.readouterr()
    title, answer, assumed = ANSWERS[name]
    assert f"the layout of {title}, under `state_dict`" in printed
    assert f"head         {name}: {answer}\n" in printed
    assert (f"assumed      {assumed}, which files of {title} do not show" in printed) == bool(assumed)
    assert f"note: head.name: {name} as in the file, not ml_decoder as in the experiment" in diagnostics
    assert "head.num_heads" not in diagnostics  # that of another head
    assert ("the graph of the labels is made from 12 train images of coco" in diagnostics) == (name == "ssgrl")
    assert json.loads((folder / "environment.json").read_text())["imported"]["layout"] == name

    paths = sorted((coco / "val2014").iterdir(), key=lambda path: int(path.stem))
    scores = expected_scores(name, classifier, paths)
    np.testing.assert_allclose(mldec.load(folder, device="cpu").scores(paths), scores, atol=1e-5)
    assert run(["evaluate", f"run={folder}", "runtime=cpu", "runtime.workers=0"]) == 0
    record = json.loads((folder / "evaluation" / "coco_test" / "metrics.json").read_text())
    assert record["images"] == IMAGES
    assert run(["predict", f"run={folder}", f"input={paths[0]}", "threshold=0", "device=cpu"]) == 0


def test_settings_that_no_file_shows_can_be_set_and_others_cannot(coco, tmp_path, capsys):
    file, classifier = method_file("csra", coco, tmp_path)
    begin = ["import", f"checkpoint={file}", f"image_size={SIDE}", "labels=a,b,c,d,e", f"run_dir={tmp_path / 'run'}"]
    for option, message in {
        "head.projection=8": "head.projection: the file of CSRA decides it, leave it out; of this head only residual",
        "head.num_heads=2": "head.num_heads=2: the file holds 4; leave it out",
        "head.residuall=1": "head.residuall: head=csra has no such setting; did you mean residual",
        "head=c_tran": "head.name=c_tran: the file holds csra; leave it out",
        "label_embeddings=random:6": "label_embeddings: has no effect",
    }.items():
        assert run([*begin, option]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    assert run([*begin, "head.residual=0.3"]) == 0
    assert "assumed      head.residual=0.3" in capsys.readouterr().out
    classifier.head.residual = 0.3
    paths = sorted((coco / "val2014").iterdir())[:2]
    scores = mldec.load(tmp_path / "run", device="cpu").scores(paths)
    np.testing.assert_allclose(scores, expected_scores("csra", classifier, paths), atol=1e-5)

    file, classifier = method_file("query2label", coco, tmp_path)
    begin = ["import", f"checkpoint={file}", f"image_size={SIDE}", "labels=a,b,c,d,e", f"run_dir={tmp_path / 'q2l'}"]
    assert run([*begin, "head=query2label", "head.num_heads=8", "head.dropout=0.3"]) == 0
    head = mldec.load(tmp_path / "q2l", device="cpu").config.head
    assert (head.num_heads, head.dropout, head.ffn_dim, head.self_attention) == (8, 0.3, 8, "first")

    file, classifier = method_file("c_tran", coco, tmp_path)  # trained without label masks, it still has the states
    begin = ["import", f"checkpoint={file}", f"image_size={SIDE}", "labels=a,b,c,d,e", f"run_dir={tmp_path / 'plain'}"]
    assert run([*begin, "head.label_masks=false"]) == 0
    assert "head.label_masks=false, which files of C-Tran do not show" in capsys.readouterr().out
    classifier.head.states = None
    scores = mldec.load(tmp_path / "plain", device="cpu").scores(paths)
    np.testing.assert_allclose(scores, expected_scores("c_tran", classifier, paths), atol=1e-5)


def test_what_files_of_other_methods_lack_must_be_given(coco, tmp_path, capsys):
    labels = f"labels={','.join(LABELS)}"
    for name, options, message in (
        ("ml_gcn", [], "the head of ML-GCN, which is built for label embeddings of width 6, which it does not hold"),
        ("ml_gcn", ["label_embeddings=random:7"], "width 6, those of random:7 have width 7"),
        ("ssgrl", [EMBEDDINGS], "files of SSGRL lack the graph of the labels, which is made from its training images"),
    ):
        file, _ = method_file(name, coco, tmp_path)
        begin = ["import", f"checkpoint={file}", f"image_size={SIDE}", labels, f"run_dir={tmp_path / 'run'}"]
        assert run([*begin, *options]) == 2
        assert message in capsys.readouterr().err
    data = ["experiment=coco_tresnet_l", f"dataset.root={coco}", f"dataset.cache={tmp_path}"]
    assert run([*begin[:-2], begin[-1], EMBEDDINGS, *data, "labels=a,b,c,d,e"]) == 2
    assert "coco has no label a: name the dataset that it was trained on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run([*begin, "label_embeddings=random:6", *data]) == 0  # labels in the dataset's order


def test_the_graph_of_labels_follows_the_order_of_the_outputs(coco, tmp_path):
    compose.load_components(())
    found = read_published(method_file("ssgrl", coco, tmp_path)[0])
    argv = [f"checkpoint={found.source}", "experiment=coco_tresnet_l", f"dataset.root={coco}", EMBEDDINGS]
    config = build_config(compose_run(found, *parse(argv, ImportOptions, "import"))[0])
    order = [3, 1, 4, 0, 2]
    counts, _ = count_cooccurrence(found, config, LabelSpace([LABELS[column] for column in order]), has_data=True)
    np.testing.assert_array_equal(counts, counts_of(coco)[np.ix_(order, order)])


def test_a_vision_transformer_reads_images_of_the_size_in_its_file(coco, tmp_path, capsys):
    torch.manual_seed(0)
    config = BACKBONES["timm"].config_class(name="timm", model="vit_tiny_patch16_224", normalize="unit")
    classifier = Classifier(
        BACKBONES["timm"].build(config, image_size=224), ClassSpecificResidualAttention(192, len(LABELS), num_heads=1)
    ).eval()
    file = tmp_path / "vit.pth"
    torch.save(method_files.file_of("csra", classifier), file)
    begin = ["import", f"checkpoint={file}", "backbone=vit_tiny_patch16_224", f"run_dir={tmp_path / 'run'}"]
    for options in (["image_size=448"], ["experiment=coco_tresnet_l", "dataset.image_size=448"]):
        assert run([*begin, "labels=a,b,c,d,e", *options]) == 2
        assert "image_size=448: the position embeddings in the file are for 224 px; leave it out" in (
            capsys.readouterr().err
        )
    assert run([*begin, "experiment=coco_tresnet_l", f"dataset.root={coco}", f"dataset.cache={tmp_path}"]) == 0
    printed, diagnostics = capsys.readouterr()
    assert "images       224 px, pixels within 0..1" in printed
    assert "note: dataset.image_size: 224 as in the file, not 448 as in the experiment" in diagnostics
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    with torch.no_grad():
        scores = classifier(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255).sigmoid().numpy()
    np.testing.assert_allclose(mldec.load(tmp_path / "run", device="cpu").scores([pixels]), scores, atol=1e-5)
