"""Reading the pages: blocks of code with what follows them, commands, links, anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PROGRAMS = ("mldec", "python", "python3", "pip", "make", "source", "tensorboard", "torchrun", "bash", "git", "sbatch")

FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?$")
MARK = re.compile(r"<!-- (needs|varies): (.+?) -->$")


@dataclass
class Block:
    """Some lines of code.

    Attributes:
        line: of the page, for messages.
        language: of a fenced block; "" of an indented one.
        title: the file that the block is.
        needs: what its commands need and a test has not: written before the block as `<!-- needs: … -->`.
        varies: why its output is an example: `<!-- varies: … -->`.
        output: the lines of the indented block that follows a fenced one.
    """

    line: int
    language: str
    title: str | None = None
    needs: str | None = None
    varies: str | None = None
    lines: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True)
class Command:
    """A command as a list of arguments, program first, and the lines that it prints, where the page shows them."""

    line: int
    argv: tuple[str, ...]
    needs: str | None
    output: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.argv)


def blocks(page: Path) -> list[Block]:
    """All blocks of code of a page, in order. What is commented out is no part of it."""
    found: list[Block] = []
    marks: dict[str, str] = {}
    lines = _visible(page.read_text(encoding="utf-8")).split("\n")
    number, follows = 0, False  # follows: nothing but blank lines since the last fenced block
    while number < len(lines):
        line = lines[number]
        number += 1
        fence, mark = FENCE.match(line), MARK.match(line)
        if mark:
            marks[mark[1]] = mark[2]
        elif fence:
            block = Block(number, fence["language"], fence["title"], **marks)
            while lines[number].strip() != "```":
                block.lines.append(lines[number][len(fence["indent"]) :])
                number += 1
            number += 1
            found.append(block)
            marks, follows = {}, True
        elif line.startswith("    ") and not lines[number - 2].strip():
            first = number
            indent = len(line) - len(line.lstrip())
            text = [line[indent:]]
            while number < len(lines) and (lines[number].startswith(" " * 4) or not lines[number].strip()):
                text.append(lines[number][indent:])
                number += 1
            text = "\n".join(text).rstrip("\n").split("\n")
            if follows and not _is_command(text[0]) and "needs" not in marks:
                found[-1].output = text
            else:
                found.append(Block(first, "", lines=text, **marks))
            marks, follows = {}, False
        elif line.strip():
            follows = False
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block: the lines after `$ `; without any, paragraphs that begin with a program."""
    if block.title or block.language not in ("", "sh", "bash"):
        return
    lines = list(_joined(block.lines))
    prompted = any(line.startswith("$ ") for line in lines)
    in_commands = bool(block.language)
    for place, line in enumerate(lines):
        if not block.language and (place == 0 or not lines[place - 1].strip()):
            in_commands = _is_command(line)
        argv = _split(line)
        if not argv or (not line.startswith("$ ") if prompted else not in_commands):
            continue
        output = []
        for after in lines[place + 1 :] if prompted else []:
            if after.startswith("$ "):
                break
            output.append(after)
        comment = re.search(r"\bneeds: (.+)$", line)
        yield Command(block.line, argv, comment[1] if comment else block.needs, tuple(output))


def links(page: Path) -> Iterator[tuple[str, str]]:
    """File and anchor of every relative link and image of a page, as they are written."""
    text = re.sub(r"^ *```.*?^ *```$", "", _visible(page.read_text(encoding="utf-8")), flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", lambda code: "`" * len(code[0]), text)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page: of its headings, as GitHub and the site make them, and those that it names itself."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    headings = re.findall(r"^#+ (.+?)\s*$", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), flags=re.M)
    return named | {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


def _visible(text: str) -> str:
    """A page without what is commented out over several lines; line numbers stay."""
    return re.sub(r"<!--(?![^\n]*-->).*?-->", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.S)


def _is_command(line: str) -> bool:
    return line.startswith("$ ") or line.split(" ")[0] in PROGRAMS


def _split(line: str) -> tuple[str, ...]:
    """A command without its prompt, comment, and what the shell does with its output."""
    try:
        arguments = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:  # an apostrophe in what is printed
        return ()
    ends = [place for place, argument in enumerate(arguments) if argument in (">", "|", "&&")]
    return tuple(arguments[: min(ends, default=len(arguments))])


def _joined(lines: list[str]) -> Iterator[str]:
    """Lines, those that end in a backslash with what follows them."""
    whole = ""
    for line in lines:
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        yield whole
        whole = ""
