"""README.md of an exported folder: a model card in the layout of the Hugging Face Hub, from templates/model_card.md.

Names of labels and experiments come from anywhere. The template escapes every value: each character that could be
markup becomes a character reference. In the header YAML quotes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mldec.data.image import scaled_side
from mldec.errors import printable

# Metrics in the order of the card: their name on the Hub, and their meaning.
METRICS = {
    "mAP": ("mean_average_precision", "mean average precision over the labels, %"),
    "top1": ("accuracy", "images whose top label is correct, %"),
    "top5": ("top_5_accuracy", "images whose label is among the top five, %"),
    "CF1": ("f1", "harmonic mean of mean class precision and mean class recall, at the protocol's threshold, %"),
    "OF1": ("f1", "harmonic mean of precision and recall of all decisions, at the protocol's threshold, %"),
    "seen_mAP": ("mean_average_precision", "mAP with the trained labels as query labels, %"),
    "zsl_mAP": ("mean_average_precision", "mAP with the labels that were never trained as query labels, %"),
    "gzsl_mAP": ("mean_average_precision", "mAP with all labels as query labels, trained or not, %"),
}


def model_card(
    description: Mapping[str, Any], sizes: Mapping[str, int], differences: Mapping[str, float], notes: Sequence[str]
) -> str:
    """The model card of an exported folder.

    Args:
        description: the content of mldec.json.
        sizes: bytes of each weights file.
        differences: the largest difference of each file from the network's logits.
        notes: sentences about the export.
    """
    split, figures = _figures(description)
    body = template("model_card.md").render(
        {"data": {}, "environment": {}, **description},
        split=split,
        figures=figures,
        meanings={name: meaning for name, (_, meaning) in METRICS.items()},
        sizes=sizes,
        differences=differences,
        notes=notes,
    )
    header = _header(description, sizes).to_yaml()  # in quotation marks, where a code stands for its character
    return printable(f"---\n{header}\n---\n\n" + re.sub("\n{3,}", "\n\n", body))


def escape(text: Any) -> str:
    """`text` with every character that could be Markdown or HTML as a character reference.

    For use within a line: characters that only have a meaning at its start (a dash, a number and a dot) are kept.
    """
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", str(text))


# All characters but harmless ones; and of those the colon of a URL, the dot after www, and underscores at word edges.
_SIGNS = re.compile(r"[^\w ,.;:()'%+=-]|:(?=/)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)


def template(name: str) -> Any:
    """A template: model_card.md, or open_image.py.jinja, the code that turns photo.jpg into the input of a graph."""
    environment = Environment(
        loader=PackageLoader("mldec.engine.export"),
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["scaled_side"] = scaled_side
    return environment.get_template(name)


def _header(description: Mapping[str, Any], sizes: Mapping[str, int]) -> ModelCardData:
    dataset, head = description["config"]["dataset"]["name"], description["config"]["head"]["name"]
    tags = ["multi-label", "ml-decoder" if head == "ml_decoder" else head]
    tags += [kind for name, kind in (("model.safetensors", "safetensors"), ("model.onnx", "onnx")) if name in sizes]
    if description["label_embeddings"] is not None and description["label_embeddings"].get("new_labels", True):
        tags.append("zero-shot-image-classification")
    split, figures = _figures(description)
    task = "Image classification" if description["activation"] == "softmax" else "Multi-label classification"
    results = [
        EvalResult(
            task_type="image-classification",
            task_name=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=METRICS[name][0],
            metric_name=name,
            metric_value=value,
        )
        for name, value in figures.items()
    ]
    return ModelCardData(
        library_name="mldec",
        pipeline_tag="image-classification",
        tags=tags,
        model_name=description["name"] if results else None,
        eval_results=results or None,
    )


def _figures(description: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The evaluated split and its metrics in the order of the card; no metrics if none are known."""
    if test := description.get("test"):
        split, found = description["test_split"], test
    else:
        split, found = "val", description["metrics"].get(description["weights"]) or {}
    known = {name: found.get(name) for name in METRICS}
    return split, {name: round(float(v), 4) for name, v in known.items() if isinstance(v, (int, float))}
