"""One term per meaning: the terms that the glossary of CONTRIBUTING.md retired are in no name, message or page.

A rule is a regular expression and what to write instead. Text is compared without indentation and `#`, and a space in a
rule also matches a line break. A rule may be limited to some files. Correct English that a rule cannot tell apart is
listed in `ALLOWED`, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.docs.pages import ROOT

SUFFIXES = {".py", ".yaml", ".yml", ".md", ".html", ".js", ".css"}
SKIPPED = ("docs/records/", "docs/benchmarks/")


class Rule(NamedTuple):
    """A retired term.

    Attributes:
        pattern: regular expression, case ignored.
        instead: what to write.
        files: beginnings of the paths to which it applies; all by default.
    """

    pattern: str
    instead: str
    files: tuple[str, ...] = ("",)


UNITS = "second|minute|hour|image|label|class|query|step|epoch|group|split|row|run|core|batch|seed|device"
END = r"(?=\s*(?:[,.;:)|`\"]|$|and\b|or\b|in\b|at\b|on\b|with\b|for\b|of\b))"
NOT_A_NOUN = "".join(
    f"(?<!{before} )"
    for before in ["the", "of", "its", "this", "a", "any", "each", "file", "same", "which", "what", "media"]
)

RULES = (
    Rule(r"picture", "image"),
    # Label embeddings, options
    Rule(r"\bwords?=", "label_embeddings=, or option, override"),
    Rule(
        r"head\.words?\b|\.words\.(?:source|names|aliases|templates)|\bwords\.py\b", "head.label_embeddings, options.py"
    ),
    Rule(r"\bword queries\b|\bword groups?\b", "label-embedding queries"),
    Rule(r"(?<!word )\b(?:in|the same|further|own|such a|no such|as) words?\b", "overrides, options; as a message"),
    Rule(r"\bwords?\b(?! vectors?\b)", "option, override", ("mldec/commands/", "mldec/benchmarks/", "mldec/paper/")),
    Rule(
        r"\bask(?:s|ed|ing)? for\b|\basked\b|\bask_for|_asked\b|\basked_", "query labels; request, require, need, set"
    ),
    Rule(NOT_A_NOUN + r"(?<!\.)\btype (?:an?|the|it|in|this|them|make|mldec|`|[a-z_.]+=)", "use, pass, set, run"),
    Rule(
        r"\b(?:is|are|was|were|be|been|as|not|when|if|unless|until|once|words?) typed\b"
        r"|\btyped (?:here|again|in|on|by|it)\b",
        "given, set, passed",
    ),
    Rule(r"\bwhich=(?:best|last|\")|[\"']which[\"'],", "epoch=best|last"),
    Rule(r"(?<!tune_)\bthresholds=true\b", "tune_thresholds=true"),
    Rule(r"(?<![\w-])--fix\b", "fix=true", ("mldec/", "configs/", "docs/", "README.md")),
    Rule(r"\bweights=reported\b|\bweights=\"reported\"", "weights=best"),
    Rule(r"(?<![\w.])runs=(?:\w+,|RUN|\[)", "run=A,B", ("docs/", "README.md", "mldec/commands/")),
    Rule(r"\brun[\s_]folders?\b", "run directory"),
    # Processes
    Rule(r"\bteam(?:s|mates?)?\b|\bteam_|_team\b", "process group"),
    Rule(
        r"\bleader\b|\.leads\b|\bis_leader\b|\bgroup\.(?:tell|total|align)\b",
        "is_main, broadcast, all_reduce, sync_buffers",
    ),
    # Training
    Rule(r"\blive (?:weights|metrics?|mAP)\b|\bweights=live\b|[\"']live[\"']", "raw"),
    Rule(r"(?<![\w-])chances?\b(?![\s_](?:levels?|%))(?! \|)", "rng, seed, randomness; chance level"),
    Rule(r"\b(?:go|goes|going|went|gone) on\b(?! (?:the|a|an|to|top)\b)", "continue, resume"),
    Rule(r"\b(?:takes?|took|taken|taking) up\b(?! (?:space|memory))|\btake_up\b", "resume, load_state"),
    # Places
    Rule(r"\bdoors?\b|\bdoor_|_door\b", "command, entry point"),
    Rule(r"\bfloors\b|\b(?:a|the|that|this|which|each|its) floor\b|\bfloor [1-5]\b", "layer"),
    Rule(
        r"\bhouse rules?\b|\bin the house\b|\brooms\b|\b(?:an?|the|each|its|this|that) room\b",
        "code style; module, package",
    ),
    # Modules and their ideas
    Rule(r"\blettering\b", "text_rendering"),
    Rule(r"\bsuspicious\b", "data_checks"),
    Rule(r"\bportable\.py\b|import portable\b|engine\.portable\b", "exported_model"),
    Rule(r"\bmeters?\b", "throughput"),
    # Plain sentences
    Rule(r"\bsaid\b|\bsa(?:ys|y) of\b|\bwhat (?:\w+ ){1,2}says\b", "reports, prints, predicts"),
    Rule(r"\bspeaks? of\b|\bspoken of\b", "documents, mentions"),
    Rule(r"\bflatter(?:s|ed|ing)?\b", "is optimistically biased"),
    Rule(r"\b(?:could not|cannot|can|is not|to|may) be had\b", "is (not) available, failed"),
    Rule(r"\bthe right way\b", "good practice, correctly"),
    Rule(
        r"\bas many as there are\b|\bwhich are none\b|\bof (?:images|labels) there (?:is|are)\b",
        "subject, verb, object",
    ),
    Rule(r"\b(?:makes?|made|making) of (?:it|them|that|this|these|those)\b", "predicts, does with"),
    Rule(r"\ba images?\b|\ban images\b", "an image, images"),
    Rule(
        rf"\b(?:images|steps|samples|batches|times|once|bytes|[kMG]B|ms|seconds|minutes) an? (?:{UNITS})\b" + END, "per"
    ),
    Rule(r"\bone an? (?:line|image|label|class|query|group|row|second|device|GPU|core|table|seed)\b", "one per"),
    Rule(
        r"\ban? (?!time\b)\w+ an? (?:line|row|split|seed|device|epoch|class|query|second|core)\b" + END, "one … per …"
    ),
)

#: Path, what the found text is followed or surrounded by on its line, and why it is right.
ALLOWED = (
    ("mldec/data/table", r"\"picture\"", "a column of a user's table may be called so"),
    ("mldec/data/own/", r"picture", "a column of a user's table may be called so"),
    ("mldec/metrics/zero_shot", r"\"chance\":", "the name of a figure, the chance level"),
    ("docs/", r"pictures?/", "a directory of somebody else's repository"),
    ("mldec/engine/evaluator.py", r"chance", "the chance level of a metric, by its name in the record"),
    ("CONTRIBUTING.md", r"", "the glossary names what it retires"),
)


def texts() -> Iterator[tuple[str, str]]:
    """Path from the root, and content, of every file whose language is checked."""
    files = [
        ROOT / "README.md",
        *(path for top in ("mldec", "configs", "docs", "scripts") for path in (ROOT / top).rglob("*")),
    ]
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SUFFIXES and not name.startswith(SKIPPED):
            yield name, path.read_text(encoding="utf-8")


def find(rule: Rule, name: str, text: str) -> Iterator[str]:
    """`file:line: "found": write instead`, for each place of a text that breaks a rule."""
    if not name.startswith(rule.files):
        return
    lines = [" ".join(line.strip().lstrip("#").split()) for line in text.split("\n")]
    flat = "\n".join(lines)
    for match in re.finditer(rule.pattern.replace(" ", r"[ \n]"), flat, flags=re.I | re.M):
        number = flat.count("\n", 0, match.start())
        if not any(name.startswith(path) and re.search(context, lines[number]) for path, context, _ in ALLOWED):
            yield f'{name}:{number + 1}: "{" ".join(match[0].split())}": write {rule.instead}'


def test_no_retired_term_is_used():
    found = [place for name, text in texts() for rule in RULES for place in find(rule, name, text)]
    assert not found, f"{len(found)} retired terms (glossary: CONTRIBUTING.md)\n" + "\n".join(sorted(found))


@pytest.mark.parametrize(
    "sentence",
    [
        "A picture of a cat",
        "mldec import words=vectors.vec",
        "the labels that were asked\n    # for",
        "no such word of predict; it knows run, input",
        "what is wrong with it, and what to do: type the path",
        "settings that were typed",
        "1,200 images a second, and more",
        "a list of paths, one a line",
        "a folder a class.",
        "once a seed",
        "the run folder",
        "the team of processes",
        "the run goes on, with the next image",
        "all chance comes from here",
        "what the network says",
        "the door takes it",
        "protocol=standard does it the right way",
    ],
)
def test_retired_terms_are_found(sentence):
    assert any(list(find(rule, "mldec/commands/file.py", sentence)) for rule in RULES)


@pytest.mark.parametrize(
    "sentence",
    [
        "far above the chance level; zsl_chance is its key",
        "an image has a label",
        "the labels an image has",
        "the type a function returns, of type int",
        "the dtype in which it is stored",
        "word2vec and fastText files; word vectors",
        "math.floor(x), x.floor()",
        "this leads to an error",
        "the image goes on the device",
        "a warning says that it has no effect",
        "indoor and outdoor scenes",
        "py.typed",
        "no room on the disk",
        'if member.type in (b"1", b"2")',
        "mldec evaluate run=RUN split=val tune_thresholds=true",
        "the network lives on the device",
    ],
)
def test_plain_english_is_left_alone(sentence):
    assert [place for rule in RULES for place in find(rule, "mldec/commands/file.py", sentence)] == []
