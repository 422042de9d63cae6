"""Property: a value that an option cannot have ends in exit code 2 and one error line, for every option of a command.

The values are those that no option takes. What a command needs beside the option is there and sound.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mldec.commands.main import COMMANDS, MODULES, run
from mldec.commands.options import Repeatable, parse, value_of
from mldec.commands.predict import PredictOptions
from mldec.config import build_options
from mldec.errors import ConfigError, printable, printable_name, shortened, whole_number
from tests.curve import SMALLER, small_experiment

LONG = "9" * 5000
#: No number, no boolean, no choice, and no path that can be written or read.
ODD = [
    "²",
    LONG,
    "-1",
    "1.5e999",
    "nan",
    "١٢",
    "1_000",
    "yes",
    "file/inside",
    "\udcff",
    "~nobody-of-that-name/x",
    "a\0b",
]


ODD_SETTINGS = ["²", LONG, "yes"]  # of settings, which tests/test_config_fuzz.py tries with more


def declared() -> dict[str, type]:
    """The options of every command and subcommand, by its name."""
    found = {}
    for name in COMMANDS:
        module = importlib.import_module(f"mldec.commands.{MODULES.get(name, name)}")
        found |= {f"{name} {sub}": cls for sub, cls in getattr(module, "SUBCOMMANDS", {}).items()}
        if hasattr(module, "OPTIONS"):
            found[name] = module.OPTIONS
    return found


DECLARED = declared()


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run(["train", *small_experiment(digits_root), *SMALLER, "schedule.epochs=1", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current directory, with a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    return tmp_path


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], *named: str) -> str:
    """Run a command, which must end in one error line and exit code 2. Returns that line."""
    capsys.readouterr()
    code, error = run(argv), capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith(("note:", "warning:"))]
    shown = [argument[:60] for argument in argv]
    assert code == 2, (shown, code, error)
    assert "".join(lines[:1]).startswith("error: "), (shown, error)
    assert "Traceback" not in error
    assert len(error) < 4000, (shown, len(error))
    for name in named:
        assert name in error, (shown, error)
    return error


NETWORK = ["weights", "batch_size", "workers", "precision"]

#: Of each command: what is given beside, and the options of which no value of ODD is a sound one.
OPTIONS = {
    "train": (
        ["experiment=digits", "debug=fast"],
        ["seed", "tune", "schedule.epochs", "runtime.workers", "runtime.compile"],
    ),
    "train resume": (["resume=RUN"], ["allow_schedule_change", "allow_other_data", "schedule.epochs"]),
    "show": (["experiment=digits"], ["num_labels", "format", "schedule.epochs", "run"]),
    "evaluate": (
        ["run=RUN"],
        ["split", "epoch", "tune_thresholds", "allow_other_data", "protocol.threshold", "runtime.workers", *NETWORK],
    ),
    "predict": (
        ["run=RUN", "input=file"],
        [
            *(
                "threshold",
                "thresholds",
                "top_k",
                "known",
                "scores",
                "annotated",
                "maps",
                "font",
                "resume",
                "device",
                "format",
            ),
            *NETWORK,
        ],
    ),
    "import": (["checkpoint=file"], ["checkpoint", "key", "image_size"]),
    "report": (["run=RUN"], ["split", "allow_other_data", "run", *NETWORK]),
    "export": (["run=RUN", "format=onnx"], ["format", "weights", "fold_batch_norm", "preprocessing", "run"]),
    "data download": (["dataset=coco", "root=new"], ["keep", "parallel", "dataset.year"]),
    "data verify": (["dataset=digits", "root=new", "dataset.train=2"], ["split", "workers", "fix"]),
    "data stats": (["dataset=digits", "root=new"], ["split", "dataset.train"]),
    "data split": (
        ["table=file"],
        ["table", "train", "val", "test", "seed", "groups", "dedupe", "redivide", "workers"],
    ),
    "data shrink": (["dataset=digits", "output=small", "side=9"], ["side", "quality", "workers"]),
    "data export": (
        ["dataset=digits", "root=new", "format=hf", "output=small"],
        ["format", "split", "images", "unknown", "threshold"],
    ),
    "data browse": (["dataset=digits", "root=new", "output=page.html"], ["split", "limit"]),
    "cache build": (["experiment=digits", "backbone.freeze=all"], ["cache.views", "cache.dtype", "cache.max_gb"]),
    "cache list": ([], ["folder"]),
    "cache clear": ([], ["folder", "key", "dataset"]),
    "table": (
        ["5", "launcher=print"],
        ["scale", "seeds", "choose_seed", "rows", "jobs", "gpus", "launcher", "report_only"],
    ),
    "benchmark loader": ([], ["scale", "repeats", "workers"]),
    "benchmark data": ([], ["scale", "repeats"]),
    "benchmark train": ([], ["steps", "repeats", "images", "num_labels", "runtime.threads"]),
    "benchmark heads": ([], ["table", "rows", "repeats", "num_labels", "seconds"]),
    "benchmark cache": ([], ["repeats", "images", "num_labels", "memory"]),
    "benchmark model": (
        ["experiment=digits", "num_labels=5"],
        ["num_labels", "heads", "repeats", "seconds", "largest_batch"],
    ),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_odd_values_are_one_error_line_that_names_the_option(command, trained, place, capsys):
    fixed, options = OPTIONS[command]
    own = {field.name for field in dataclasses.fields(DECLARED[command.removesuffix(" resume")])}
    for option in options:
        for value in ODD if option in own else ODD_SETTINGS:
            beside = [word.replace("RUN", str(trained)) for word in fixed if not word.startswith(f"{option}=")]
            before = sorted(place.iterdir())
            refused([*command.removesuffix(" resume").split(), *beside, f"{option}={value}"], capsys)
            assert sorted(place.iterdir()) == before, (option, value[:20])  # nothing was written, nothing begun


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["evaluate", "run=RUN"], "output"),
        (["predict", "run=RUN", "input=file"], "output"),
        (["report", "run=RUN"], "output"),
        (["export", "run=RUN", "format=safetensors"], "output"),
        (["data", "verify", "dataset=digits", "root=new"], "output"),
        (["data", "stats", "dataset=digits", "root=new"], "output"),
        (["data", "shrink", "dataset=digits", "side=9"], "output"),
        (["data", "export", "dataset=digits", "format=csv"], "output"),
        (["data", "browse", "dataset=digits"], "output"),
        (["cache", "build", "experiment=digits", "backbone.freeze=all"], "folder"),
        (["table", "5", "report_only=true"], "output"),
        (["table", "5", "report_only=true"], "records"),
        (["table", "5", "report_only=true"], "page"),
        (["benchmark", "loader"], "output"),
        (["benchmark", "loader"], "page"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_an_output_in_which_nothing_can_be_written_is_refused_first(command, option, trained, place, capsys):
    """Before anything is read, drawn or measured."""
    command = [word.replace("RUN", str(trained)) for word in command]
    before = sorted(place.iterdir())
    values = ["file/inside", "file/inside/deeper", "", " ", "~nobody-of-that-name/x", "a" * 5000, "a\0b"]
    for value in values:
        refused([*command, f"{option}={value}"], capsys, option if len(value) < 100 else "")
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("command", [name for name in DECLARED if name != "train"])
def test_m_is_refused_where_it_would_be_ignored(command, place, capsys):
    for option in ("-m", "--multirun"):
        assert "has no effect here" in refused([*command.split(), option], capsys)


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_config_directory_is_refused_where_nothing_is_composed(command, place, capsys):
    assert "has no effect here" in refused([command, "run=x", "--config-dir=."], capsys)


def test_options_that_do_not_exist_are_errors_with_the_nearest_one(trained, place, capsys):
    for argv in (
        ["report", f"run={trained}", "wieghts=ema"],
        ["evaluate", f"run={trained}", "wieghts=ema"],
        ["export", f"run={trained}", "format=onnx", "wieghts=ema"],
        ["predict", f"run={trained}", "input=file", "wieghts=ema"],
        ["show", f"run={trained}", "wieghts=ema"],
        ["data", "stats", "dataset=digits", "wieghts=ema"],
        ["table", "5", "launcher=print", "wieghts=ema"],
        ["benchmark", "loader", "wieghts=ema"],
        ["benchmark", "model", "num_labels=5", "scale=0.5"],
        ["train", "experiment=digits", "wieghts=ema"],
    ):
        error = refused(argv, capsys, argv[-1].partition("=")[0])
        assert "did you mean weights?" in error or "weights" not in error


def test_consent_without_what_it_consents_to_is_an_error(place, capsys):
    for option in ("allow_schedule_change=true", "allow_other_data=false"):
        assert "has no effect without resume=RUN" in refused(["train", "experiment=digits", option], capsys)


def test_an_option_given_twice_with_two_values_is_an_error(place, capsys):
    assert "top_k=2: given twice, before as top_k=1" in refused(["predict", "run=x", "top_k=1", "top_k=2"], capsys)
    parsed, _ = parse(["input=a", "input=b", "run=x", "run=x"], PredictOptions, "predict")
    assert (parsed.input, parsed.run) == (("a", "b"), Path("x"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switch:
    keep: bool = False


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "false", "False"])
def test_booleans_are_true_or_false(text):
    assert build_options(Switch, {"keep": value_of(text, bool)}).keep is (text.lower() == "true")
    assert parse([f"keep={text}"], Switch, "test")[0].keep is (text.lower() == "true")
    for other in ("yes", "no", "1", "0", "on", "t", "tru\u0435"):  # the last with a Cyrillic letter
        with pytest.raises(ConfigError, match="expected true or false"):
            parse([f"keep={other}"], Switch, "test")
    with pytest.raises(ConfigError, match="keep=: empty"):
        parse(["keep="], Switch, "test")


# Configs of one's own -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\0\x01binary",
        b"\x80\x81",
        b"defaults:\n  - odd\nname: x\n",
        b"defaults:\n  - override /experiment: odd\n",
        b"a: &a [*a]\n",
        b"".join(b"%c: &%c [%s]\n" % (c, c, b"0" if c == 97 else b"*%c, " % (c - 1) * 9) for c in range(97, 115)),
        b"a: &a {b: *a}\n",
        b"name: [" + b"[" * 3000,
        b"- a list\n",
        b"just text",
        b"name: 'never closed",
        b"seed: " + b"9" * 5000,
        b"seed: 0x" + b"f" * 5000,
        b"dataset: 0x" + b"f" * 5000,
        b"defaults: 3\n",
        b"defaults:\n  - {a: {b: c}}\n",
        b"? {a: 1}\n: 2\n",
        b"name: ${oc.env:NO_SUCH_VARIABLE}\n",
        b"dataset: ${dataset}\n",
    ],
    ids=lambda content: content[:24].decode("latin-1"),
)
def test_yaml_that_is_none_or_contains_itself_is_one_error_line(content, place, capsys):
    (place / "configs" / "experiment").mkdir(parents=True)
    (place / "configs" / "experiment" / "odd.yaml").write_bytes(content)
    refused(["show", "experiment=odd", "num_labels=3", "--config-dir=configs"], capsys)


@pytest.mark.parametrize(
    "code",
    [
        "raise RuntimeError('no\\nway')",
        "1/0",
        "def f(:",
        "import no_such_module_here",
        "raise SystemExit(3)",
        "raise OSError(2)",
        "from mldec import nothing_of_that_name",
        "import sys; sys.exit('bye')",
        "raise BaseExceptionGroup('x', [ValueError()])",
    ],
)
def test_a_plugin_that_raises_is_one_error_line_that_names_it(code, place, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    (place / "odd_plugin.py").write_text(code)
    monkeypatch.delitem(__import__("sys").modules, "odd_plugin", raising=False)
    refused(["show", "experiment=digits", "num_labels=3", "plugins=[odd_plugin]"], capsys, "plugins=odd_plugin")


@pytest.mark.parametrize("name", [".relative", "a..b", "²", LONG, "a/b", "..", "odd.plugin.that.is.not.there"])
def test_a_plugin_that_is_no_module_is_one_error_line(name, place, capsys):
    refused(["show", "experiment=digits", "num_labels=3", f"plugins={name}"], capsys, "plugins=")


# Parsers --------------------------------------------------------------------------------------------------------------


@example("²")
@example("٣")
@example(LONG)
@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,30}", fullmatch=True))
@settings(max_examples=60, deadline=None)
def test_a_whole_number_is_ascii_digits_and_nothing_else(text):
    value = whole_number(text)
    expected = text.isascii() and text.isdigit() and len(text) <= 18
    assert (value is not None) == expected
    assert value is None or str(value) == text.lstrip("0") or (value == 0 and not text.strip("0"))


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_number_is_what_python_reads_of_plain_ones_or_none(text):
    value = value_of(text, float)
    if value is not text:
        assert value == float(text)
        assert text.isascii()


@example("".join(map(chr, [*range(0x2028, 0x202F), *range(0x2066, 0x206A), 0x61C, 0x200E, 0x200F, 27, 0x9B, 0xDCFF])))
@given(st.text(st.characters(exclude_categories=()), max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_printed_of_a_name_can_be_encoded_and_moves_nothing(text):
    shown = printable_name(text)
    shown.encode()
    assert shown == printable(shown)  # nothing is left to escape
    assert len(shown.splitlines()) <= 1
    hidden = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u061c\u200e\u200f\u2028\u2029"}
    hidden |= {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
    assert not hidden & set(shown)
    assert len(shortened(text * 50)) < 1200


# Where a run is used --------------------------------------------------------------------------------------------------

SMALL = ["backbone=resnet_digits", "dataset.image_size=32", "schedule.epochs=1", "schedule.batch_size=4"]
SMALL += ["runtime=cpu", "runtime.workers=0", "runtime.threads=1", "runtime.tensorboard=false"]


def project(folder: Path, turn: int) -> None:
    """Eight images and their tables; in other turns the labels are others."""
    import cv2
    import numpy as np

    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (36, 36, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"p{number}.png"), pixels)
    rows = [f"p{number}.png,{('cat', 'dog')[(number + turn) % 2]}\n" for number in range(8)]
    (folder / "train.csv").write_text("path,labels\n" + "".join(rows))
    (folder / "val.csv").write_text("path,labels\n" + "".join(rows[: 5 - turn]))


@pytest.fixture
def projects(tmp_path, monkeypatch):
    """Two projects with tables of the same names, and a run of the first one."""
    for turn, name in enumerate(("one", "two")):
        project(tmp_path / name, turn)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    argv = ["dataset=table", "dataset.train=train.csv", "dataset.val=val.csv", *SMALL, "run_dir=run"]
    assert run(["train", *argv]) == 0
    return tmp_path


def images(folder: Path) -> int:
    return json.loads((folder / "metrics.json").read_text())["images"]


def test_a_run_is_evaluated_and_resumed_on_its_own_data_from_every_folder(projects, monkeypatch, capsys):
    for name in ("one", "two", "empty"):
        monkeypatch.chdir(projects / name)
        where = "run" if name == "one" else "../one/run"
        assert run(["evaluate", f"run={where}", "output=../found"]) == 0
        assert images(projects / "found") == 5
    stored = (projects / "one" / "run" / "config.yaml").read_text()
    assert f"train: {projects}/one/train.csv" in stored
    before = (projects / "one" / "run" / "data.json").read_bytes()
    assert run(["train", "resume=../one/run", "schedule.epochs=2", "allow_schedule_change=true"]) == 0
    assert (projects / "one" / "run" / "data.json").read_bytes() == before


def test_data_of_another_fingerprint_is_refused_unless_it_is_allowed(projects, monkeypatch, capsys):
    shutil.copy(projects / "two" / "val.csv", projects / "one" / "val.csv")
    error = refused(["evaluate", "run=run", "output=found"], capsys, "fingerprint", "allow_other_data=true")
    assert "4 images of 2 labels" in error
    assert not Path("found").exists()
    assert "typed" not in refused(["evaluate", "run=run", "dataset.root=.", "output=found"], capsys, "fingerprint")
    # How images are shown says nothing of which images are meant.
    refused(["evaluate", "run=run", "dataset.interpolation=bicubic", "output=found"], capsys, "fingerprint")
    assert run(["evaluate", "run=run", "allow_other_data=true", "output=found"]) == 0
    assert images(Path("found")) == 4
    assert "note: the test images or labels are not those of the run" in capsys.readouterr().err
    assert run(["evaluate", "run=run", "dataset.val=../two/val.csv", "output=named"]) == 0  # who names data means it
    assert run(["report", "run=run", "output=page.html"]) == 0
    assert "are not those of the run" in Path("page.html").read_text()


def test_a_run_resumes_with_other_images_only_if_that_is_allowed(projects, capsys):
    first = Path("run/data.json").read_bytes()
    shutil.copy(projects / "two" / "train.csv", "train.csv")
    argv = ["train", "resume=run", "schedule.epochs=2", "allow_schedule_change=true"]
    refused(argv, capsys, "the train images or labels are not those", "allow_other_data=true")
    assert Path("run/data.json").read_bytes() == first
    assert run([*argv, "allow_other_data=true"]) == 0
    assert Path("run/data.json").read_bytes() == first
    (later,) = Path("run").glob("data_from_step_*.json")
    assert json.loads(later.read_text())["train"] != json.loads(first)["train"]


def test_a_project_that_was_moved_is_named_and_found_again(projects, monkeypatch, capsys):
    (projects / "one").rename(projects / "moved")
    monkeypatch.chdir(projects / "moved")
    refused(["evaluate", "run=run"], capsys, "val.csv: no such file")
    there = ["dataset.train=train.csv", "dataset.val=val.csv"]
    assert run(["evaluate", "run=run", *there, "output=found"]) == 0
    assert images(Path("found")) == 5
    assert run(["train", "resume=run", *there]) == 0  # the same data in another place is no other course


def test_every_option_of_a_command_is_known_here():
    """So that a new option is added to the tests above; of paths, names and devices no value of ODD is wrong."""
    free = {Path, str, typing.get_type_hints(PredictOptions, include_extras=True)["labels"], Repeatable}
    for command, cls in DECLARED.items():
        tried = {option for name, (_, options) in OPTIONS.items() if name.startswith(command) for option in options}
        hints = typing.get_type_hints(cls, include_extras=True)
        for name, hint in hints.items():
            kinds = {hint, *typing.get_args(hint)}
            named = any(typing.get_origin(kind) is typing.Annotated and Path in typing.get_args(kind) for kind in kinds)
            is_free = kinds & free or named or hint in (tuple[str, ...], bool | None) or name in ("SETTINGS", "resume")
            assert name in tried or is_free, f"{command}: {name}"
