"""The documentation: its links lead somewhere, its commands are those that the doors take, and what needs nothing runs.

A command that a test cannot run says what it needs: `<!-- needs: MS-COCO -->` before its block, or `# needs: a GPU` at
the end of its line. It is still read as its door would read it. All others are run, shortened to two steps.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import random
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mldec.commands import compose, main
from mldec.registry import REGISTRIES
from tests.docs import pages
from tests.docs.pages import ROOT, Block, Command

NAMES = [page.relative_to(ROOT).as_posix() for page in pages.PAGES]
RUN_OFTEN = ("docs/losses.md", "docs/evaluation.md")  # and those of docs/extending/
DIGITS = ["dataset.train=24", "dataset.val=8", "dataset.test=8"]
SHORT = ["debug=fast", "schedule.epochs=1", "schedule.batch_size=4", "runtime=cpu", "runtime.threads=1"]
NO_PROGRAM_OF_OURS = ("source", "tensorboard", "torchrun", "git", "sbatch")


# Links ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_an_anchor_of_it(name):
    page = ROOT / name
    dead = []
    for file, anchor in pages.links(page):
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in pages.anchors(target)):
            dead.append(f"{file}#{anchor}" if anchor else file)
    assert dead == []


def test_every_page_is_in_the_nav_of_the_site_and_in_the_index():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def files(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from files(part)

    there = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert set(files(config["nav"])) == there
    assert {file for file, _ in pages.links(ROOT / "docs" / "index.md")} == there - {"index.md"}


@pytest.mark.slow
def test_the_site_is_built_and_fetches_nothing(tmp_path):
    """As `make docs` does; a dead link, anchor or image, or a page outside the nav, is an error."""
    config = pytest.importorskip("mkdocs.config")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    from mkdocs.commands.build import build

    build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    for page in tmp_path.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8"))
        assert [tag for tag in tags if re.search(r"(?:src|href)=\"?(?:https?:)?//", tag)] == []


# Commands -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_one_that_its_door_takes(name, tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # The runs that commands name are settings alone, whose images were never drawn.
    monkeypatch.setattr("mldec.engine.consent.confine", lambda config, *_, **__: config)
    stored = compose.to_yaml(compose.compose(["experiment=digits", "schedule.epochs=1"]))
    for block in pages.blocks(ROOT / name):
        if block.title:
            write(block)
        for command in pages.commands(block):
            with_name = f"{name}:{command.line}: {command}"
            for key, _, folder in (word.partition("=") for word in command.words):
                if key in ("run", "resume"):
                    Path(folder).mkdir(parents=True, exist_ok=True)
                    Path(folder, "config.yaml").write_text(stored, encoding="utf-8")
            code, said = take(command, monkeypatch)
            expected = next((line for line in command.output if line.startswith("error: ")), None)
            if expected is None or code == 0:  # what only the data can show, the run shows
                assert code == 0, f"{with_name}\n{said}"
            else:
                assert expected in said.splitlines(), f"{with_name}\n{said}"


def pages_to_run() -> list[object]:
    """Those with something to run; what takes long is left to `make test-slow`."""
    found = []
    for name in NAMES:
        blocks = pages.blocks(ROOT / name)
        if any(is_run(block) or any(map(is_run, pages.commands(block))) for block in blocks):
            often = name in RUN_OFTEN or name.startswith("docs/extending/")
            found.append(pytest.param(name, marks=[] if often else pytest.mark.slow))
    return found


def is_run(what: Block | Command) -> bool:
    if isinstance(what, Block):
        return what.language == "python" and not what.title and what.needs is None
    return what.needs is None and what.words[0] not in ("make", "pip", *NO_PROGRAM_OF_OURS)


@pytest.mark.parametrize("name", pages_to_run())
def test_what_needs_nothing_runs(name, tmp_path, monkeypatch, registries, trained):
    """Files that the page shows are written, commands run in order, and outputs are what the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = pages.blocks(ROOT / name)
    splits = any(command.words[1:3] == ("data", "split") for block in blocks for command in pages.commands(block))
    own_images(tmp_path, divided=not splits)
    namespace: dict[str, object] = {}
    for block in blocks:
        if block.title:
            write(block)
        elif is_run(block):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, f"{name}:{block.line}", "exec"), namespace)
            if block.output and not block.varies:
                assert printed.getvalue().split() == " ".join(block.output).split(), f"{name}:{block.line}"
        for command in filter(is_run, pages.commands(block)):
            check_run(name, command, trained)


def check_run(name: str, command: Command, trained: Path) -> None:
    printed = io.StringIO()
    words = [word.replace("RUN", str(trained)) for word in door_of(command)]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main.run(shortened(words))
    said = printed.getvalue()
    expected = [line for line in command.output if line.startswith(("error: ", "note: ", "warning: "))]
    where = f"{name}:{command.line}: {command}\n{said}"
    assert [line for line in expected if line.replace("RUN", str(trained)) not in said.splitlines()] == [], where
    assert (code != 0) == any(line.startswith("error: ") for line in expected), where


# How a command is taken -----------------------------------------------------------------------------------------------


def take(command: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and messages of a command that its door reads, and then does not carry out."""
    program, *words = command.words
    if program == "make":
        targets = re.findall(r"^([\w%-]+(?: [\w%-]+)*):(?!=)", (ROOT / "Makefile").read_text(), flags=re.M)
        known = [re.escape(target).replace("%", ".+") for line in targets for target in line.split()]
        return int(not any(re.fullmatch(pattern, words[0]) for pattern in known)), "no such target"
    if program in ("pip", "bash", "python3", *NO_PROGRAM_OF_OURS) or words[:1] == ["-c"]:
        return refuse_foreign(program, words)
    if program == "python" and words[0] != "train.py" and words[:2] != ["-m", "mldec"]:
        return int(not (ROOT / words[0]).is_file()), f"no {words[0]}"
    door, *rest = door_of(command)
    if door not in main.COMMANDS:
        return main.run([door]), f"no such command: {door}"
    if door not in ("train", "show", "data", "table"):
        return refuse_unknown_words(door, rest)
    with monkeypatch.context() as patch:
        leave_undone(patch)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main.run([door, *rest])
    return code, printed.getvalue()


def door_of(command: Command) -> list[str]:
    """The words after `mldec`, however it was called."""
    program, *words = command.words
    if program == "python":
        return ["train", *words[1:]] if words[0] == "train.py" else words[2:]
    return words


def leave_undone(patch: pytest.MonkeyPatch) -> None:
    """Doors that stop where work would begin: the experiment is composed and checked, nothing is read."""
    from mldec.commands import data, show, table, train
    from mldec.engine import config_checks

    def checked(config: object, *rest: object, **more: object) -> int:
        config_checks.check_config(config)  # type: ignore[arg-type]
        return 0

    patch.setattr(train, "_begin", checked)
    patch.setattr(train, "_check_words", checked)
    patch.setattr(train, "_train_once", lambda *rest: 0)
    patch.setattr(train, "_run_patiently", lambda words: (main.run(words[3:]), False))
    patch.setattr(show, "show", checked)
    for work in ("_download", "_verify", "_stats", "_shrink"):
        patch.setattr(data, work, lambda arguments: int(not data._dataset(arguments)))
    patch.setattr(data, "_split", lambda arguments: 0)
    patch.setattr(table, "_reproduce", lambda request: 0)
    patch.setattr(table, "_launch", lambda request: 0)


def refuse_unknown_words(door: str, words: Sequence[str]) -> tuple[int, str]:
    """A word is known if the help of its door shows it, or if it sets something of an experiment."""
    known = importlib.import_module(f"mldec.commands.{main.MODULES.get(door, door)}").HELP
    strange = []
    for word in words:
        key, separator, _ = word.partition("=")
        setting = key.split(".")[0] in compose.GROUPS or key in (*compose.CHOICES, "plugins")
        shown = re.search(rf"(?<![\w.]){re.escape(key)}{separator}", known) is not None
        if not shown and not setting and not key.startswith("--"):
            strange.append(word)
    return int(bool(strange)), f"mldec {door} --help does not know {', '.join(strange)}"


def refuse_foreign(program: str, words: Sequence[str]) -> tuple[int, str]:
    """Of other programs: an extra that pip is asked for must exist, a script that bash is given must be there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = [extra for word in words for part in re.findall(r"\[([\w,]+)\]", word) for extra in part.split(",")]
    if program == "pip" and set(asked) - set(extras):
        return 1, f"no such extra: {asked}"
    if program == "bash" and not (ROOT / words[0]).is_file():
        return 1, f"no {words[0]}"
    return 0, ""


# How a command is shortened, and what it finds ------------------------------------------------------------------------


def shortened(words: list[str]) -> list[str]:
    """The same command, but with a few images, two steps and no GPU."""
    door = words[0]
    if door not in ("train", "show") or any(word.startswith(("resume=", "run=")) for word in words):
        return words
    more = list(DIGITS) if any(word.startswith("experiment=digits") for word in words) else []
    if door == "train":
        more += [word for word in SHORT if word != "debug=fast" or not any(w.startswith("debug=") for w in words)]
        more += [] if more[:1] == DIGITS[:1] else ["dataset.image_size=64"]
    return [*words, *more]


def own_images(folder: Path, divided: bool) -> None:
    """What the pages take for granted: `photos/001.jpg` and so on, listed in `all.csv`, or in a table a split."""
    chance, noise = random.Random(0), np.random.default_rng(0)
    (folder / "photos").mkdir()
    rows = ["path,labels"]
    for number in range(1, 25):
        path = f"photos/{number:03}.jpg"
        Image.fromarray(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / path)
        rows.append(f"{path},{';'.join(chance.sample(['cat', 'dog', 'bird'], chance.randrange(3)))}")
    parts = {"train": rows[1:17], "val": rows[17:21], "test": rows[21:]} if divided else {"all": rows[1:]}
    for name, part in parts.items():
        (folder / f"{name}.csv").write_text("\n".join([rows[0], *part]) + "\n", encoding="utf-8")


def write(block: Block) -> None:
    """The file that a block shows; `data/lists` and the like get the images too."""
    path = Path(block.title or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    if path.parent.parent == Path("data") and Path("photos").is_dir() and not (path.parent / "photos").exists():
        (path.parent / "photos").symlink_to(Path("photos").resolve())


@pytest.fixture
def registries(monkeypatch):
    """What plugins add, and that they were imported, goes with the test."""
    compose.load_components(())
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_components", dict(registry._components))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that pages call RUN: two steps of the digits."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["experiment=digits", *DIGITS, *SHORT, f"dataset.root={folder / 'digits'}", f"run_dir={folder / 'run'}"]
    assert main.run(["train", *words]) == 0
    return folder / "run"
