"""`mldec predict`: what a trained network says of pictures."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mldec.commands import compose
from mldec.config import build_config, to_mapping
from mldec.errors import ConfigError, DataError

HELP = """usage: mldec predict run=RUN input=PICTURE|FOLDER|GLOB [labels="zebra crossing,espresso"] [key=value …]

  run=RUN                      a run folder (its best epoch) or a checkpoint
  input=…                      a picture, a folder with its subfolders, or a pattern in quotes such as "photos/*.jpg"
  labels="a,b c"               what to ask a zero-shot network for, trained or not; a file of labels, one a line: @FILE
                               default: the labels that it was trained on
  words=SOURCE                 where vectors of new labels come from; default: where those of the run came from
  head.words.aliases=FILE …    any other setting of the words, as in training
  threshold=0.5                labels with a score above it are listed
  top_k=N                      list the N best labels instead
  output=DIR                   write predictions.jsonl there: path and labels with scores, a picture a line
  maps=true|label|attention    and a picture with a map of each listed label: what each place contributes to it
                               (true, label), or where the attention of its query goes
  weights=ema|live|reported    default ema
  device=auto|cpu|cuda:N"""

OWN = ("run", "input", "labels", "words", "threshold", "top_k", "output", "maps", "weights", "device")
WORDS = "head.words."  # settings of where vectors come from, as in training
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif"}


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code: 1 if some pictures could not be read."""
    arguments = compose.parse(argv, own=OWN)
    if arguments.help:
        print(HELP)
        return 0
    own = arguments.own
    for word in arguments.overrides:
        if not word.startswith(WORDS):
            raise ConfigError(f"{word}: no such word of predict; it knows {', '.join(OWN)}, {WORDS}…")
    for needed in ("run", "input"):
        if needed not in own:
            raise ConfigError(f"{needed}=… is missing; mldec predict --help shows what is needed")
    threshold, top_k = _share("threshold", own.get("threshold", "0.5")), _count("top_k", own.get("top_k"))
    weights = own.get("weights", "ema")
    if weights not in ("ema", "live", "reported"):
        raise ConfigError(f"weights={weights}: expected one of ema, live, reported")
    maps = _maps(own.get("maps", "false"))
    if maps and "output" not in own:
        raise ConfigError(f"maps={own['maps']} needs a place for them: output=DIR")
    paths = find_pictures(own["input"])
    compose.load_components(arguments.plugins)

    from mldec.engine.display import Display
    from mldec.engine.predictor import load

    predictor = load(own["run"], weights, own.get("device", "auto"))  # type: ignore[arg-type]
    display = Display()
    names = read_labels(own["labels"]) if "labels" in own else None
    for sentence in _choose_words(predictor, names, own, arguments.overrides):
        display.say(f"warning: {sentence}")
    if names is not None:
        predictor.set_labels(names)
    if maps:
        predictor.check_maps(maps)  # before all pictures are scored
    display.say(f"{predictor.path}: {len(paths):,} pictures, {len(predictor.labels)} labels")
    found, broken = _predict(predictor, paths, threshold, top_k, display)
    for path, labels in found.items():
        listed = ", ".join(f"{name} {100 * score:.0f}%" for name, score in labels.items())
        display.say(f"{path}: {listed or 'nothing found'}")
    if "output" in own:
        _write(Path(own["output"]).expanduser(), predictor, found, maps, display)
    for message in broken:
        display.say(f"error: {message}")
    return 1 if broken else 0


def _choose_words(
    predictor: Any, names: Sequence[str] | None, own: dict[str, str], overrides: Sequence[str]
) -> list[str]:
    """Let new labels be looked up where `words=` and `head.words.…=` say; what has no effect, a sentence each.

    Raises ConfigError for settings that are none.
    """
    typed = [f"words={own['words']}"] if "words" in own else []
    typed += overrides
    if typed and predictor.words_config is None:
        return [f"{word}: this network does not know labels as words" for word in typed]
    if typed and names is None:
        return [f"{word}: without labels=… none are looked up" for word in typed]
    if "words" in own:
        predictor.take_words_from(own["words"])
    if overrides:
        stored = to_mapping(predictor.config)
        stored["head"]["words"] = to_mapping(predictor.words_config)
        predictor.words_config = build_config(compose.change(stored, overrides)).head.words
    if typed and predictor.model.words is not None and not set(names or ()) - set(predictor.model.words.known.names):
        return [f"{word}: the run has vectors of all these labels, none are looked up" for word in typed]
    return predictor.words_config.unused() if typed else []


def find_pictures(source: str) -> list[str]:
    """Paths of pictures that `input` names. Raises DataError if there is none."""
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        paths = sorted(name for name in inside if os.path.splitext(name)[1].lower() in ENDINGS)
        if not paths:
            raise DataError(f"input={source}: no pictures there ({', '.join(sorted(ENDINGS))})")
        return paths
    if os.path.isfile(path):
        return [path]
    paths = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not paths:
        raise DataError(f"input={source}: no such picture or folder, and no file of that pattern")
    return paths


def read_labels(text: str) -> list[str]:
    """The names in `a,b c`, or the lines of `@FILE`. Raises DataError for an empty or repeated one."""
    from mldec.labels import LabelSpace

    if text.startswith("@"):
        try:
            lines = Path(text[1:]).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"labels={text}: cannot be read: {error}") from None
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = [name.strip() for name in text.strip("[]").split(",")]
    try:
        return list(LabelSpace(names).names)
    except DataError as error:
        wanted = ",".join(dict.fromkeys(name for name in names if name)) or "red seven,blue one"
        advice = "list each label once, one a line" if text.startswith("@") else f'type labels="{wanted}"'
        raise DataError(f"labels={text}: {error}; {advice}") from None


def _predict(
    predictor: Any, paths: Sequence[str], threshold: float, top_k: int | None, display: Any
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Labels by path, and what is wrong with the pictures that could not be read."""
    from mldec.engine.predictor import BATCH

    found: dict[str, dict[str, float]] = {}
    broken: list[str] = []
    with display.bar("predicting", len(paths)) as bar:
        for first in range(0, len(paths), BATCH):
            batch = list(paths[first : first + BATCH])
            try:
                rows = predictor.scores(batch)
            except DataError:  # one of them: each by itself, so that the others go on
                rows, kept = [], []
                for path in batch:
                    try:
                        rows.append(predictor.scores([path])[0])
                        kept.append(path)
                    except DataError as error:
                        broken.append(str(error))
                batch = kept
            found |= {p: predictor.name(row, threshold, top_k) for p, row in zip(batch, rows, strict=True)}
            bar.advance(min(BATCH, len(paths) - first))
    return found, broken


def _write(
    folder: Path, predictor: Any, found: dict[str, dict[str, float]], weighting: str | None, display: Any
) -> None:
    from mldec.data.image import decode
    from mldec.engine import pictures, tracking

    lines = [json.dumps({"path": path, "labels": labels}, ensure_ascii=False) for path, labels in found.items()]
    folder.mkdir(parents=True, exist_ok=True)
    tracking.write_text(folder / "predictions.jsonl", "".join(f"{line}\n" for line in lines))
    display.say(f"written to {folder / 'predictions.jsonl'}")
    if weighting is None:
        return
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in found]) if found else ""
    for path, labels in found.items():
        columns = [predictor.labels.index(name) for name in labels]
        maps = predictor.maps([path], weighting)[0][columns]
        captions = [[(f"{name} {100 * score:.0f}%", pictures.WHITE)] for name, score in labels.items()]
        target = folder / "maps" / f"{os.path.relpath(os.path.abspath(path), common)}.png"
        picture = decode(path)
        view = predictor.view(*picture.shape[:2])
        pictures.save_picture(target, pictures.maps_sheet(picture, maps, captions, view))
    display.say(f"maps in {folder / 'maps'}")


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={text}: expected a number from 0 to 1")
    return value


def _count(name: str, text: str | None) -> int | None:
    if text is None or text == "null":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name}={text}: expected a whole number of at least 1")
    return int(text)


def _maps(text: str) -> Literal["label", "attention"] | None:
    known: dict[str, Literal["label", "attention"] | None] = {
        "true": "label",
        "label": "label",
        "attention": "attention",
        "false": None,
    }
    if text.lower() not in known:
        raise ConfigError(f"maps={text}: expected one of {', '.join(known)}")
    return known[text.lower()]
