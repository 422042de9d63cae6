"""Label Studio's exports JSON and JSON-MIN, and the cells of its CSV.

Read as label-studio-sdk writes them (HumanSignal/label-studio-sdk@0015729, src/label_studio_sdk/converter/converter.py:
`annotation_result_from_task`, `convert_to_json_min`; converter/utils.py: `prettify_result`). A task of JSON has `data`
and its `annotations`, each with `result`, a list of regions whose `value` holds `choices`, `rectanglelabels`, … . A
record of JSON-MIN stands for one annotation: the keys of `data`, then `id`, then one key for each control of the
labelling interface, whose value is a text for a single choice, {"choices": […]} for several, or a list of regions; then
annotator, annotation_id and times. `predictions` of a task are labels of a model, each with `result` too.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from mldec.data.dataset import name_some
from mldec.data.own.documents import label_text, path_text, reading, unique
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, image_key, make_listing, splits_of
from mldec.data.own.values import ANSWERS, STATES
from mldec.errors import DataError, counted, setting

PREDICTIONS = "predictions"  # as dataset.label_column, by which these are read instead of annotations
JSON, JSON_MIN = "Label Studio JSON", "Label Studio JSON-MIN"
BOOKKEEPING = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
_FEW = 50  # records that decide whether a file is one
_FREE_TEXT = re.compile("text|comment|note|caption|descri|remark|transcri", re.I)  # in names of controls
_ANSWERS = ANSWERS | (STATES.keys() - {""})  # as values of a control
_LONG, _SOME = 60, 4  # characters of a text, and how many texts are compared, that tell free text from labels


def looks_like_tasks(document: Any) -> bool:
    """Whether a document is Label Studio's JSON: tasks, each with its data and annotations."""
    tasks = [document] if isinstance(document, dict) else document
    return _all_records(tasks) and all(
        isinstance(task.get("data"), dict) and not task.keys().isdisjoint(("annotations", "completions", PREDICTIONS))
        for task in tasks[:_FEW]
    )


def looks_like_records(document: Any) -> bool:
    """Whether a document is JSON-MIN: records with the bookkeeping of an annotation."""
    return _all_records(document) and all(
        "annotation_id" in record or {"annotator", "created_at"} <= record.keys() for record in document[:_FEW]
    )


def read_tasks(source: Source) -> Listing:
    """Label Studio's JSON. Tasks without an annotation, or whose annotations were all skipped, are left out.

    Labels of the control `source.label_column`, if it was set; `predictions` instead of annotations are read if that is
    set, and nothing else. Raises DataError for tasks of which none has an annotation, for a control that is none of
    theirs, and where it cannot be told which of several controls the values belong to.
    """
    with reading(source.path, JSON):
        tasks = [source.document] if isinstance(source.document, dict) else source.document
        key = image_key(source, [task["data"] for task in tasks])
        splits, split = splits_of(source, [task["data"] for task in tasks])
        kind = PREDICTIONS if source.label_column == PREDICTIONS else "annotations"
        wanted = None if kind == PREDICTIONS else source.label_column
        entries, left_out, several, predicted = [], 0, 0, 0
        controls: dict[str, list[str]] = {}  # values of each that is read
        choices: dict[str, list[str]] = {}  # those of them that are choices
        others: set[str] = set()
        for task, part in zip(tasks, splits, strict=True):
            done = _finished(task, kind)
            several += len(done) > 1
            if not done:
                left_out += 1
                predicted += bool(task.get(PREDICTIONS))
                continue
            names: list[str] = []
            for region in (region for one in done for region in one.get("result") or []):
                control, value = str(region.get("from_name")), region.get("value")
                if not is_labelled(value):
                    continue
                if wanted not in (None, control) or control in (source.ignore or ()):
                    others.add(control)
                    continue
                found = labels_of_value(value)
                controls.setdefault(control, []).extend(found)
                if _is_choice(value):
                    choices.setdefault(control, []).extend(found)
                names += found
            entries.append(Entry(path_text(task["data"][key]), unique(names), split=part))
        if not entries and predicted:
            raise DataError(
                f"none of its {counted(left_out, 'task')} has a submitted annotation; labels of a model (predictions, "
                f"which {predicted:,} have) are read with dataset.label_column={PREDICTIONS}"
            )
        if wanted is not None and not controls and others:
            raise DataError(f"dataset.label_column={wanted}: labels are in {name_some(sorted(others), len(others), 9)}")
        if source.ignore != ():
            _refuse_overlap(choices, len(controls))
    decisions = _decisions(key, list(controls), left_out, several, kind)
    if predicted and kind != PREDICTIONS:
        decisions.append(f"{counted(predicted, 'task')} of these with predictions, which are no labels")
    if split is not None:
        decisions.append(f"split by {split}")
    return make_listing(source, JSON, entries, decisions=decisions)


def _finished(task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The annotations of a task without those that were skipped, or its predictions."""
    if kind == PREDICTIONS:
        return [one for one in task.get(PREDICTIONS) or [] if isinstance(one, dict)]
    annotations = task.get("annotations", task.get("completions")) or []
    return [one for one in annotations if not (one.get("was_cancelled") or one.get("skipped"))]


def read_records(source: Source) -> Listing:
    """Label Studio's JSON-MIN. Records without an annotation are left out.

    Raises DataError where it cannot be told which of several controls the values belong to.
    """
    with reading(source.path, JSON_MIN):
        records = source.document
        key = image_key(source, records)
        controls = _controls(source, records, key)
        splits, split = splits_of(source, [{k: record[k] for k in _keys(record)[0]} for record in records])
        done = [pair for pair in zip(records, splits, strict=True) if pair[0].get("annotation_id", 0) is not None]
        entries = [
            Entry(
                path_text(record[key]),
                unique([n for control in controls for n in labels_of_value(record.get(control))]),
                split=part,
            )
            for record, part in done
        ]
        several = len(entries) - len({entry.path for entry in entries})
        if source.ignore != ():
            choices: dict[str, list[str]] = {}
            for control in controls:
                for value in (record.get(control) for record, _ in done):
                    if isinstance(value, str) or _is_choice(value):
                        choices.setdefault(control, []).extend(labels_of_value(value))
            _refuse_overlap(choices, len(controls))
    decisions = _decisions(key, controls, len(records) - len(done), several)
    decisions += [f"split by {split}"] if split is not None else []
    return make_listing(source, JSON_MIN, entries, decisions=decisions)


def _is_choice(value: Any) -> bool:
    """Whether a value is one of the whole image, and no region: several kinds of regions may share their labels."""
    return isinstance(value, dict) and not value.keys().isdisjoint(("choices", "taxonomy"))


def _refuse_overlap(choices: dict[str, list[str]], count: int) -> None:
    """Raise DataError where a value alone does not tell which of `count` controls it was chosen in.

    That is where two controls of `choices`, {control: chosen values}, share a value, or the values of one are answers.
    """
    if count < 2:
        return
    values = {control: sorted(set(found)) for control, found in choices.items() if found}
    in_controls = Counter(value.casefold() for found in values.values() for value in {v.casefold() for v in found})
    doubtful = {
        control: found
        for control, found in values.items()
        if any(in_controls[value.casefold()] > 1 for value in found) or {*map(str.casefold, found)} <= _ANSWERS
    }
    if doubtful:
        listed = ", ".join(f"{name} ({name_some(found, len(found), 4)})" for name, found in sorted(doubtful.items()))
        first = min(doubtful)
        raise DataError(
            f"{count} controls give labels, and the values of {listed} are answers, or are given by several of them: "
            "as labels they would not tell which control they belong to. Use dataset.label_column=NAME to read one "
            f"control, as in {setting('dataset.label_column', first)}, {setting('dataset.ignore', tuple(doubtful))} to "
            "leave these out, or dataset.ignore=[] if every value is a label whichever control gives it"
        )


def _keys(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The keys of a record of JSON-MIN: those of the task's own data, and those behind `id`."""
    keys = list(record)
    place = keys.index("id") if "id" in keys else -1
    return keys[: max(place, 0)], keys[place + 1 :]


def _decisions(key: str, controls: list[str], left_out: int, several: int, kind: str = "annotations") -> list[str]:
    of = " of predictions" if kind == PREDICTIONS else ""
    decisions = [f"images from {key}, labels from {name_some(controls, len(controls), 5) or 'no control'}{of}"]
    one = "prediction" if of else "annotation"
    if left_out:
        decisions.append(f"{counted(left_out, 'task')} without a {'' if of else 'submitted '}{one} left out")
    if several:
        decisions.append(f"{counted(several, 'task')} with more than one {one}: a label counts if any of them has it")
    return decisions


def _controls(source: Source, records: list[dict[str, Any]], key: str) -> list[str]:
    """The keys of a record that hold labels: those after `id`, which the task's own data stand before.

    Raises DataError where there is none, and where one may be free text, which JSON-MIN writes as it does a choice.
    """
    found: dict[str, list[Any]] = {}
    for record in records:
        for name in _keys(record)[1]:
            if name not in BOOKKEEPING and name != key and _may_be_labels(record[name]):
                found.setdefault(name, []).append(record[name])
    if source.label_column is not None:
        if source.label_column not in found:
            raise DataError(
                f"dataset.label_column={source.label_column}: labels are in {name_some(found, len(found), 9)}"
            )
        return [source.label_column]
    chosen = sorted(found.keys() - set(source.ignore or ()))
    if not chosen:
        raise DataError(f"no key with labels among {name_some(records[0], len(records[0]), 12)}")
    doubtful = [name for name in chosen if _may_be_free_text(name, found[name], alone=len(chosen) == 1)]
    if doubtful and source.ignore is None:
        raise DataError(
            f"{name_some(doubtful, len(doubtful))} may be free text or labels; use "
            f"dataset.ignore=[{','.join(doubtful)}] to leave it out, dataset.ignore=[] to take each of "
            f"{name_some(chosen, len(chosen))} for labels, or dataset.label_column=NAME for one"
        )
    return chosen


def _may_be_free_text(name: str, values: list[Any], *, alone: bool) -> bool:
    """Whether the texts of a control are called so, long, or hardly ever the same, as names of labels are not."""
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values):
        return False
    mostly_different = len(texts) >= _SOME and 2 * len(set(texts)) > len(texts) and not alone
    return mostly_different or _FREE_TEXT.search(name) is not None or max(map(len, texts)) > _LONG


def _all_records(document: Any) -> bool:
    return isinstance(document, list) and bool(document) and all(isinstance(item, dict) for item in document)


def _may_be_labels(value: Any) -> bool:
    return isinstance(value, str) or is_labelled(value)


def _label_keys(value: dict[str, Any]) -> list[str]:
    return [key for key in value if key in ("choices", "taxonomy") or key.endswith("labels")]


def is_labelled(value: Any) -> bool:
    """Whether a value is a region or a choice with labels, or a list in which there is one."""
    if isinstance(value, list):
        return any(map(is_labelled, [item for item in value if isinstance(item, dict)]))
    return isinstance(value, dict) and bool(_label_keys(value))


def labels_of_value(value: Any) -> tuple[str, ...]:
    """The labels of a text, a choice, a region, or a list of these. A class of a taxonomy is its path, with slashes."""
    if value is None or value == "":
        return ()
    names: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            names.append(label_text(item))
            continue
        for key in _label_keys(item):
            found = item[key] if isinstance(item[key], list) else [item[key]]
            names += ["/".join(map(label_text, name)) if isinstance(name, list) else label_text(name) for name in found]
    return unique(names)
