"""`mldec predict`: what a trained network says of images."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mldec.commands import compose
from mldec.commands.options import MOST_WORKERS, count, one_of, share, switch
from mldec.commands.predict_files import MARKER, Place, check_place, find_inputs, find_place
from mldec.config import build_config, to_mapping
from mldec.errors import ConfigError, DataError, printable_name, shortened

HELP = """usage: mldec predict run=RUN input=IMAGE|FOLDER|PATTERN|@LIST|- [output=…] [key=value …]
       mldec predict run=RUN input=photos labels="zebra crossing,espresso"    # a zero-shot run

  run=RUN                      a run folder (its best epoch), a checkpoint, or what mldec export wrote
  input=…                      an image, a folder with its subfolders, or a pattern in quotes such as "photos/*.jpg";
                               @FILE: a list of paths, one a line; -: such a list on standard input. Paths of a list
                               are relative to the folder you stand in. Several: input=a.jpg input=photos
  labels="a,b c"               what to ask a zero-shot network for, trained or not; a file of labels, one a line: @FILE
                               default: the labels that it was trained on
  label_embeddings=SOURCE                 where vectors of new labels come from; default: where those of the run came from
  head.label_embeddings.aliases=FILE …    any other setting of the words, as in training
  threshold=0.5                labels with a score above it are listed
  thresholds=tuned|FILE.csv    above a threshold of its own for each label: as tuned on val, or as in a file with the
                               columns label,threshold; a label that is not there has threshold=…
  top_k=N                      list the N best labels instead
  output=FILE.jsonl|.csv|.parquet   write that file; any other output=DIR: into that folder
  format=jsonl,csv,parquet     which files DIR gets: predictions.jsonl (default), predictions.csv, predictions.parquet
  scores=listed|all            scores of the listed labels (default), or of all: in tables a column for each label
  annotated=true                into DIR: each image with its labels and scores beside it
  maps=true|label|attention    into DIR: an image with a map of each listed label: what each place contributes to it
                               (true, label), or where the attention of its query goes
  font=FILE.ttf                for labels on images in scripts that DejaVu Sans lacks, such as Chinese
  resume=false                 do not go on with an interrupted prediction that the output holds
  weights=best|ema|raw         those whose metric training reported (best, the default), EMA, or raw
  batch_size=32 workers=N      images that are scored at a time, and threads that read them
  device=auto|cpu|cuda:N"""

OWN = (
    *("run", "input", "labels", "label_embeddings", "threshold", "thresholds", "top_k", "output", "format", "scores"),
    *("annotated", "maps", "font", "resume", "weights", "batch_size", "workers", "device"),
)
WORDS = "head.label_embeddings."  # settings of where vectors come from, as in training
SHOWN = 10  # images whose labels are printed where there is a file of all
SHOWN_BROKEN = 20
SECONDS = 15.0  # between two lines of progress where no bar can be drawn


class Choice(NamedTuple):
    """Which labels of an image are listed, and what is made of them."""

    threshold: Any  # a number, or one a label
    top_k: int | None
    all_scores: bool
    annotated: bool
    maps: Literal["label", "attention"] | None
    batch_size: int
    workers: int | None


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code: 1 if some images could not be read."""
    arguments = compose.parse(argv, own=OWN, repeatable=("input",), config_dir=False)
    if arguments.help:
        print(HELP)
        return 0
    own = arguments.own
    for word in arguments.overrides:
        if not word.startswith(WORDS):
            raise ConfigError(f"{shortened(word)}: no such word of predict; it knows {', '.join(OWN)}, {WORDS}…")
    for needed in ("run", "input"):
        if needed not in own:
            raise ConfigError(f"{needed}=… is missing; mldec predict --help shows what is needed")
    choice = _choose(own)
    weights = own.get("weights", "best")
    one_of({"weights": weights}, "weights", ("best", "ema", "raw"), "")
    resume = switch(own, "resume") if "resume" in own else None
    place = find_place(own.get("output"), own.get("format"))
    for name, wanted in (("maps", choice.maps), ("annotated", choice.annotated)):
        if wanted and (place is None or place.folder is None):
            raise ConfigError(f"{name}={own[name]} needs a place for them: output=DIR")
    sources = [word.partition("=")[2] for word in argv if word.startswith("input=")]
    notes: list[str] = []
    paths = find_inputs(sources, notes)
    if place is not None:
        drawings = [name for name, wanted in (("annotated", choice.annotated), ("maps", choice.maps)) if wanted]
        check_place(place, paths, _files_read(own, sources), drawings=drawings)
    compose.load_components(arguments.plugins)

    from mldec.engine import text_rendering
    from mldec.engine.display import Display
    from mldec.engine.predictor import load

    if "font" in own:
        text_rendering.use_font(own["font"])
    predictor = load(own["run"], weights, own.get("device", "auto"))  # type: ignore[arg-type]
    display = Display()
    names = read_labels(own["labels"]) if "labels" in own else None
    warnings = _choose_label_embeddings(predictor, names, own, arguments.overrides)
    if names is not None:
        predictor.set_labels(names)
    choice, more = _choose_thresholds(predictor, choice, own)
    if choice.annotated and (lost := text_rendering.unreadable(predictor.labels.names)):
        more.append(
            f"annotated=true: the font lacks characters of {len(lost)} labels (first: {lost[0]}); font=FILE.ttf"
        )
    for sentence in warnings + more + _unused(own, place, choice):
        display.say(f"warning: {sentence}")
    for sentence in notes:
        display.say(f"note: {sentence}")
    if choice.maps:
        predictor.check_maps(choice.maps)  # before an image is scored
    display.say(f"{predictor.path}: {len(paths):,} images, {len(predictor.labels)} labels")
    if place is None:
        broken = _show(predictor, paths, choice, display)
    else:
        settings = _settings(predictor, choice, own, arguments.overrides)
        broken = _write(predictor, paths, choice, place, resume, settings, display)
    return 1 if broken else 0


def _choose(own: dict[str, str]) -> Choice:
    """What the words say, before anything is read."""
    scores = one_of(own, "scores", ("listed", "all"), "listed")
    return Choice(
        threshold=share(own, "threshold", 0.5),
        top_k=count(own, "top_k"),
        all_scores=scores == "all",
        annotated=switch(own, "annotated"),
        maps=_maps(own.get("maps", "false")),
        batch_size=count(own, "batch_size") or 32,
        workers=count(own, "workers", least=0, most=MOST_WORKERS),
    )


def _choose_thresholds(predictor: Any, choice: Choice, own: dict[str, str]) -> tuple[Choice, list[str]]:
    """The choice with the thresholds that `thresholds=` names, and what is to be said of them."""
    from mldec.engine.thresholds import read_thresholds

    source = own.get("thresholds")
    if source is None or choice.top_k is not None:
        return choice, []
    if source == "tuned":
        predictor.tuned()  # or there are none
        found = predictor.thresholds.of(predictor.labels, choice.threshold)
    else:
        found = read_thresholds(Path(source).expanduser(), predictor.labels, choice.threshold)
    warnings = []
    if found.untuned:
        names = ", ".join(found.untuned[:5]) + (", …" if len(found.untuned) > 5 else "")
        warnings.append(
            f"thresholds={source}: {len(found.untuned)} of {len(predictor.labels)} labels are not there and have "
            f"threshold={choice.threshold:g}: {names}"
        )
    elif "threshold" in own:
        warnings.append(f"threshold={own['threshold']}: thresholds={source} has one for each label")
    return choice._replace(threshold=found.values), warnings


def _unused(own: dict[str, str], place: Place | None, choice: Choice) -> list[str]:
    """Words that have no effect on this command, a sentence each."""
    found = []
    if choice.top_k is not None:
        typed = [word for word in ("threshold", "thresholds") if word in own]
        found += [
            f"{word}={own[word]}: top_k={choice.top_k} lists the best labels, whatever their score" for word in typed
        ]
    if place is None:
        found += [
            f"{word}={own[word]}: without output=… nothing is written" for word in ("scores", "resume") if word in own
        ]
    if "font" in own and not (choice.annotated or choice.maps):
        found.append(f"font={own['font']}: there are no images to write on: annotated=true")
    return found


def _choose_label_embeddings(
    predictor: Any, names: Sequence[str] | None, own: dict[str, str], overrides: Sequence[str]
) -> list[str]:
    """Let new labels be looked up where `words=` and `head.label_embeddings.…=` say; what has no effect, a sentence each.

    Raises ConfigError for settings that are none.
    """
    typed = [f"words={own['label_embeddings']}"] if "label_embeddings" in own else []
    typed += overrides
    if typed and predictor.label_embeddings_config is None:
        return [f"{word}: this network does not know labels as words" for word in typed]
    if typed and names is None:
        return [f"{word}: without labels=… none are looked up" for word in typed]
    if "label_embeddings" in own:
        predictor.take_label_embeddings_from(own["label_embeddings"])
    if overrides:
        stored = to_mapping(predictor.config)
        stored["head"]["label_embeddings"] = to_mapping(predictor.label_embeddings_config)
        predictor.label_embeddings_config = build_config(compose.change(stored, overrides)).head.words
    if (
        typed
        and predictor.model.vocabulary is not None
        and not set(names or ()) - set(predictor.model.vocabulary.known.names)
    ):
        return [f"{word}: the run has vectors of all these labels, none are looked up" for word in typed]
    return predictor.label_embeddings_config.unused() if typed else []


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


def _show(predictor: Any, paths: Sequence[str], choice: Choice, display: Any) -> int:
    """Print what is found, as it comes. Returns how many images could not be read."""
    errors = []
    with display.bar("predicting", len(paths)) as bar:
        for answers in predictor.stream(paths, batch_size=choice.batch_size, workers=choice.workers):
            for path, scores, error in answers:
                if scores is None:
                    errors.append(error)
                else:
                    _say(path, predictor.name(scores, choice.threshold, choice.top_k), display)
            bar.advance(len(answers))
    for error in errors:
        display.say(f"error: {printable_name(error)}")
    return len(errors)


def _write(
    predictor: Any,
    paths: Sequence[str],
    choice: Choice,
    place: Place,
    resume: bool | None,
    settings: dict[str, Any],
    display: Any,
) -> int:
    """Write what is found. Returns how many images could not be read or drawn."""
    from mldec.engine import predictions

    journal_path = place.journal
    journal = predictions.Journal(journal_path, settings, paths, resume)
    if journal.done or journal.changed:
        display.say(f"going on after {journal.done:,} images of a prediction that was interrupted")
    if journal.changed:
        display.say(f"{journal.changed:,} images changed since they were scored and are scored again")
    finished, undrawn = False, []
    try:
        undrawn = _fill(journal, predictor, paths, choice, place, display)
        finished = True
    except BaseException:
        if journal.done:
            display.say(
                f"{journal.done:,} of {len(paths):,} images are kept in {journal_path}; "
                "the same command goes on from there"
            )
        raise
    finally:
        if not finished:
            journal.close(finished=journal.done == 0)
    labels = predictor.labels
    for form, path in place.files.items():
        predictions.write(path, form, journal.records(), labels, all_scores=choice.all_scores)
        display.say(f"written to {path}")
    broken_path = place.broken
    predictions.write_broken(broken_path, journal.records())
    for name, wanted in (("annotated", choice.annotated), ("maps", choice.maps)):
        if wanted and place.folder is not None:
            display.say(f"{name} in {place.folder / name}")
    if journal.broken:
        display.say(f"{journal.broken:,} of {len(paths):,} images could not be read: {broken_path}")
        errors = (record["error"] for record in journal.records() if "error" in record)
        for _, error in zip(range(SHOWN_BROKEN), errors, strict=False):
            display.say(f"error: {printable_name(error)}")
    if undrawn:
        display.say(f"{len(undrawn):,} of {len(paths):,} images could not be drawn; their scores are there")
        for error in undrawn[:SHOWN_BROKEN]:
            display.say(f"error: {printable_name(error)}")
    journal.close(finished=True)
    return journal.broken + len(undrawn)


def _fill(journal: Any, predictor: Any, paths: Sequence[str], choice: Choice, place: Place, display: Any) -> list[str]:
    """Predict what the journal does not hold yet, and draw it. Returns why images could not be drawn."""
    from mldec.engine import predictions

    done, began = journal.done, time.monotonic()
    said, shown = began, 0
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    stamps: deque[Any] = deque()
    undrawn: list[str] = []

    def stamped() -> Iterator[str]:
        for number in list(journal.remaining):
            stamps.append(predictions.stamp(paths[number]))  # before it is read: what is replaced later differs
            yield paths[number]

    stream = predictor.stream(stamped(), batch_size=choice.batch_size, workers=choice.workers)
    with display.bar("predicting", len(paths), done) as bar:
        for answers in stream:
            records = []
            for answer in answers:
                labels = {}
                if answer.scores is not None:
                    labels = predictor.name(answer.scores, choice.threshold, choice.top_k)
                    if reason := _draw(predictor, answer.image, labels, choice, place, common):
                        undrawn.append(reason)
                    shown += 1
                    if shown <= SHOWN:
                        _say(answer.image, labels, display)
                    elif shown == SHOWN + 1:
                        display.say("…")
                records.append(predictions.to_record(answer, labels, keep_scores=choice.all_scores))
            journal.add(records, [stamps.popleft() for _ in records])
            rate = (journal.done - done) / max(time.monotonic() - began, 1e-9)
            bar.advance(len(answers), f"{rate:.0f} images/s")
            if time.monotonic() - said >= SECONDS:
                said = time.monotonic()
                display.line(f"{journal.done:,} of {len(paths):,} images, {rate:.0f} a second")
    return undrawn


def _draw(predictor: Any, path: str, labels: dict[str, float], choice: Choice, place: Place, common: str) -> str:
    """The images that are wanted of `path`, in the folder of the output as it lies in the folder `common`.

    Returns why that cannot be done, or nothing: one image does not stop the prediction of all, a full disk does.
    """
    if place.folder is None or not (choice.annotated or choice.maps):
        return ""
    try:
        _draw_wanted(predictor, path, labels, choice, place.folder, common)
    except (DataError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return f"{path}: cannot be drawn: {getattr(error, 'strerror', None) or error}"
    return ""


def _draw_wanted(
    predictor: Any, path: str, labels: dict[str, float], choice: Choice, folder: Path, common: str
) -> None:
    from mldec.data.image import decode
    from mldec.engine import image_sheets

    name, image = os.path.relpath(os.path.abspath(path), common), decode(path)
    for kind, wanted in (("annotated", choice.annotated), ("maps", choice.maps)):
        if wanted and not (folder / kind / MARKER).exists():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / MARKER).touch()
    if choice.annotated:
        target = image_sheets.drawing_path(folder / "annotated", name, ".jpg")
        image_sheets.save_image(target, image_sheets.annotated(image, labels))
    if choice.maps:
        columns = [predictor.labels.index(label) for label in labels]
        maps = predictor.maps([path], choice.maps)[0][columns]
        captions = [[(f"{label} {100 * score:.0f}%", image_sheets.WHITE)] for label, score in labels.items()]
        view = predictor.view(*image.shape[:2])
        sheet = image_sheets.maps_sheet(image, maps, captions, view)
        image_sheets.save_image(image_sheets.drawing_path(folder / "maps", name, ".png"), sheet)


def _settings(predictor: Any, choice: Choice, own: dict[str, str], overrides: Sequence[str]) -> dict[str, Any]:
    """What predictions depend on beside the images: only with the same does an interrupted command go on."""
    import numpy as np

    checkpoint = Path(predictor.path).resolve()
    labels = "\n".join(predictor.labels.names).encode("utf-8", "backslashreplace")
    thresholds = np.asarray(choice.threshold, np.float64).tobytes()
    settings: dict[str, Any] = {"run": str(checkpoint), "changed": checkpoint.stat().st_mtime}
    for word in ("weights", "label_embeddings", "threshold", "thresholds", "top_k", "scores", "annotated", "maps"):
        settings[word] = own.get(word)
    digests = {"labels": labels, "values of the thresholds": thresholds}
    settings |= {name: hashlib.sha256(content).hexdigest()[:12] for name, content in digests.items()}
    return settings | {"other words": list(overrides)}


def _say(path: str, labels: dict[str, float], display: Any) -> None:
    listed = ", ".join(f"{printable_name(name)} {100 * score:.0f}%" for name, score in labels.items())
    display.say(f"{printable_name(path)}: {listed or 'nothing found'}")


def _files_read(own: dict[str, str], sources: Sequence[str]) -> list[str]:
    """The files that are read beside the images."""
    lists = ["/dev/stdin" if source == "-" else source[1:] for source in sources if source[:1] in ("@", "-")]
    named = [
        own[word].removeprefix("@")
        for word in ("run", "labels", "thresholds", "font", "label_embeddings")
        if word in own
    ]
    return [*lists, *named]


def _maps(text: str) -> Literal["label", "attention"] | None:
    known: dict[str, Literal["label", "attention"] | None]
    known = {"true": "label", "label": "label", "attention": "attention", "false": None}
    if text.lower() not in known:
        raise ConfigError(f"maps={shortened(text)}: expected one of {', '.join(known)}")
    return known[text.lower()]
