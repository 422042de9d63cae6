"""The documentation: its links lead somewhere, its commands exist with their options, and what needs nothing runs.

A command that a test cannot run states what it needs: `<!-- needs: MS-COCO -->` before its block, or `# needs: a GPU`
at the end of its line. It is still parsed by its command. All others are run, shortened to two steps.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import random
import re
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mldec.commands import compose, main, options
from mldec.registry import REGISTRIES
from tests.docs import pages
from tests.docs.pages import ROOT, Block, Command

NAMES = [page.relative_to(ROOT).as_posix() for page in pages.PAGES]
RUN_OFTEN = ("docs/losses.md", "docs/evaluation.md")  # and those of docs/extending/
DIGITS = ["dataset.train=24", "dataset.val=8", "dataset.test=8"]
SHORT = ["debug=fast", "schedule.epochs=1", "schedule.batch_size=4", "runtime=cpu", "runtime.threads=1"]
OPTIONAL = ("parquet", "text", "export", "docs")  # extras that users install
OTHER_PROGRAMS = ("source", "tensorboard", "torchrun", "git", "sbatch")


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


FILE = re.compile(
    r"(?<![\w/.])(?P<file>(?:mldec|tests|scripts|configs|docs)/[\w./-]+\.(?:py|yaml|md|json))"
    r"(?:::(?P<test>\w+))?(?: -k (?P<selected>\"[^\"]+\"|\w+))?"
)
MODULE = re.compile(r"(?<![\w/.])mldec(?:\.\w+)+(?!\.)")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_module_and_test_that_a_page_names_exists(name):
    text, missing = (ROOT / name).read_text(encoding="utf-8"), []
    for match in FILE.finditer(text):
        file, test, selected = match.groups()
        if not (ROOT / file).is_file():
            missing.append(match[0])
        elif test or selected:
            tests = re.findall(r"def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"))
            parts = [test] if test else re.split(r" or | and ", selected.strip('"'))
            missing += [match[0] for part in parts if not any(part in found for found in tests)]
    missing += [module for module in set(MODULE.findall(text)) - {"mldec.json"} if not exists(module)]
    assert missing == []


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:count]))
            for attribute in parts[count:]:
                found = getattr(found, attribute, None)
            return found is not None
    return False


def test_every_dependency_states_what_it_is_used_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [
        *project["dependencies"],
        *(name for extra in ("parquet", "text", "export", "docs") for name in extras[extra]),
    ]
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = " ".join(re.findall(r"^\| ([^|]+) \|", page.partition("## Dependencies")[2], flags=re.M))
    assert [name for entry in needed if (name := re.split(r"[^\w-]", entry)[0]) not in table] == []


def code_lines(text: str) -> int:
    """Lines with code: without blank lines, comments and docstrings."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    no_code = {getattr(tokenize, kind) for kind in ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in no_code:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def test_the_sizes_in_the_comparison_with_public_code_are_ours():
    page = (ROOT / "docs" / "compared.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| \[`([\w./]+\.py)`\]\(#[\w-]+\) \| (\d+) \|", page, flags=re.M)
    assert len(shown) == 5
    for file, lines in shown:
        counted = code_lines((ROOT / file).read_text(encoding="utf-8"))
        assert abs(int(lines) - counted) <= counted / 20, (
            f"{file} has {counted} lines of code, docs/compared.md: {lines}"
        )


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
def test_every_command_exists_with_its_options(name, tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # The runs that commands name are settings alone, whose images were never drawn.
    monkeypatch.setattr("mldec.engine.stored_config.confine", lambda config, *_, **__: config)
    stored = compose.to_yaml(compose.compose(["experiment=digits", "schedule.epochs=1"]))
    for block in pages.blocks(ROOT / name):
        if block.title:
            write(block)
        for command in pages.commands(block):
            with_name = f"{name}:{command.line}: {command}"
            for key, _, value in (argument.partition("=") for argument in command.argv):
                if key in ("run", "resume"):
                    Path(value).mkdir(parents=True, exist_ok=True)
                    Path(value, "config.yaml").write_text(stored, encoding="utf-8")
                if key == "labels" and value.startswith("@"):
                    Path(value[1:]).write_text("cat\ndog\n", encoding="utf-8")
            code, printed = parse_only(command, monkeypatch)
            expected = next((line for line in command.output if line.startswith("error: ")), None)
            if expected is None or code == 0:  # what only the data can show, the run shows
                assert code == 0, f"{with_name}\n{printed}"
            else:
                assert expected in printed.splitlines(), f"{with_name}\n{printed}"


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
    return what.needs is None and what.argv[0] not in ("make", "pip", *OTHER_PROGRAMS)


@pytest.mark.parametrize("name", pages_to_run())
def test_what_needs_nothing_runs(name, tmp_path, monkeypatch, registries, trained):
    """Files that the page shows are written, commands run in order, and outputs are what the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = pages.blocks(ROOT / name)
    splits = any(command.argv[1:3] == ("data", "split") for block in blocks for command in pages.commands(block))
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
    argv = [argument.replace("RUN", str(trained)) for argument in mldec_arguments(command)]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main.run(shortened(argv))
    expected = [line for line in command.output if line.startswith(("error: ", "note: ", "warning: "))]
    where = f"{name}:{command.line}: {command}\n{stdout.getvalue()}{stderr.getvalue()}"
    diagnostics = stderr.getvalue().splitlines()
    assert [line for line in expected if line.replace("RUN", str(trained)) not in diagnostics] == [], where
    assert (code != 0) == any(line.startswith("error: ") for line in expected), where


# How a command is parsed ----------------------------------------------------------------------------------------------


def parse_only(command: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and messages of a command that is parsed and checked, and then not carried out."""
    program, *arguments = command.argv
    if program == "make":
        targets = re.findall(r"^([\w%-]+(?: [\w%-]+)*):(?!=)", (ROOT / "Makefile").read_text(), flags=re.M)
        known = [re.escape(target).replace("%", ".+") for line in targets for target in line.split()]
        return int(not any(re.fullmatch(pattern, arguments[0]) for pattern in known)), "no such target"
    if program in ("pip", "bash", "python3", *OTHER_PROGRAMS) or arguments[:1] == ["-c"]:
        return refuse_foreign(program, arguments)
    if program == "python" and arguments[0] != "train.py" and arguments[:2] != ["-m", "mldec"]:
        return int(not (ROOT / arguments[0]).is_file()), f"no {arguments[0]}"
    with monkeypatch.context() as patch:
        leave_undone(patch)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main.run(mldec_arguments(command))
    return code, printed.getvalue()


def mldec_arguments(command: Command) -> list[str]:
    """The arguments of `mldec`, however it was called."""
    program, *arguments = command.argv
    if program == "python":
        return ["train", *arguments[1:]] if arguments[0] == "train.py" else arguments[2:]
    return arguments


def leave_undone(patch: pytest.MonkeyPatch) -> None:
    """Commands that stop where work would begin: options are parsed, experiments are composed and checked."""
    from mldec.commands import (
        benchmark,
        cache,
        data,
        evaluate,
        export,
        import_weights,
        own_dataset,
        predict,
        report,
        sweep,
        table,
        train,
    )
    from mldec.engine import config_checks, experiment_summary, recipes

    facts = recipes.Facts(images=1000, labels=20, single_label=False, native_size=240, cpu=True)
    patch.setattr(recipes, "read_facts", lambda config: facts)
    patch.setattr(train, "_tune", lambda config, count, given: config)

    def checked(config: object, *rest: object, **more: object) -> int:
        config_checks.check_config(config)  # type: ignore[arg-type]
        return 0

    def parsed(declared: type, command: str) -> Callable[[Sequence[str]], int]:
        return lambda argv: int(options.parse(argv, declared, command) is None)

    def own_path(override: str, known: Sequence[str]) -> str | None:
        key, _, value = override.partition("=")
        return value if key == "dataset" and ("." in value or "/" in value) else None

    def recognised(path: str, *rest: object, **more: object) -> own_dataset.OwnDataset:
        Path("own.csv").write_text("path,labels\na.jpg,cat\n", encoding="utf-8")
        return own_dataset.OwnDataset(path, "CSV", ("dataset=table", "dataset.train=own.csv"), ())

    patch.setattr(own_dataset, "_path", own_path)
    patch.setattr(own_dataset, "_recognise", recognised)
    patch.setattr(compose, "show_summary", lambda own, mapping: None)
    patch.setattr(train, "_begin", checked)
    patch.setattr(train, "_check_run_directory", lambda config: None)
    patch.setattr(train, "_train_needed", lambda config, arguments: Path("needed"))
    patch.setattr(sweep, "_run_patiently", lambda argv: (main.run(argv[3:]), False))
    patch.setattr(experiment_summary, "summarize", lambda config, num_labels: [str(checked(config))])

    def dataset_composed(given: Any, arguments: Any) -> int:
        return int(getattr(given, "predictions", None) is None and not data._dataset(given, arguments))

    for name in ("_download", "_verify", "_stats", "_shrink", "_export", "_browse"):
        patch.setattr(data, name, dataset_composed)
    patch.setattr(data, "_split", lambda given, arguments: 0)
    patch.setattr(cache, "_build", lambda given, arguments: int(not options.compose_config(arguments)))
    for name in ("_list", "_clear"):
        patch.setattr(cache, name, lambda given, arguments: 0)
    for name in ("_reproduce", "_launch"):
        patch.setattr(table, name, lambda *rest, **more: 0)
    for name, module in (("evaluate", evaluate), ("export", export), ("import", import_weights)):
        patch.setattr(module, "main", parsed(module.OPTIONS, name))
    for name, module in (("predict", predict), ("report", report)):
        patch.setattr(module, "main", parsed(module.OPTIONS, name))

    def subject(argv: Sequence[str]) -> int:
        options.parse(argv[1:], benchmark.SUBCOMMANDS[argv[0]], f"benchmark {argv[0]}")
        return 0

    patch.setattr(benchmark, "main", subject)


def refuse_foreign(program: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Of other programs: the extras of `pip install` must exist, and the script of `bash`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installed = [e for argument in arguments for part in re.findall(r"\[([\w,]+)\]", argument) for e in part.split(",")]
    if program == "pip" and set(installed) - set(extras):
        return 1, f"no such extra: {installed}"
    if program == "bash" and not (ROOT / arguments[0]).is_file():
        return 1, f"no {arguments[0]}"
    return 0, ""


# How a command is shortened, and what it finds ------------------------------------------------------------------------


def shortened(argv: list[str]) -> list[str]:
    """The same command, but with a few images, two steps and no GPU."""
    command = argv[0]
    if command not in ("train", "show") or any(argument.startswith(("resume=", "run=")) for argument in argv):
        return argv
    more = list(DIGITS) if any(argument.startswith("experiment=digits") for argument in argv) else []
    if command == "train":
        debugs = any(argument.startswith("debug=") for argument in argv)
        more += [argument for argument in SHORT if argument != "debug=fast" or not debugs]
        more += [] if more[:1] == DIGITS[:1] else ["dataset.image_size=64"]
    return [*argv, *more]


def own_images(folder: Path, divided: bool) -> None:
    """What the pages take for granted: `photos/001.jpg` and so on, listed in `all.csv`, or in one table per split."""
    rng, noise = random.Random(0), np.random.default_rng(0)
    (folder / "photos").mkdir()
    rows = ["path,labels"]
    for number in range(1, 25):
        path = f"photos/{number:03}.jpg"
        Image.fromarray(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / path)
        rows.append(f"{path},{';'.join(rng.sample(['cat', 'dog', 'bird'], rng.randrange(3)))}")
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
    argv = ["experiment=digits", *DIGITS, *SHORT, f"dataset.root={folder / 'digits'}", f"run_dir={folder / 'run'}"]
    assert main.run(["train", *argv]) == 0
    return folder / "run"
