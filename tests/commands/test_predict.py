"""Property: `mldec predict` reads what is named, lists the chosen labels, and loses nothing when interrupted."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import mldec
import mldec.labels
from mldec.commands.main import run
from mldec.engine import build, data_splits, predictions, text_rendering
from mldec.engine.checkpoint import restore
from mldec.engine.evaluator import compute_scores
from mldec.engine.metric_writer import read_records
from mldec.engine.prediction_files import find_images, find_inputs
from mldec.engine.predictor import Predictor
from mldec.engine.thresholds import read_thresholds
from mldec.errors import DataError, RunError
from tests.curve import SMALLER, small_experiment

COUNT = 5


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory):
    """A run directory; nobody may change it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run(["train", *small_experiment(digits_root), *SMALLER, "schedule.epochs=1", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def predictor(trained):
    return mldec.load(trained, device="cpu")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A directory with images, in the current directory of the test."""
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        path = tmp_path / "photos" / ("inside" if number % 2 else ".") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (48, 60, 3), np.uint8)
        assert cv2.imwrite(str(path), pixels)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def rows_of(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# What is read ---------------------------------------------------------------------------------------------------------


def test_inputs_are_images_folders_patterns_and_lists_each_image_once(photos, monkeypatch):
    everything = ["photos/0.png", "photos/2.png", "photos/4.png", "photos/inside/1.png", "photos/inside/3.png"]
    assert find_images("photos") == everything
    assert find_inputs(["photos/*.png", "photos"]) == everything
    (photos.parent / "list.txt").write_bytes(b"\xef\xbb\xbfphotos/4.png\r\n\nphotos/[x] y.png\n")
    assert find_inputs(["@list.txt", "photos/4.png"]) == ["photos/4.png", "photos/[x] y.png"]  # as they are
    for data in (b"photos/4.png\nphotos/0.png", b"photos/4.png\0photos/0.png\0"):  # `ls`, `find -print0`
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert find_inputs(["-"]) == ["photos/4.png", "photos/0.png"]
    for source, message in {
        "absent": "no such image or directory",
        "empty": "no images there",
        "@absent.txt": "input=@absent.txt: cannot be read: No such file",
        "@list.empty": "lists no image",
    }.items():
        (photos.parent / "empty").mkdir(exist_ok=True)
        (photos.parent / "list.empty").write_text("\n \n")
        with pytest.raises(DataError, match=message):
            find_inputs([source])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["threshold=2"], "expected a number from 0 to 1"),
        (["top_k=0"], "expected an integer ≥ 1"),
        (["batch_size=0"], "expected an integer ≥ 1"),
        (["workers=-1"], "workers=-1: expected an integer from 0 to 1024"),
        (["scores=some"], "expected one of listed, all"),
        (["annotated=true"], "annotated=true writes images; add a directory for them: output=DIR"),
        (["maps=true", "output=x.csv"], "maps=true writes images; add a directory for them: output=DIR"),
        (["format=csv"], "format=csv needs output=DIR, or a file: output=predictions.csv"),
        (["format=csv", "output=x.jsonl"], "output=x.jsonl is one file; name a directory instead"),
        (["format=xlsx", "output=x"], "format=xlsx: expected one of jsonl, csv, parquet"),
        (["output=x.tsv"], "output=x.tsv: a file ends in .jsonl, .csv, .parquet"),
        (["output=list.txt.d"], "is a file, so nothing can be written there; name a directory"),
        (["maps=maybe"], "expected true or false, or one of label, attention"),
        (["weights=reported"], "expected one of best, ema, raw"),
        (["head=gap"], "head=gap: no such option of mldec predict"),
        (["thresholds=absent.csv"], "absent.csv: thresholds cannot be read: No such file"),
        (["font=list.txt.d"], "font=list.txt.d: no font that can be read"),
    ],
)
def test_bad_options_are_one_clear_error_and_nothing_is_written(trained, photos, capsys, options, message):
    (photos.parent / "list.txt.d").write_text("")
    before = sorted(photos.parent.rglob("*"))
    assert run(["predict", f"run={trained}", "input=photos", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert sorted(photos.parent.rglob("*")) == before


def test_run_and_input_are_needed(capsys):
    assert run(["predict", "input=x"]) == 2
    assert "run=… is missing" in capsys.readouterr().err


def test_parquet_without_pyarrow_is_an_error_before_anything_is_predicted(trained, photos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run(["predict", f"run={trained}", "input=photos", "output=x.parquet"]) == 2
    assert "pip install 'mldec[parquet]'" in capsys.readouterr().err


# What is written ------------------------------------------------------------------------------------------------------


def test_all_formats_hold_the_same(trained, predictor, photos, capsys):
    options = ["predict", f"run={trained}", "input=photos", "output=out", "format=jsonl,csv,parquet"]
    assert run([*options, "threshold=0.3", "batch_size=2"]) == 0
    paths = find_images("photos")
    lines = lines_of("out/predictions.jsonl")
    assert [line["path"] for line in lines] == paths
    for line, row in zip(lines, predictor.scores(paths, batch_size=2), strict=True):
        assert {name: np.float32(score) for name, score in line["labels"].items()} == predictor.name(row, 0.3)
    expected = [(line["path"], *pair) for line in lines for pair in line["labels"].items() or [("", "")]]
    found = [(row["path"], row["label"], row["score"]) for row in rows_of("out/predictions.csv")]
    assert found == [tuple(map(str, row)) for row in expected]
    import pyarrow.parquet

    table = pyarrow.parquet.read_table("out/predictions.parquet").to_pylist()
    assert [(row["path"], row["label"] or "", row["score"]) for row in table] == [
        (path, label, None if score == "" else np.float32(score)) for path, label, score in expected
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"predictions.{n}" for n in ("csv", "jsonl", "parquet")
    ]
    for name in ("predictions.csv", "predictions.jsonl", "predictions.parquet"):
        assert (
            run(["predict", f"run={trained}", "input=photos", f"output=single/{name}", "threshold=0.3", "batch_size=2"])
            == 0
        )
        assert Path("single", name).read_bytes() == Path("out", name).read_bytes()


def test_all_scores_are_a_column_each(trained, predictor, photos):
    options = ["predict", f"run={trained}", "input=photos", "output=out", "format=csv,parquet,jsonl", "scores=all"]
    assert run([*options, "threshold=1"]) == 0
    scores = predictor.scores(find_images("photos"))
    import pyarrow.parquet

    for rows in (rows_of("out/predictions.csv"), pyarrow.parquet.read_table("out/predictions.parquet").to_pylist()):
        assert list(rows[0]) == ["path", *predictor.labels.names]
        assert np.array_equal([[np.float32(row[name]) for name in predictor.labels.names] for row in rows], scores)
    for line, row in zip(lines_of("out/predictions.jsonl"), scores, strict=True):
        assert line["labels"] == {}
        assert np.array_equal(np.array(list(line["scores"].values()), np.float32), row)


def test_an_image_without_labels_has_a_row_and_formulas_are_harmless(trained, photos):
    shutil.copy(photos / "0.png", "=1+1.png")
    assert (
        run(["predict", f"run={trained}", "input==1+1.png", "input=photos/2.png", "threshold=1", "output=x.csv"]) == 0
    )
    assert Path("x.csv").read_text() == "path,label,score\n'=1+1.png,,\nphotos/2.png,,\n"


def test_names_that_are_no_utf_8_and_labels_in_other_scripts_are_written(trained, photos, capsys, monkeypatch):
    try:
        shutil.copy(photos / "0.png", "b\udcff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert run(["predict", f"run={trained}", "input=b\udcff.png", "output=x", "format=csv,jsonl,parquet"]) == 0
    assert rows_of("x/predictions.csv")[0]["path"] == "b\\udcff.png"
    assert "b\\xff.png: " in capsys.readouterr().out


def test_broken_images_are_listed_with_their_reason_and_stop_nothing(trained, predictor, photos, capsys):
    (photos / "2.png").write_bytes(b"no image")
    (photos.parent / "list.txt").write_text("photos/0.png\nphotos/2.png\nabsent.png\nphotos/4.png\n")
    for more in ([], ["workers=0"], ["batch_size=1"], ["workers=3", "batch_size=3"]):
        assert run(["predict", f"run={trained}", "input=@list.txt", "output=out", "scores=all", *more]) == 1
        lines = lines_of("out/predictions.jsonl")
        assert [line["path"] for line in lines] == ["photos/0.png", "photos/4.png"]
        for line in lines:
            expected = predictor.scores([line["path"]])[0]
            np.testing.assert_allclose(list(line["scores"].values()), expected, atol=1e-6)
        broken = rows_of("out/predictions.broken.csv")
        assert [row["path"] for row in broken] == ["photos/2.png", "absent.png"]
        printed = capsys.readouterr().err.splitlines()
        assert "cannot decode image photos/2.png" in printed[-2]
        assert printed[-1] == f"error: {broken[1]['reason']}"
    assert run(["predict", f"run={trained}", "input=photos/0.png", "output=out"]) == 0
    assert not Path("out/predictions.broken.csv").exists()  # an earlier command's
    for more in ([], ["output=x.csv"]):
        assert run(["predict", f"run={trained}", "input=photos/2.png", *more]) == 1  # all of them
    assert Path("x.csv").read_text() == "path,label,score\n"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), RunError("the device is gone")])
def test_an_interrupted_prediction_resumes_where_it_stopped(trained, photos, capsys, monkeypatch, end):
    options = ["predict", f"run={trained}", "input=photos", "batch_size=2", "format=csv,jsonl", "annotated=true"]
    (photos / "0.png").write_bytes(b"no image")
    assert run([*options, "output=whole"]) == 1
    forward, batches = Predictor._forward, []

    def failing(self, resized, known):
        batches.append(len(resized))
        if len(batches) == 2:
            raise end
        return forward(self, resized, known)

    monkeypatch.setattr(Predictor, "_forward", failing)
    assert run([*options, "output=out"]) != 0
    assert "2 of 5 images are kept in out/predictions.partial" in capsys.readouterr().err
    assert not Path("out/predictions.csv").exists()
    with Path("out/predictions.partial").open("a") as file:  # as a crash leaves it
        file.write('{"path": "photos/4.p')
    batches[:] = [0] * 2

    assert run([*options, "output=out", "threshold=0.6"]) == 2
    assert "with other settings (threshold=default, now 0.6) that was interrupted" in capsys.readouterr().err
    assert run(["predict", f"run={trained}", "input=photos/2.png", *options[3:], "output=out"]) == 2
    assert "of other images that was interrupted; resume=false throws it away" in capsys.readouterr().err
    assert run([*options, "output=out"]) == 1
    assert "resuming after 2 images" in capsys.readouterr().err
    assert batches == [0, 0, 2, 1]  # the first two images were not scored again
    files = sorted(path.relative_to("out") for path in Path("out").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to("whole") for path in Path("whole").rglob("*") if path.is_file())
    for file in files:
        assert Path("out", file).read_bytes() == Path("whole", file).read_bytes()


def test_resume_false_starts_anew(trained, photos, capsys):
    Path("x.partial").write_text("something else\n")
    assert run(["predict", f"run={trained}", "input=photos", "output=x.csv"]) == 2
    assert "with other settings (no journal of mldec predict)" in capsys.readouterr().err
    assert run(["predict", f"run={trained}", "input=photos", "output=x.csv", "resume=false"]) == 0
    assert not Path("x.partial").exists()


def test_two_commands_do_not_write_one_output(tmp_path):
    journal = predictions.Journal(tmp_path / "x.partial", {}, ["a", "b"])
    journal.add([{"path": "a", "labels": {}}])
    with pytest.raises(RunError, match="being written by another mldec predict"):
        predictions.Journal(tmp_path / "x.partial", {}, ["a", "b"])
    journal.close()
    again = predictions.Journal(tmp_path / "x.partial", {}, ["a", "b", "c"])
    assert again.done == 1
    again.close(finished=True)
    assert not list(tmp_path.iterdir())


def test_a_label_called_path_is_refused_where_it_would_be_a_column_twice(tmp_path):
    record = {"path": "a", "labels": {}, "scores": [0.5]}
    labels = mldec.labels.LabelSpace(["path"])
    with pytest.raises(DataError, match="a label is called path"):
        predictions.write(tmp_path / "x.parquet", "parquet", [record], labels, all_scores=True)
    assert not list(tmp_path.iterdir())


# Which labels are listed ----------------------------------------------------------------------------------------------


def test_each_label_has_the_threshold_that_was_tuned_for_it(trained, photos, capsys):
    tuned = read_thresholds(trained / "thresholds.csv")
    predictor = mldec.load(trained, device="cpu")
    paths = find_images("photos")
    scores = predictor.scores(paths)
    expected = [{n for n, s, t in zip(tuned.labels.names, row, tuned.values, strict=True) if s > t} for row in scores]
    assert any(expected)
    assert expected != [{n for n, s in zip(tuned.labels.names, row, strict=True) if s > 0.5} for row in scores]
    assert [set(found) for found in predictor.predict(paths, threshold="tuned")] == expected
    for source in ("tuned", str(trained / "thresholds.csv")):
        options = [f"thresholds={source}", "output=x.jsonl"]
        assert run(["predict", f"run={trained}", "input=photos", *options]) == 0
        assert [set(line["labels"]) for line in lines_of("x.jsonl")] == expected
    assert "warning" not in capsys.readouterr().err


def test_labels_without_a_tuned_threshold_have_the_common_one(trained, photos, capsys):
    names = restore(trained).labels.names
    Path("some.csv").write_text(f"label,threshold\n{names[0]},1\nzebra,0\n")
    options = ["thresholds=some.csv", "threshold=0.001", "output=x.jsonl"]
    assert run(["predict", f"run={trained}", "input=photos", *options]) == 0
    assert f"{len(names) - 1} of {len(names)} labels are not in it and have threshold=0.001" in capsys.readouterr().err
    assert all(set(line["labels"]) == set(names[1:]) for line in lines_of("x.jsonl"))


def test_options_without_effect_are_warnings(trained, photos, capsys):
    options = ["thresholds=tuned", "threshold=0.4", "scores=all", "resume=true", f"font={_dejavu()}"]
    assert run(["predict", f"run={trained}", "input=photos/0.png", *options]) == 0
    printed = capsys.readouterr().err
    for warning in (
        "threshold=0.4: thresholds=tuned has",
        "scores=all: without output",
        "resume=true: without",
        "font=",
    ):
        assert f"warning: {warning}" in printed
    assert run(["predict", f"run={trained}", "input=photos/0.png", "thresholds=tuned", "threshold=0.4", "top_k=1"]) == 0
    printed = capsys.readouterr().err
    assert "warning: threshold=0.4: top_k=1 lists the best labels" in printed
    assert "warning: thresholds=tuned: top_k=1 lists the best labels" in printed


def test_a_run_without_thresholds_gets_them_from_an_evaluation_of_val(trained, tmp_path, photos, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    written = (copy / "thresholds.csv").read_bytes()
    (copy / "thresholds.csv").unlink()
    checkpoint = copy / "checkpoints" / "best.pt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save({name: value for name, value in content.items() if name != "thresholds"}, checkpoint)
    with pytest.raises(DataError, match=r"has no tuned thresholds; run mldec evaluate run=RUN split=val"):
        mldec.load(copy).predict([photos / "0.png"], threshold="tuned")
    assert run(["predict", f"run={copy}", "input=photos", "thresholds=tuned"]) == 2
    assert (
        "has no tuned thresholds; run mldec evaluate run=RUN split=val tune_thresholds=true" in capsys.readouterr().err
    )
    assert run(["evaluate", f"run={copy}", "tune_thresholds=true"]) == 2
    assert "use split=val, not split=test" in capsys.readouterr().err
    assert run(["evaluate", f"run={copy}"]) == 0
    assert "tuned" not in json.loads((copy / "evaluation" / "digits_test" / "metrics.json").read_text())
    assert run(["evaluate", f"run={copy}", "split=val", "tune_thresholds=true"]) == 0
    assert (copy / "thresholds.csv").read_bytes() == written
    capsys.readouterr()
    assert run(["evaluate", f"run={copy}"]) == 0
    record = json.loads((copy / "evaluation" / "digits_test" / "metrics.json").read_text())
    assert set(record["tuned"]) == {"CF1", "OF1"}
    recorded = read_records(trained / "metrics.jsonl")[-1]
    assert {name: recorded[f"{name}_tuned"] for name in record["tuned"]} == pytest.approx(record["tuned"])
    printed = capsys.readouterr().out
    assert f"OF1 {record['tuned']['OF1']:.2f}   at the thresholds of thresholds.csv, tuned on val\n" in printed


# Annotated images ---------------------------------------------------------------------------------------------------


def test_annotated_images_show_image_and_labels(trained, photos):
    assert (
        run(["predict", f"run={trained}", "input=photos", "output=out", "annotated=true", "maps=true", "top_k=2"]) == 0
    )
    for name in ("0.png", "inside/1.png"):
        shown = cv2.imread(f"out/annotated/{name}.jpg")
        image = cv2.resize(cv2.imread(f"photos/{name}"), (360, 288), interpolation=cv2.INTER_CUBIC)
        assert np.abs(shown[:288, :360].astype(int) - image).mean() < 8  # but for JPEG
        assert (shown[:, 360:].max(axis=(1, 2)) > 200).any()  # there is text
        assert cv2.imread(f"out/maps/{name}.png") is not None


def test_letters_of_many_scripts_are_drawn_and_others_are_named():
    names = ["zebra", "Übergröße", "щука", "ελιά", "斑马"]
    assert text_rendering.unreadable(names) == ["斑马"]
    drawn = []
    for name in names:
        canvas = Image.new("RGB", (120, 30))
        text_rendering.write(ImageDraw.Draw(canvas), name, 0, 20, (255, 255, 255), size=15, width=120)
        drawn.append(np.array(canvas))
    assert all(canvas.max() > 200 for canvas in drawn)
    assert not any(np.array_equal(drawn[0], other) for other in drawn[1:])
    assert text_rendering.fit("zebra", 15, 120) == "zebra"
    assert text_rendering.fit("zebra " * 40, 15, 120).endswith("…")


def test_text_stays_where_it_belongs():
    for text, right in (("zebra " * 40, False), ("99%", True)):
        canvas = Image.new("RGB", (200, 60))
        text_rendering.write(ImageDraw.Draw(canvas), text, 50, 30, (255, 255, 255), size=15, width=80, right=right)
        drawn = np.array(canvas)
        assert not drawn[:, :48].any()
        assert not drawn[:, 131:].any()
        assert drawn.any()


# From Python ----------------------------------------------------------------------------------------------------------


def test_predictions_are_the_scores_of_the_evaluation_bit_for_bit(trained, predictor, digits_root):
    """Of paths, of Pillow's images and of arrays, in batches as evaluation makes them."""
    config = predictor.config
    index = data_splits.build_split(config, "test")
    loader = build.build_eval_loader(config, index, predictor.device)
    expected = compute_scores(predictor.model, predictor.scorer, loader).scores
    paths = [index.path(row) for row in range(len(index))]
    opened = [Image.open(path) for path in paths]
    arrays = [cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB) for path in paths]
    for images in (paths, [Path(path) for path in paths], opened, arrays, np.stack(arrays)):
        assert np.array_equal(predictor.scores(images, batch_size=config.schedule.batch_size), expected)
    for workers in (0, 1, 3):
        answers = [a for batch in predictor.stream(iter(paths), batch_size=32, workers=workers) for a in batch]
        assert [answer.image for answer in answers] == paths
        assert np.array_equal([answer.scores for answer in answers], expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "PA", "CMYK", "1", "I;16", "YCbCr"])
def test_images_of_pillow_in_every_mode_are_what_their_files_are(predictor, tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 4), np.uint8)
    pixels[..., 3] = 255 * (pixels[..., 3] > 99)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 65535, (40, 50)).astype(np.uint16))
    elif mode != "RGBA":
        image = image.convert("RGBA" if mode in ("LA", "PA") else "RGB").convert(mode)
    assert image.mode == mode
    file = tmp_path / f"a.{'tif' if mode in ('CMYK', 'YCbCr', 'PA') else 'png'}"
    try:
        image.save(file)
    except OSError:
        pytest.skip(f"no format that Pillow writes keeps {mode}")
    assert np.array_equal(predictor.scores([image]), predictor.scores([file]))


def test_the_orientation_that_a_image_notes_is_applied_however_it_comes(predictor, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(pixels, -1)
    expected = predictor.scores([upright])
    assert np.array_equal(predictor.scores([tmp_path / "turned.png"]), expected)
    assert np.array_equal(predictor.scores([Image.open(tmp_path / "turned.png")]), expected)
    assert not np.array_equal(predictor.scores([pixels]), expected)


def test_grey_arrays_are_grey_images_and_other_arrays_are_refused(predictor):
    grey = np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)
    assert np.array_equal(predictor.scores([grey]), predictor.scores([Image.fromarray(grey)]))
    for wrong in (
        grey / 255.0,
        np.zeros((3, 40, 60), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        7,
    ):
        with pytest.raises(DataError, match=r"or uint8 \(H,W,3\) RGB or \(H,W\) grey; found"):
            predictor.predict([wrong])
    with pytest.raises(DataError, match=r"found one image; pass \['a.jpg'\]"):
        predictor.predict("a.jpg")
    with pytest.raises(DataError, match="32 bits"):
        predictor.predict([Image.fromarray(np.zeros((4, 4), np.float32))])
    assert predictor.predict([]) == []


def test_weights_that_are_not_finite_are_one_error(trained, photos):
    broken = mldec.load(trained, device="cpu")
    next(iter(broken.model.parameters())).data.fill_(float("nan"))
    with pytest.raises(RunError, match="scores are not finite; the weights are damaged"):
        broken.predict([photos / "0.png"])


def _dejavu():
    return text_rendering._font(12).path


# Inputs and outputs stay apart ----------------------------------------------------------------------------------------


def _predict(trained, *options):
    return run(["predict", f"run={trained}", "top_k=1", *options])


@pytest.mark.parametrize("source", ["photos", "photos/**/*.*", "./photos/"])
def test_what_was_drawn_into_the_input_is_no_input(trained, photos, capsys, source):
    """Run again, and with another output, predict reads the same images and not its own drawings."""
    (photos / "notes.txt").unlink()
    for output in ("photos/out", "photos/out", "photos/inside/two"):
        assert _predict(trained, f"input={source}", f"output={output}", "annotated=true", "maps=true") == 0
        assert [Path(line["path"]).name for line in lines_of(f"{output}/predictions.jsonl")] == [
            f"{number}.png" for number in (0, 2, 4, 1, 3)
        ]
        for drawn in Path(output).glob("predictions*"):
            drawn.rename(photos.parent / drawn.name)  # a pattern for all files names these, too
    printed, diagnostics = capsys.readouterr()
    assert "photos/out/maps" in printed
    assert "mldec predict drew what is in this directory" in diagnostics
    assert _predict(trained, "input=photos/out/annotated") == 0  # unless they are named themselves


def test_images_are_not_drawn_among_those_that_are_read(trained, photos, capsys):
    (photos / "inside").rename(photos / "annotated")
    before = sorted(photos.rglob("*"))
    assert _predict(trained, "input=photos", "output=photos", "annotated=true") == 2
    assert "its directory annotated, which holds images that are read (photos/annotated)" in capsys.readouterr().err
    assert sorted(photos.rglob("*")) == before


@pytest.mark.parametrize("output", ["list.csv", "linked.csv", "hard.csv", "../{}/list.csv", "folder", "stem.csv"])
def test_an_output_never_overwrites_what_is_read(trained, photos, capsys, output):
    text = "photos/0.png\nphotos/2.png\n"
    Path("list.csv").write_text(text)
    Path("linked.csv").symlink_to("list.csv")
    Path("hard.csv").hardlink_to("list.csv")
    Path("folder").mkdir()
    Path("folder/predictions.csv").symlink_to("../list.csv")
    Path("stem.broken.csv").hardlink_to("list.csv")
    more = ["format=csv"] if output == "folder" else []
    assert _predict(trained, "input=@list.csv", f"output={output.format(Path.cwd().name)}", *more) == 2
    error = capsys.readouterr().err
    assert "would be overwritten, and it is read as list.csv; use another output" in error
    assert Path("list.csv").read_text() == text
    assert not list(Path.cwd().rglob("*.partial"))


def test_thresholds_and_labels_are_not_overwritten_either(trained, photos, capsys):
    shutil.copy(trained / "thresholds.csv", "t.csv")
    before = Path("t.csv").read_bytes()
    assert run(["predict", f"run={trained}", "input=photos", "thresholds=t.csv", "output=t.csv"]) == 2
    assert Path("t.csv").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "thresholds.csv", "per_class_ap.csv", "evaluation/x/per_class_ap.csv"]
)
def test_the_records_of_a_run_are_not_replaced(trained, photos, capsys, name):
    folder = photos.parent / "another_run"
    shutil.copytree(trained, folder)
    if not (folder / name).exists():
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(folder / "per_class_ap.csv", folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for network in (trained, folder):
        assert run(["predict", f"run={network}", "input=photos", f"output={folder / name}"]) == 2
        error = capsys.readouterr().err
        assert f"output={folder / name}: is a record of the run in that directory" in error
        assert "use another output" in error
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    for name in ("config.yaml", "checkpoints/best.pt", "data.json"):  # which are not named as a file of predictions
        assert run(["predict", f"run={trained}", "input=photos", f"output={folder / name}"]) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert run(["predict", f"run={folder}", "input=photos", f"output={folder / 'predictions.csv'}"]) == 0


def test_long_names_are_drawn_under_shorter_ones(trained, photos):
    names = [f"{'a' * 250}{end}.jpg" for end in "bc"] + ["ü" * 125 + ".png"]
    for name in names:
        shutil.copy(photos / "0.png", photos / name)
    assert _predict(trained, "input=photos", "output=out", "annotated=true", "maps=true") == 0
    assert len(lines_of("out/predictions.jsonl")) == COUNT + 3
    for folder, ending in (("annotated", ".jpg"), ("maps", ".png")):
        drawn = [path.name for path in Path("out", folder).rglob(f"*{ending}")]
        assert len(set(drawn)) == COUNT + 3
        assert sum("~" in name for name in drawn) == 3
        assert "0.png" + ending in drawn  # a name that fits is kept


def test_an_image_that_cannot_be_drawn_stops_nothing_and_is_named(trained, photos, capsys, monkeypatch):
    from mldec.engine import image_sheets

    save = image_sheets.save_image

    def failing(path, image):
        if path.name.startswith("2.png"):
            raise OSError(36, "File name too long")
        save(path, image)

    monkeypatch.setattr(image_sheets, "save_image", failing)
    assert _predict(trained, "input=photos", "output=out", "annotated=true") == 1
    assert "error: photos/2.png: cannot be drawn: File name too long" in capsys.readouterr().err
    assert len(lines_of("out/predictions.jsonl")) == COUNT
    assert len(list(Path("out/annotated").rglob("*.jpg"))) == COUNT - 1


def test_a_resumed_prediction_scores_changed_images_again(trained, photos, capsys, monkeypatch):
    """Also one of the same size and time, one that could not be read, and one that is gone."""
    (photos / "0.png").write_bytes(b"broken")
    Path("list.txt").write_text("".join(f"{path}\n" for path in find_images("photos")))
    options = ["input=@list.txt", "batch_size=1", "scores=all", "workers=0"]
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert _predict(trained, *options, "output=out") != 0
    assert cv2.imwrite(str(photos / "0.png"), np.full((48, 60, 3), 255, np.uint8))  # this can be read now
    before, data = (photos / "2.png").stat(), (photos / "0.png").read_bytes()
    (photos / "2.png").write_bytes(data.ljust(before.st_size, b"\0"))
    os.utime(photos / "2.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (photos / "2.png").stat().st_size == before.st_size
    (photos / "4.png").unlink()
    capsys.readouterr()
    assert _predict(trained, *options, "output=out") == 1
    printed = capsys.readouterr().err
    assert "resuming after 1 images" in printed
    assert "3 images changed since they were scored and are scored again" in printed
    assert _predict(trained, *options, "output=fresh") == 1
    assert len(lines_of("out/predictions.jsonl")) == COUNT - 1
    assert lines_of("out/predictions.jsonl") == lines_of("fresh/predictions.jsonl")
    assert rows_of("out/predictions.broken.csv") == rows_of("fresh/predictions.broken.csv")


def stop_after(count, monkeypatch):
    """Interrupt the prediction once so many images were scored."""
    add, done = predictions.Journal.add, []

    def interrupting(self, records, *more):
        add(self, records, *more)
        done.extend(records)
        if len(done) >= count:
            raise KeyboardInterrupt

    monkeypatch.setattr(predictions.Journal, "add", interrupting)


def test_the_last_record_of_an_image_counts_and_damage_ends_a_journal(tmp_path):
    images = [tmp_path / name for name in "abc"]
    for image in images:
        image.write_text("1")
    paths, file = [str(image) for image in images], tmp_path / "x.partial"
    journal = predictions.Journal(file, {}, paths)
    journal.add([{"path": p, "labels": {"cat": 1.0}} for p in paths], [predictions.stamp(p) for p in paths])
    journal.close()
    images[1].write_text("22")
    again = predictions.Journal(file, {}, paths)
    assert (again.done, again.changed, list(again.remaining)) == (2, 1, [1])
    again.add([{"path": paths[1], "error": "x"}], [predictions.stamp(paths[1])])
    assert [record.get("error") for record in again.records()] == [None, "x", None]
    assert (again.done, again.broken) == (3, 1)
    again.close()
    whole = file.read_bytes()
    for damage in (
        b"\0" * 20 + b"\n",
        b'{"image": 0}\n',
        b"[" * 99999 + b"\n",
        b'{"image": -1, "stamp": 0, "record": 0}\n',
    ):
        file.write_bytes(whole + damage)
        third = predictions.Journal(file, {}, paths)
        assert (third.done, third.broken, list(third.remaining)) == (3, 1, [])
        third.close()
        assert file.read_bytes() == whole


# What phones and other systems leave ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["photos", "photos/**/*.*p*g"])
def test_what_macos_adds_is_no_image_and_formats_that_are_not_read_are_named(trained, photos, capsys, source):
    double = b"\0\5\x16\7\0\2\0\0Mac OS X        "
    for name in ("._0.png", "inside/._1.png", "__MACOSX/0.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(double)
    for name in ("IMG_3.HEIC", "b.heif", "c.CR2"):
        (photos / name).write_bytes(b"\0\0\0\x18ftypheic")
    (photos / "inside" / "back").symlink_to(photos, target_is_directory=True)
    assert _predict(trained, f"input={source}", "output=x.jsonl") == 0
    printed = "".join(capsys.readouterr())
    assert [Path(line["path"]).name for line in lines_of("x.jsonl")][-2:] == ["1.png", "3.png"]
    assert "._" not in printed
    assert "MACOSX" not in printed
    if source == "photos":
        assert len(lines_of("x.jsonl")) == COUNT
        assert "note: skipped photos/IMG_3.HEIC: images in HEIC are not read; convert them to JPEG or PNG" in printed
        assert "images in HEIF" in printed
        assert "images in CR2" in printed
        assert "photos/inside/back: linked directories are not entered" in printed
    Path("list.txt").write_text("photos/._0.png\nphotos/0.png\n")
    assert _predict(trained, "input=@list.txt", "output=y.jsonl") == 0
    assert [line["path"] for line in lines_of("y.jsonl")] == ["photos/0.png"]


def test_a_directory_of_formats_that_are_not_read_is_an_error(photos):
    Path("phone").mkdir()
    Path("phone/IMG_1.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images there .*skipped phone/IMG_1.HEIC: images in HEIC are not read"):
        find_images("phone")


# Names reach the terminal as text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nerror: b.png", "a\\nerror: b.png"),
        ("a\x1b[2Jb.png", "a\\x1b[2Jb.png"),
        ("a\u202egnp.b.png", "a\\u202egnp.b.png"),
        ("a\u2066b.png", "a\\u2066b.png"),
        ("a\x9b31mb.png", "a\\x9b31mb.png"),
        ("[red]:smile:.png", "[red]:smile:.png"),
    ],
)
def test_names_are_printed_on_one_line_without_what_terminals_obey(trained, photos, capsys, name, shown):
    shutil.copy(photos / "0.png", name)
    Path(name[:-4] + "broken.png").write_bytes(b"no image")
    inputs = [f"input={name}", f"input={name[:-4]}broken.png"]
    for more in ([], ["output=x.csv"]):
        assert _predict(trained, *inputs, *more) == 1
        printed = "".join(capsys.readouterr())
        lines = printed.split("\n")
        assert any(line.startswith(f"{shown}: ") for line in lines)
        assert any(f"cannot decode image {shown[:-4]}broken.png" in line for line in lines)
        assert not any(line.startswith("error: b") for line in lines)
        assert not any(sign in printed for sign in "\x1b\x9b\u202e\u2066")
    assert rows_of("x.csv")[0]["path"] == name  # files hold the name itself
