"""Label Studio's exports JSON and JSON-MIN, and the cells of its CSV.

Read as label-studio-sdk writes them (HumanSignal/label-studio-sdk@0015729, src/label_studio_sdk/converter/converter.py:
`annotation_result_from_task`, `convert_to_json_min`; converter/utils.py: `prettify_result`). A task of JSON has `data`
and its `annotations`, each with `result`, a list of regions whose `value` holds `choices`, `rectanglelabels`, … . A
record of JSON-MIN stands for one annotation: the keys of `data`, then `id`, then one key for each control of the
labelling interface, whose value is a text for a single choice, {"choices": […]} for several, or a list of regions; then
annotator, annotation_id and times.
"""

from __future__ import annotations

from typing import Any

from mldec.data.dataset import name_some
from mldec.data.own.documents import label_text, path_text, reading, unique
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.shapes import Source, image_key, make_listing
from mldec.errors import DataError, counted

JSON, JSON_MIN = "Label Studio JSON", "Label Studio JSON-MIN"
BOOKKEEPING = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
_FEW = 50  # records that decide whether a file is one


def looks_like_tasks(document: Any) -> bool:
    """Whether a document is Label Studio's JSON: tasks, each with its data and annotations."""
    tasks = [document] if isinstance(document, dict) else document
    return _all_records(tasks) and all(
        isinstance(task.get("data"), dict) and ("annotations" in task or "completions" in task) for task in tasks[:_FEW]
    )


def looks_like_records(document: Any) -> bool:
    """Whether a document is JSON-MIN: records with the bookkeeping of an annotation."""
    return _all_records(document) and all(
        "annotation_id" in record or {"annotator", "created_at"} <= record.keys() for record in document[:_FEW]
    )


def read_tasks(source: Source) -> Listing:
    """Label Studio's JSON. Tasks without an annotation, or whose annotations were all skipped, are left out."""
    with reading(source.path, JSON):
        tasks = [source.document] if isinstance(source.document, dict) else source.document
        key = image_key(source, [task["data"] for task in tasks])
        entries, left_out, several = [], 0, 0
        controls: dict[str, None] = {}
        for task in tasks:
            annotations = task["annotations"] if "annotations" in task else task["completions"]
            done = [one for one in annotations if not (one.get("was_cancelled") or one.get("skipped"))]
            several += len(done) > 1
            if not done:
                left_out += 1
                continue
            names: list[str] = []
            for region in (region for one in done for region in one.get("result") or []):
                control = region.get("from_name")
                if is_labelled(region.get("value")) and source.label_column in (None, control):
                    controls[str(control)] = None
                    names += labels_of_value(region["value"])
            entries.append(Entry(path_text(task["data"][key]), unique(names)))
    return make_listing(source, JSON, entries, decisions=_decisions(key, list(controls), left_out, several))


def read_records(source: Source) -> Listing:
    """Label Studio's JSON-MIN. Records without an annotation are left out."""
    with reading(source.path, JSON_MIN):
        records = source.document
        key = image_key(source, records)
        controls = _controls(source, records, key)
        done = [record for record in records if record.get("annotation_id", 0) is not None]
        entries = [
            Entry(
                path_text(record[key]),
                unique([n for control in controls for n in labels_of_value(record.get(control))]),
            )
            for record in done
        ]
        several = len(entries) - len({entry.path for entry in entries})
    decisions = _decisions(key, controls, len(records) - len(done), several)
    return make_listing(source, JSON_MIN, entries, decisions=decisions)


def _decisions(key: str, controls: list[str], left_out: int, several: int) -> list[str]:
    decisions = [f"images from {key}, labels from {name_some(controls, len(controls), 5) or 'no control'}"]
    if left_out:
        decisions.append(f"{counted(left_out, 'task')} without a submitted annotation left out")
    if several:
        decisions.append(
            f"{counted(several, 'task')} with more than one annotation: a label counts if any of them has it"
        )
    return decisions


def _controls(source: Source, records: list[dict[str, Any]], key: str) -> list[str]:
    """The keys of a record that hold labels: those after `id`, which the task's own data stand before."""
    found: dict[str, None] = {}
    for record in records:
        keys = list(record)
        after = keys[keys.index("id") + 1 :] if "id" in keys else keys
        for name in after:
            if name not in BOOKKEEPING and name != key and _may_be_labels(record[name]):
                found[name] = None
    if source.label_column is not None:
        if source.label_column not in found:
            raise DataError(
                f"dataset.label_column={source.label_column}: labels are in {name_some(found, len(found), 9)}"
            )
        return [source.label_column]
    if not found:
        raise DataError(f"no key with labels among {name_some(records[0], len(records[0]), 12)}")
    return sorted(found)


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
