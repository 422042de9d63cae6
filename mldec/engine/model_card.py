"""README.md of an exported folder: a model card in the layout of the Hugging Face Hub.

Names of labels and experiments come from anywhere. In the text every sign of theirs that could mean something in
Markdown or HTML is a character reference; in the header YAML quotes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mldec.data.image import scaled_side

SHOWN_LABELS = 200

# Metrics in the order of the card: what the Hub calls them, and what they are.
METRICS = {
    "mAP": ("mean_average_precision", "mean average precision over the labels, %"),
    "top1": ("accuracy", "images whose best label is right, %"),
    "top5": ("top_5_accuracy", "images whose label is among the best five, %"),
    "CF1": ("f1", "F1 at the protocol's threshold, mean over labels, %"),
    "OF1": ("f1", "F1 at the protocol's threshold, over all decisions, %"),
    "seen_mAP": ("mean_average_precision", "mAP of the labels that were trained, asked for alone, %"),
    "zsl_mAP": ("mean_average_precision", "mAP of the labels that were never trained, asked for alone, %"),
    "gzsl_mAP": ("mean_average_precision", "mAP of all labels together, trained or not, %"),
}


def model_card(
    description: Mapping[str, Any], sizes: Mapping[str, int], differences: Mapping[str, float], notes: Sequence[str]
) -> str:
    """The card of an exported folder.

    Args:
        description: the content of mldec.json.
        sizes: bytes of each file of weights.
        differences: of each of them the largest difference from the network's logits.
        notes: sentences on how it was made.
    """
    sections = [
        _header(description, sizes),
        f"# {escape(description['name'])}",
        _summary(description),
        "## Results\n\n" + _results(description),
        "## Labels\n\n" + _labels(description),
        "## Files\n\n" + _files(description, sizes, differences, notes),
        "## Preprocessing\n\n" + _preprocessing(description),
        *(["## Use with mldec\n\n" + _use_mldec(description)] if "model.safetensors" in sizes else []),
        *(["## Use with ONNX Runtime\n\n" + _use_onnx(description)] if "model.onnx" in sizes else []),
        *(["## Use with torch.export\n\n" + _use_program(description)] if "model.pt2" in sizes else []),
        "## Training\n\n" + _training(description),
        "## Limits\n\n" + _limits(description),
    ]
    return "\n\n".join(sections) + "\n"


def escape(text: Any) -> str:
    """`text` with every sign that Markdown or HTML could take for one of theirs as a character reference.

    Within a line: what means something at its beginning (a dash, a number and a dot) stays.
    """
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", str(text))


# All signs but harmless ones; and of those: the colon of an address, the dot behind www, underscores around words.
_SIGNS = re.compile(r"[^\w ,.;:()'%+=-]|:(?=/)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)


def open_image(steps: Mapping[str, Any]) -> list[str]:
    """Lines of Python that make `images` of photo.jpg."""
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
        one = description["activation"] == "softmax"  # label per image
        result = {
            "task": {
                "type": "image-classification",
                "name": "Image classification" if one else "Multi-label classification",
            },
            "dataset": {"name": config["dataset"]["name"], "type": config["dataset"]["name"], "split": split},
            "metrics": [{"type": METRICS[name][0], "name": name, "value": value} for name, value in figures.items()],
        }
        header["model-index"] = [{"name": description["name"], "results": [result]}]
    dumped: str = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{dumped}---"


def _figures(description: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The split that was scored, and its metrics in the card's order; nothing where nothing is known."""
    test = description.get("test")
    split, found = ("test", test) if test else ("val", description["metrics"].get(description["weights"]) or {})
    known = {name: found.get(name) for name in METRICS}
    return split, {name: round(float(v), 4) for name, v in known.items() if isinstance(v, (int, float))}


def _summary(description: Mapping[str, Any]) -> str:
    config = description["config"]
    backbone = config["backbone"].get("model") or config["backbone"]["name"]
    version = description["environment"].get("mldec", description["mldec"])
    return (
        f"Which of {len(description['labels']):,} labels per image shows: backbone {escape(backbone)}, head "
        f"{escape(config['head']['name'])}, images of {description['preprocessing']['image_size']} pixels. "
        f"Trained with mldec {escape(version)} on {escape(config['dataset']['name'])}.\n\n"
        "No license is given here. Whoever publishes this model adds one (`license:` in the header), which the "
        "images and the weights that it started from allow."
    )


def _results(description: Mapping[str, Any]) -> str:
    split, figures = _figures(description)
    protocol = description["config"]["protocol"]
    if not figures:
        return "Not known: the checkpoint came without figures of these weights."
    where = description.get("data", {}).get(split, {})
    rows = [f"| {name} | {value:.2f} | {METRICS[name][1]} |" for name, value in figures.items()]
    chosen = (
        ""
        if split == "test"
        else "\n\nThe epoch was chosen on these images, so that the figures flatter; no test split was scored with "
        "these weights."
    )
    return (
        f"On the {split} split of {escape(description['config']['dataset']['name'])}"
        + (f", {where['images']:,} images" if "images" in where else "")
        + f", with the {escape(description['weights'])} weights of step {description['step']:,}. Protocol "
        f"{escape(protocol['name'])}: average precision {escape(protocol['average_precision'])}, threshold "
        f"{protocol['threshold']} for F1.\n\n| metric | value | meaning |\n|---|---|---|\n" + "\n".join(rows) + chosen
    )


def _labels(description: Mapping[str, Any]) -> str:
    names, seen = description["labels"], description["seen"]
    flags = seen if seen is not None else [True] * len(names)
    shown = [
        escape(name) + ("" if flag else " (never trained)")
        for name, flag in zip(names[:SHOWN_LABELS], flags, strict=False)
    ]
    rest = f", and {len(names) - SHOWN_LABELS:,} more" if len(names) > SHOWN_LABELS else ""
    return "In the order of the scores: " + "; ".join(shown) + rest + ".\n\nmldec.json has them under `labels`."


def _files(
    description: Mapping[str, Any], sizes: Mapping[str, int], differences: Mapping[str, float], notes: Sequence[str]
) -> str:
    rows = ["| file | size | largest difference from the trained network |", "|---|---|---|"]
    for name, size in sizes.items():
        found = differences[name]
        rows.append(f"| {name} | {size / 2**20:.1f} MiB | {f'{found:.1e} in logits' if found else 'none'} |")
    text = (
        "\n".join(rows)
        + "\n\nEach file carries labels and preprocessing within itself. mldec.json holds them too, with the whole "
        "configuration"
        + (", and a threshold for each label, chosen on val" if description["thresholds"] is not None else "")
        + "."
    )
    if description["label_embeddings"] is not None:
        embeddings = description["label_embeddings"]
        text += (
            f" label_vectors.safetensors has the label embeddings ({len(embeddings['names']):,} x {embeddings['width']}, from "
            f"{escape(embeddings['source'])}) of the labels that the network knows; `label_embeddings.names` in mldec.json names them, "
            f"the first {embeddings['trained']:,} were trained."
        )
    return "\n\n".join([text, *(f"{escape(note[0].upper() + note[1:])}." for note in notes)])


def _preprocessing(description: Mapping[str, Any]) -> str:
    steps = description["preprocessing"]
    numbers = f"mean {steps['mean']}, std {steps['std']} of values in 0..1"
    lines = [f"{number}. {step}" for number, step in enumerate(steps["before_the_graph"], start=1)]
    inside = "; ".join(steps["in_the_graph"])
    return (
        f"`mldec.load` does all of it. For the other files, before the graph:\n\n{chr(10).join(lines)}\n\n"
        + (f"In the graph: {inside}. " if inside else "Nothing of it is in the graph. ")
        + f"Input: {steps['input']}; {numbers}."
    )


def _use_mldec(description: Mapping[str, Any]) -> str:
    lines = ["import mldec", "", 'model = mldec.load("path/of/this/folder")', 'print(model.predict(["photo.jpg"]))']
    if description["label_embeddings"] is not None:
        lines += [
            "model.set_labels(model.model.vocabulary.known.names)  # any of these, or others with their vectors",
            'print(model.predict(["photo.jpg"], top_k=3))',
        ]
    return _code(lines)


def _use_onnx(description: Mapping[str, Any]) -> str:
    by_vectors = len(description["inputs"]) > 1
    lines = [
        "import json",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image",
        *(["from safetensors.numpy import load_file"] if by_vectors else []),
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        *open_image(description["preprocessing"]),
    ]
    if by_vectors:
        lines += [
            'labels = json.load(open("mldec.json", encoding="utf-8"))["label_embeddings"]["names"]',
            'vectors = load_file("label_vectors.safetensors")["vectors"]  # one row a label; any others will do',
            '(scores,) = session.run(["scores"], {"images": images, "label_vectors": vectors})',
        ]
    else:
        key = "labels" if description["label_embeddings"] is None else "trained_labels"
        lines += [
            f'labels = json.loads(session.get_modelmeta().custom_metadata_map["{key}"])',
            '(scores,) = session.run(["scores"], {"images": images})',
        ]
    lines.append("print({label: float(score) for label, score in zip(labels, scores[0]) if score > 0.5})")
    return _code(lines) + f"\n\n{_outputs(description)}"


def _use_program(description: Mapping[str, Any]) -> str:
    by_vectors = len(description["inputs"]) > 1
    lines = [
        "import numpy as np",
        "import torch",
        "from PIL import Image",
        *(["from safetensors.torch import load_file"] if by_vectors else []),
        "",
        'extra = {"labels": ""}',
        'module = torch.export.load("model.pt2", extra_files=extra).module()',
        *open_image(description["preprocessing"]),
        "inputs = [torch.from_numpy(images.copy())]",
        *(['inputs.append(load_file("label_vectors.safetensors")["vectors"])'] if by_vectors else []),
        "scores, logits = module(*inputs)",
    ]
    return (
        _code(lines) + f"\n\n{_outputs(description)} torch reads parts of such a file with pickle: load files of "
        "people you trust."
    )


def _outputs(description: Mapping[str, Any]) -> str:
    made = "softmax" if description["activation"] == "softmax" else "sigmoid"
    text = f"Outputs: `scores` (B, N) in 0..1, the {made} of the `logits` (B, N), which are the second output."
    if len(description["inputs"]) > 1:
        text += (
            " `label_vectors` (N, width) are the label embeddings of the labels to ask for, as their source gives them."
        )
    return text


def _training(description: Mapping[str, Any]) -> str:
    config, environment = description["config"], description.get("environment", {})
    rows = {
        "backbone": config["backbone"].get("model") or config["backbone"]["name"],
        "head": config["head"]["name"],
        "loss": config["loss"]["name"],
        "augmentation": config["augment"]["name"],
        "optimizer": config["optimizer"]["name"],
        "epochs": config["schedule"]["epochs"],
        "batch size": config["schedule"]["batch_size"],
        "highest learning rate": config["schedule"]["max_lr"],
        "seed": config["seed"],
        "commit of mldec": environment.get("commit"),
        "torch": environment.get("packages", {}).get("torch"),
        "device": environment.get("device"),
    }
    lines = [f"| {name} | {escape(value)} |" for name, value in rows.items() if value is not None]
    text = "| setting | value |\n|---|---|\n" + "\n".join(lines)
    data = description.get("data", {})
    if data:
        splits = [
            f"| {escape(split)} | {found['images']:,} | {found['labels']:,} | `{found['fingerprint'][:16]}` |"
            for split, found in data.items()
        ]
        text += (
            "\n\nThe fingerprint is of names and labels of the images, its first 16 digits.\n\n"
            "| split | images | labels | fingerprint |\n|---|---|---|---|\n" + "\n".join(splits)
        )
    return text + "\n\nAll settings are in mldec.json, under `config`."


def _limits(description: Mapping[str, Any]) -> str:
    lines = [
        "Scores rank images and labels; they are no calibrated probabilities.",
        "It knows its labels and no others, and says nothing of what else an image shows."
        if description["label_embeddings"] is None
        else "Labels that were never trained are recognised worse than those that were; see the results.",
        f"Images are seen at {description['preprocessing']['image_size']} pixels: what is smaller there than a few "
        "pixels cannot be found.",
        "The figures are of images like those it was trained on. Other images, and differences between groups of "
        "people, were not examined.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _code(lines: Sequence[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"
