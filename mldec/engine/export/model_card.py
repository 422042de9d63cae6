"""README.md of an exported folder: a model card in the layout of the Hugging Face Hub, from templates/model_card.md.

Names of labels and experiments come from anywhere. The template escapes every value: each character that could be markup
becomes a character reference. In the header YAML quotes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mldec.data.image import scaled_side

SHOWN_LABELS = 200

# Metrics in the order of the card: their name on the Hub, and their meaning.
METRICS = {
    "mAP": ("mean_average_precision", "mean average precision over the labels, %"),
    "top1": ("accuracy", "images whose top label is correct, %"),
    "top5": ("top_5_accuracy", "images whose label is among the top five, %"),
    "CF1": ("f1", "F1 at the protocol's threshold, mean over labels, %"),
    "OF1": ("f1", "F1 at the protocol's threshold, over all decisions, %"),
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
    config, environment = description["config"], description.get("environment", {})
    backbone = config["backbone"].get("model") or config["backbone"]["name"]
    split, figures = _figures(description)
    names = description["labels"][:SHOWN_LABELS]
    training = {
        "backbone": backbone,
        "head": config["head"]["name"],
        "loss": config["loss"]["name"],
        "augmentation": config["augment"]["name"],
        "optimizer": config["optimizer"]["name"],
        "epochs": config["schedule"]["epochs"],
        "batch size": config["schedule"]["batch_size"],
        "maximum learning rate": config["schedule"]["max_lr"],
        "seed": config["seed"],
        "commit of mldec": environment.get("commit"),
        "torch": environment.get("packages", {}).get("torch"),
        "device": environment.get("device"),
    }
    body: str = _template().render(
        {"data": {}, "environment": {}, **description},
        backbone=backbone,
        split=split,
        figures=figures,
        meanings={name: meaning for name, (_, meaning) in METRICS.items()},
        shown_labels=list(zip(names, description["seen"] or [True] * len(names), strict=False)),
        sizes=sizes,
        differences=differences,
        notes=notes,
        by_vectors=len(description["inputs"]) > 1,
        open_image=Markup("\n".join(open_image(description["preprocessing"]))),
        outputs=Markup(_outputs(description)),
        training=training,
    )
    return f"{_header(description, sizes)}\n\n" + re.sub("\n{3,}", "\n\n", body)


def escape(text: Any) -> str:
    """`text` with every character that could be Markdown or HTML as a character reference.

    For use within a line: characters that only have a meaning at its start (a dash, a number and a dot) are kept.
    """
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", str(text))


# All characters but harmless ones; and of those the colon of a URL, the dot after www, and underscores at word edges.
_SIGNS = re.compile(r"[^\w ,.;:()'%+=-]|:(?=/)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("mldec.engine.export"),
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md")


def open_image(steps: Mapping[str, Any]) -> list[str]:
    """Lines of Python that turn photo.jpg into `images`, the input of the graph."""
    size, crop = steps["image_size"], steps["crop"]
    interpolation = f"Image.Resampling.{steps['resize'].upper()}"
    if crop is None:
        lines = [f'image = Image.open("photo.jpg").convert("RGB").resize(({size}, {size}), {interpolation})']
    else:
        side = scaled_side(size, crop)
        lines = [
            'image = Image.open("photo.jpg").convert("RGB")',
            f"width, height = ({side} * length // min(image.size) for length in image.size)",
            f"image = image.resize((width, height), {interpolation})",
            f"left, top = round((width - {size}) / 2), round((height - {size}) / 2)",
            f"image = image.crop((left, top, left + {size}, top + {size}))",
        ]
    lines.append("images = np.asarray(image).transpose(2, 0, 1)[None]")
    if not steps["normalization_included"]:
        lines.append("images = images.astype(np.float32) / 255")
        if steps["mean"] != [0, 0, 0] or steps["std"] != [1, 1, 1]:
            mean, std = (f"np.array({steps[name]}, np.float32)[:, None, None]" for name in ("mean", "std"))
            lines.append(f"images = (images - {mean}) / {std}")
    return lines


def _header(description: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    config = description["config"]
    tags = ["multi-label", "ml-decoder" if config["head"]["name"] == "ml_decoder" else config["head"]["name"]]
    tags += [kind for name, kind in (("model.safetensors", "safetensors"), ("model.onnx", "onnx")) if name in sizes]
    if description["label_embeddings"] is not None:
        tags.append("zero-shot-image-classification")
    split, figures = _figures(description)
    header: dict[str, Any] = {"library_name": "mldec", "pipeline_tag": "image-classification", "tags": tags}
    if figures:
        single_label = description["activation"] == "softmax"
        result = {
            "task": {
                "type": "image-classification",
                "name": "Image classification" if single_label else "Multi-label classification",
            },
            "dataset": {"name": config["dataset"]["name"], "type": config["dataset"]["name"], "split": split},
            "metrics": [{"type": METRICS[name][0], "name": name, "value": value} for name, value in figures.items()],
        }
        header["model-index"] = [{"name": description["name"], "results": [result]}]
    dumped: str = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{dumped}---"


def _figures(description: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The evaluated split and its metrics in the order of the card; no metrics if none are known."""
    test = description.get("test")
    split, found = ("test", test) if test else ("val", description["metrics"].get(description["weights"]) or {})
    known = {name: found.get(name) for name in METRICS}
    return split, {name: round(float(v), 4) for name, v in known.items() if isinstance(v, (int, float))}


def _outputs(description: Mapping[str, Any]) -> str:
    text = (
        f"Outputs: `scores` (B, N) in 0..1, the {description['activation']} of the `logits` (B, N), which are the second "
        "output."
    )
    if len(description["inputs"]) > 1:
        text += " `label_vectors` (N, width) are the embeddings of the query labels, as their source gives them."
    return text
