"""Property: a C-Tran that is told labels keeps their state as their score, and predicts the others with them."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch

import mldec
from mldec.commands.main import run
from mldec.engine import build
from mldec.engine.checkpoint import Restored
from mldec.engine.known_labels import label_states, with_known
from mldec.engine.predictor import Predictor
from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from tests.curve import SMALLER, make, small_experiment

COUNT = 5
BODY = ("backbone=resnet_digits", *SMALLER)
HEAD = ("head=c_tran", "head.num_heads=4", "head.num_layers=1", "head.ffn_dim=16")


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory):
    """A run directory of a C-Tran; nobody may change it."""
    folder = tmp_path_factory.mktemp("c_tran") / "run"
    others = [text for text in small_experiment(digits_root) if not text.startswith("head.")]
    assert run(["train", *others, *SMALLER, *HEAD, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def predictor(trained):
    return mldec.load(trained, device="cpu")


@pytest.fixture(scope="module")
def images():
    return [np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8) for number in range(COUNT)]


@pytest.fixture
def photos(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images):
        assert cv2.imwrite(f"photos/{number}.png", image)
    return tmp_path / "photos"


def untrained(*overrides: str, names=("cat", "dog", "bird")) -> Predictor:
    """The predictor of a network with random weights."""
    config = make(["dataset=table", "dataset.train=x.csv", "dataset.image_size=32", *BODY, *overrides])
    torch.manual_seed(0)
    labels = LabelSpace(names)
    classifier = build.build_classifier(config, labels, pretrained=False).eval()
    normalization = build.build_normalization(classifier)
    restored = Restored(config, labels, classifier, normalization, "raw", {}, 0, path="x")
    return Predictor(restored, "cpu")


def test_no_known_labels_change_nothing(predictor, images):
    assert predictor.predict(images, top_k=9, known={}) == predictor.predict(images, top_k=9)
    np.testing.assert_array_equal(predictor.scores(images, known={}), predictor.scores(images, known=None))


def test_told_labels_keep_their_state_and_change_the_scores_of_others(predictor, images):
    present, absent = predictor.labels.names[3], predictor.labels.names[7]
    plain, told = predictor.scores(images), predictor.scores(images, known={present: 1, absent: 0})
    np.testing.assert_array_equal(told[:, 3], 1)
    np.testing.assert_array_equal(told[:, 7], 0)
    others = [column for column in range(len(predictor.labels)) if column not in (3, 7)]
    assert (np.abs(told - plain)[:, others].max(axis=1) > 1e-5).all()
    opposite = predictor.scores(images, known={present: 0, absent: 1})
    assert (np.abs(told - opposite)[:, others].max(axis=1) > 1e-5).all()
    for listed in predictor.predict(images, top_k=len(predictor.labels), known={present: 1, absent: 0}):
        assert next(iter(listed.items())) == (present, 1.0)
        assert listed[absent] == 0.0
    assert all(present in listed for listed in predictor.predict(images, threshold=0.99, known={present: 1}))


def test_scores_are_those_of_the_network_that_is_told_these_states(predictor, images):
    names = predictor.labels.names
    states = torch.full((COUNT, len(names)), -1, dtype=torch.int8)
    states[:, 2], states[:, 5] = 1, 0
    pixels = torch.from_numpy(np.stack([predictor._resize(image) for image in images])).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = predictor.model(predictor.normalization(pixels), states).sigmoid().numpy()
    expected[:, 2], expected[:, 5] = 1, 0
    np.testing.assert_allclose(predictor.scores(images, known={names[2]: 1, names[5]: 0}), expected, atol=1e-6)


def test_the_order_of_labels_and_the_batch_have_no_effect(predictor, images):
    names = predictor.labels.names
    known = {names[1]: 1, names[4]: 0, names[6]: True}
    scores = predictor.scores(images, known=known)
    np.testing.assert_array_equal(scores, predictor.scores(images, known=dict(reversed(known.items()))))
    np.testing.assert_allclose(scores, predictor.scores(images, batch_size=1, known=known), atol=1e-6)
    np.testing.assert_allclose(scores[::-1], predictor.scores(images[::-1], batch_size=2, known=known), atol=1e-6)


def test_maps_are_of_the_network_that_was_told(predictor, images):
    known = {predictor.labels.names[3]: 1}
    plain, told = predictor.maps(images[:2]), predictor.maps(images[:2], known=known)
    assert plain.shape == told.shape
    assert np.abs(plain - told).max() > 1e-6
    streamed = [answer.maps for batch in predictor.stream(images[:2], maps="label", known=known) for answer in batch]
    np.testing.assert_allclose(np.stack(streamed), told, atol=1e-6)
    attention = predictor.maps(images[:2], "attention", known=known)
    assert np.isfinite(attention).all()


def test_the_command_writes_known_labels_with_their_state(trained, predictor, photos, capsys):
    first, second = predictor.labels.names[:2]
    begin = ["predict", f"run={trained}", "input=photos", "device=cpu"]
    options = [*begin, f"known={first}=1, {second}=0", "threshold=0.5"]
    assert run(options) == 0
    assert capsys.readouterr().out.count(f"{first} 100%") == COUNT
    assert run([*options, "output=out", "format=jsonl,csv", "scores=all", "maps=true"]) == 0
    paths = [f"photos/{number}.png" for number in range(COUNT)]
    scores = predictor.scores(paths, known={first: 1, second: 0})
    with open("out/predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows, scores, strict=True):
        found = [float(row[name]) for name in predictor.labels.names]
        np.testing.assert_allclose(found, expected, atol=1e-5)  # maps are made in batches of another size
        assert (found[0], found[1]) == (1, 0)
    with open("out/predictions.jsonl", encoding="utf-8") as file:
        assert all(json.loads(line)["labels"][first] == 1 for line in file)
    found = mldec.predict(trained, "photos", known={first: 1, second: 0}, threshold=0.5, device="cpu")
    assert found == {path: predictor.name(row, 0.5) for path, row in zip(paths, scores, strict=True)}
    assert found == mldec.predict(trained, "photos", f"known={first}=1,{second}=0", threshold=0.5, device="cpu")


def test_an_exported_folder_can_be_told_labels_too(trained, predictor, images, tmp_path):
    assert run(["export", f"run={trained}", "format=safetensors", f"output={tmp_path / 'exported'}"]) == 0
    known = {predictor.labels.names[3]: 1, predictor.labels.names[7]: 0}
    scores = mldec.load(tmp_path / "exported", device="cpu").scores(images, known=known)
    np.testing.assert_allclose(scores, predictor.scores(images, known=known), atol=1e-6)


def test_an_interrupted_prediction_does_not_resume_with_other_known_labels(
    trained, predictor, photos, capsys, monkeypatch
):
    first, second = predictor.labels.names[:2]
    (photos / "x.png").write_bytes(b"broken")
    begin = ["predict", f"run={trained}", "input=photos", "device=cpu", "output=out", "batch_size=2"]
    original, calls = Predictor._predict, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "_predict", interrupted)
        assert run([*begin, f"known={first}=1,{second}=0"]) != 0
    for other in ([f"known={first}=0"], [f"known={first}=0", "resume=true"], []):
        assert run([*begin, *other]) == 2
        assert "with other settings (known" in capsys.readouterr().err
    assert run([*begin, f"known={second}=0,{first}=1"]) == 1  # the same labels; one image is broken
    assert "resuming after 2 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("known=", "known=: empty"),
        ("known=red one", "known: found red one, expected LABEL=1 (present) or LABEL=0 (absent), several with commas"),
        ("known=red one=2", "known: found red one=2, expected LABEL=1"),
        ("known==1", "known: found =1, expected LABEL=1"),
        ("known=red one=1,red one=0", "known: red one is given twice; leave one out"),
        ("known=red onne=1", "known: no label 'red onne'; did you mean red one? (allowed: "),
    ],
)
def test_bad_known_labels_are_one_clear_error(trained, photos, capsys, option, message):
    assert run(["predict", f"run={trained}", "input=photos", option]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_values_and_types_from_python(trained, predictor, images):
    name = predictor.labels.names[0]
    for value in (2, -1, 0.5, "1", None):
        with pytest.raises(ConfigError, match="use 1 for present or 0 for absent"):
            predictor.predict(images, known={name: value})
    with pytest.raises(ConfigError, match="expected a mapping of label names to 1 or 0"):
        mldec.predict(trained, "x.png", known=[name])


def test_heads_that_cannot_be_told_labels_say_so(images):
    with pytest.raises(ConfigError, match="head=gap, which cannot be told labels; leave known out, or use a run"):
        untrained("head=gap").predict(images, known={"cat": 1})
    with pytest.raises(ConfigError, match=r"head=c_tran with head\.label_masks=false, which cannot be told labels"):
        untrained(*HEAD, "head.label_masks=false").predict(images, known={"cat": 1})
    assert untrained("head=gap").predict(images, known={}) == untrained("head=gap").predict(images)


def test_with_a_softmax_the_labels_that_are_left_share_the_mass(images):
    single = untrained(*HEAD, "dataset.single_label=true", "loss=ce", "loss.label_smoothing=0")
    scores = single.scores(images, known={"dog": 0})
    np.testing.assert_array_equal(scores[:, 1], 0)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(single.scores(images, known={"dog": 1}), [[0, 1, 0]] * COUNT)
    np.testing.assert_array_equal(single.scores(images, known={"dog": 0, "cat": 0}), [[0, 0, 1]] * COUNT)
    with pytest.raises(ConfigError, match=r"cat, dog are present, but images of this run have one label each"):
        single.scores(images, known={"cat": 1, "dog": 1})
    with pytest.raises(ConfigError, match="no label is left"):
        single.scores(images, known=dict.fromkeys(("cat", "dog", "bird"), 0))
    # As the loss does: the softmax of the other labels alone.
    logits, states = torch.randn(4, 3), torch.tensor([[-1, 0, -1]])
    expected = logits[:, [0, 2]].softmax(1)
    torch.testing.assert_close(with_known(logits, states, softmax=True).softmax(1)[:, [0, 2]], expected)


def test_states_have_one_row_for_all_images():
    predictor = untrained(*HEAD)
    states = label_states({"bird": 1, "cat": 0}, predictor.config, predictor.model, predictor.labels)
    assert states.tolist() == [[0, -1, 1]]
    assert label_states({}, predictor.config, predictor.model, predictor.labels) is None
