"""Classifiers from published files: the authors' checkpoints, timm's, those of average pooling (paper §1.5-1.8).

    classifier = load_published("tresnet_l.pth")

The network is determined from the names and shapes of the tensors. All tensors of the file and of the network must
match: a partial match is an error that lists the names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from torch import Tensor, nn

from mldec.errors import CheckpointError, ConfigError, DataError, first_lines, option, suggest
from mldec.labels import LabelSpace
from mldec.models import published_layouts as layouts
from mldec.models.backbone import Backbone
from mldec.models.bounded import build_within
from mldec.models.classifier import Classifier
from mldec.models.heads import GlobalAveragePool, MLDecoder, ZeroShotMLDecoder
from mldec.models.heads.per_class import sine_position
from mldec.models.hub import TRESNETS
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.method_layout import HEAD, Method, converted, method_settings
from mldec.models.published_layouts import FoundBackbone, HeadLayout
from mldec.models.published_methods import find_method
from mldec.models.tresnet import VARIANTS
from mldec.models.weights import compare_tensors, find_tensors, read_file
from mldec.registry import BACKBONES

SHOWN = 30  # names of each kind that an error lists
RESNET_STRIDE = 32  # pixels of an image's side per token
MOST_SIDE, MOST_WIDTH = 128, 16_384  # of a file's sine positions, which are computed for comparison
OURS = ("format", "config", "labels", "normalization")  # the entries of mldec's own checkpoints

#: timm's name of a backbone -> mldec's, where they differ.
TIMM_NAMES = {full.partition(".")[0]: name for name, full in TRESNETS.items() if full is not None}


@dataclass(frozen=True, eq=False)
class PublishedFile:
    """The content of a published file.

    Attributes:
        source: its name in messages.
        entry: the entry of the state dict; "" for a bare one.
        others: further entries with tensors, such as the moving average in timm's files.
        layout: the location of the head.
        backbone, head: settings of these config groups. Those of a head that needs them lack `label_embeddings`.
        num_classes: N; None for a zero-shot head.
        embedding_width: of the label embeddings of a head that needs some; None for any other.
        idx_to_class: the file's table of labels, unchanged; None where it has none.
        tensors: all of them, without a prefix such as `module.`.
        found: the backbone, according to the names of its tensors.
    """

    source: str
    entry: str
    others: tuple[str, ...]
    layout: HeadLayout
    backbone: dict[str, Any]
    head: dict[str, Any]
    num_classes: int | None
    embedding_width: int | None
    idx_to_class: Any
    tensors: Mapping[str, Tensor]
    found: FoundBackbone
    positions: Tensor | None = None  # the file's sine positions of the tokens, (1, D, height, width)
    method: Method | None = None  # whose layout it is; None: the authors' of ML-Decoder, timm's or pooling

    def labels(self) -> tuple[str, ...] | None:
        """The names of `idx_to_class` in the order of their indices; None where the file has none.

        Raises CheckpointError if it is not a list of names by index, or their number differs from the classes'.
        """
        table = self.idx_to_class
        if table is None:
            return None
        advice = "give the labels: labels=@FILE"
        try:
            pairs = table.items() if isinstance(table, Mapping) else enumerate(table)
            by_number = {int(number): str(name).strip() for number, name in pairs}
            names = LabelSpace([by_number[number] for number in range(len(by_number))]).names
        except (TypeError, ValueError, KeyError, DataError) as error:
            what = f"no index {error}" if isinstance(error, KeyError) else error
            raise CheckpointError(
                f"{self.source}: `idx_to_class` is not a list of names by index ({what}); {advice}"
            ) from None
        if self.num_classes is not None and len(names) != self.num_classes:
            raise CheckpointError(
                f"{self.source}: `idx_to_class` has {len(names)} names for {self.num_classes} classes; {advice}"
            )
        return names

    def load_into(self, classifier: Classifier) -> None:
        """Copy the tensors into a classifier that was built from `backbone` and `head`.

        The scales w of InPlaceABN, whose sign has no effect, become the batch norm's |w| + 1e-5.

        Raises CheckpointError with all names that are missing, unexpected or of another shape; and where the published
        head would read other tokens or embeddings.
        """
        backbone = cast(Backbone, classifier.backbone)
        if backbone.prefix_tokens and self.method is None:
            raise CheckpointError(
                f"{self.source}: published heads also read the class token of {_described(self.backbone)}, which the "
                "heads of mldec do not; such files cannot be imported"
            )
        known = classifier.label_embeddings
        if known is not None and known.width != self.embedding_width:
            raise CheckpointError(
                f"{self.source} was trained with label embeddings of width {self.embedding_width}, those of "
                f"{known.source} have width {known.width}; use the source that it was trained with"
            )
        if broken := [name for name, value in self.tensors.items() if not value.isfinite().all()]:
            raise CheckpointError(f"{self.source} holds values that are not finite: {', '.join(broken[:SHOWN])}")
        if broken := [name for name, value in self.tensors.items() if value.is_complex()]:
            raise CheckpointError(
                f"{self.source} holds complex numbers, which no network has: {', '.join(broken[:SHOWN])}"
            )
        report = backbone.load(self.body, self.source, required=0.0)
        expected = classifier.head.state_dict()
        if self.method is not None:
            expected = {name: tensor for name, tensor in expected.items() if name not in self.method.not_in_file}
        spare = () if self.method is None else tuple(HEAD + name for name in self.method.spare)
        head = compare_tensors(expected, self.tensors, self.layout.file_name)
        names = set(map(self.layout.file_name, expected))
        missing, other_shape = [*report.missing, *head.missing], [*report.mismatched, *head.mismatched]
        surplus = [*report.unexpected, *report.skipped]
        surplus += [name for name in self.tensors if self.layout.holds(name) and name not in (*names, *spare)]
        if missing or surplus or other_shape:
            raise CheckpointError(self._misfit(missing, surplus, other_shape))
        classifier.head.load_state_dict(head.fitting, strict=self.method is None)

    @property
    def kind(self) -> str:
        """Whose layout it is: "authors", "timm", "pooling", or the name of the head of another method."""
        return self.layout.kind if self.method is None else self.method.head

    @property
    def image_size(self) -> int | None:
        """Side in pixels of the images that a network's position embeddings belong to.

        224 for vit_*_patch16_224, with one for each patch; 448 for a ResNet with sine positions of 14 x 14 tokens. None
        for networks without any, which read images of other sizes too.
        """
        if self.positions is not None:
            return int(self.positions.shape[3]) * RESNET_STRIDE
        positions, patches = (self.body.get(name) for name in ("pos_embed", "patch_embed.proj.weight"))
        if positions is None or patches is None or positions.dim() != 3 or patches.dim() != 4:
            return None
        count = positions.shape[1] - int("cls_token" in self.body)
        side = math.isqrt(max(0, count))
        return side * patches.shape[-1] if side * side == count and side else None

    @property
    def body(self) -> dict[str, Tensor]:
        """The tensors outside of the head."""
        return {name: value for name, value in self.tensors.items() if not self.layout.holds(name)}

    def _misfit(self, missing: Sequence[str], surplus: Sequence[str], other_shape: Sequence[str]) -> str:
        name = self.backbone.get("model", self.backbone["name"])
        lines = [f"{self.source} holds {self.found.description}, and does not fit {name} with {self.head['name']}:"]
        for what, names in (("missing", missing), ("unexpected", surplus), ("of another shape", other_shape)):
            if names:
                more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"  {len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
        return "\n".join([*lines, "If the file is of another network, give its name: backbone=NAME"])


def load_published(
    source: str | Path | Mapping[str, Any],
    num_classes: int | None = None,
    *,
    backbone: str | None = None,
    image_size: int | None = None,
    label_embeddings: LabelEmbeddings | None = None,
    cooccurrence: np.ndarray | None = None,
    key: str | None = None,
) -> Classifier:
    """The classifier of a published file, in evaluation, on the CPU.

    Args:
        source: a .pth, .pt or .safetensors file, or its content: a state dict, bare or under `model` or `state_dict`.
        num_classes: N, to require this number of classes.
        backbone: the name of the backbone, mldec's or timm's, where the names in the file are ambiguous.
        image_size: side of its input images in pixels; None: that of a vision transformer's position embeddings
            (`PublishedFile.image_size`), and 448 for networks without any.
        label_embeddings: for a head that needs them, the labels and their vectors; no file contains them.
        cooccurrence: (N,N) counts of the training images, `ImageIndex.cooccurrence`, for SSGRL, whose files lack them.
        key: the entry of the file that holds the state dict; None: `model` or `state_dict`.

    Raises:
        CheckpointError: the file does not exist or is not such a file, or a tensor is missing, unexpected or of
            another shape.
        ConfigError: there is no such backbone, or images of that size do not fit it.
    """
    published = read_published(source, num_classes, backbone=backbone, key=key)
    if published.embedding_width is not None and label_embeddings is None:
        raise CheckpointError(
            f"{published.source} needs label embeddings, which are not in the file; give them as "
            f"label_embeddings=LabelEmbeddings(…), {published.embedding_width} numbers per label"
        )
    classes, given = published.num_classes, () if label_embeddings is None else label_embeddings.names
    if label_embeddings is not None and classes is not None and len(given) < classes:
        raise CheckpointError(
            f"{published.source} has {classes} classes, but label_embeddings are of {len(given)} labels; give those of "
            "all labels, in the order of the outputs"
        )
    if published.method is not None and published.method.not_in_file and cooccurrence is None:
        raise CheckpointError(
            f"{published.source} needs the graph of the labels, which is not in the file; give the counts of the "
            "training images as cooccurrence=index.cooccurrence()"
        )
    side = image_size or published.image_size or 448
    try:
        classifier = build_within(
            lambda: _build(published, side, label_embeddings, cooccurrence), published.tensors, published.source
        )
    except (ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{published.source}: its head cannot be built: {first_lines(error)}") from error
    published.load_into(classifier)
    return classifier.eval()


def _build(
    published: PublishedFile,
    image_size: int,
    label_embeddings: LabelEmbeddings | None,
    cooccurrence: np.ndarray | None,
) -> Classifier:
    component = BACKBONES[published.backbone["name"]]
    body: Backbone = component.build(component.config_class(**published.backbone), image_size=image_size)
    settings = {name: value for name, value in published.head.items() if name not in ("name", "label_embeddings")}
    head: nn.Module
    if published.method is not None:
        sizes = (body.num_features, published.num_classes or 1)
        head = published.method.build(*sizes, settings, label_embeddings, cooccurrence)
    elif published.num_classes is None and label_embeddings is not None:
        classes = len(label_embeddings.names)
        head = ZeroShotMLDecoder(body.num_features, classes, label_embeddings=label_embeddings, **settings)
    elif published.head["name"] == "gap":
        head = GlobalAveragePool(body.num_features, published.num_classes or 1)
    else:
        plain = {name: value for name, value in settings.items() if name != "fc"}
        head = MLDecoder(body.num_features, published.num_classes or 1, **plain)
    return Classifier(body, head)


def read_published(
    source: str | Path | Mapping[str, Any],
    num_classes: int | None = None,
    *,
    backbone: str | None = None,
    key: str | None = None,
) -> PublishedFile:
    """The content of a published file; arguments and errors as in `load_published`."""
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_file(source)
    if isinstance(content, Mapping) and all(entry in content for entry in OURS):
        raise CheckpointError(f"{name} is a checkpoint of mldec and needs no import; use {option('run', name)}")
    entry, tensors = find_tensors(content, name, key)
    others = [str(k) for k, v in content.items() if k != entry and isinstance(v, Mapping) and _has_tensors(v)]
    tensors = layouts.unwrapped(tensors)
    method = find_method(tensors)
    positions = None if method is None else _sine_positions(tensors.get(method.positions), name)
    outputs: int | None
    if method is not None:
        layout = HeadLayout("own", HEAD)
        tensors = converted(method, tensors, name)
        head, outputs, embedding_width = method_settings(method, tensors, name)
    else:
        layout = layouts.find_head(tensors, name)
        head, outputs, embedding_width = layouts.head_settings(layout, tensors, name)
    if num_classes is not None and outputs is not None and num_classes != outputs:
        raise CheckpointError(f"{name} has outputs for {outputs} classes, not for num_classes={num_classes}")
    found = layouts.find_backbone({name: value for name, value in tensors.items() if not layout.holds(name)})
    return PublishedFile(
        source=name,
        entry=entry,
        others=tuple(others) if entry else (),
        layout=layout,
        backbone=_choose_backbone(found, backbone, name, layout, method),
        head=head,
        num_classes=outputs,
        embedding_width=embedding_width,
        idx_to_class=content.get("idx_to_class"),
        tensors=tensors,
        found=found,
        positions=positions,
        method=method,
    )


def _sine_positions(positions: Tensor | None, source: str) -> Tensor | None:
    """The positions of a file, which the network computes anew. Raises CheckpointError where it computes others."""
    if positions is None:
        return None
    shape = tuple(positions.shape)
    one, width, height, side = shape if len(shape) == 4 else (0, 0, 0, 0)
    if one != 1 or width % 4 or not 0 < width <= MOST_WIDTH or not 0 < height == side <= MOST_SIDE:
        raise CheckpointError(
            f"{source}: its positions have shape {shape}; expected (1, width, side, side), with a width that is a "
            f"multiple of 4 and at most {MOST_WIDTH:,}, and a side of at most {MOST_SIDE}"
        )
    computed = sine_position((height, side), width).T.reshape(shape)
    if not torch.allclose(positions.to(computed), computed, atol=1e-3):
        raise CheckpointError(
            f"{source}: its positions of shape {shape} are not the sines and cosines that its method computes; this "
            "network cannot be imported"
        )
    return positions


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    """Whether it looks like a state dict. The tensors of an optimizer's state are nested deeper."""
    return any(isinstance(value, Tensor) for value in content.values())


def _choose_backbone(
    found: FoundBackbone, name: str | None, source: str, layout: HeadLayout, method: Method | None
) -> dict[str, Any]:
    """Settings of the config group `backbone`: those of the file, confirmed or replaced by the given name."""
    settings = found.settings
    if name is not None:
        name = TIMM_NAMES.get(name, name)
        if found.certain and settings is not None and settings != {"name": name}:
            raise CheckpointError(
                f"backbone={name}: {source} holds {found.description}, which is {_described(settings)}; leave out "
                "backbone="
            )
        if settings is None or settings["name"] != name:
            settings = _named(name)
    if settings is None:
        known = ", ".join([*VARIANTS, *(network["name"] for network in layouts.RESNETS.values())])
        raise CheckpointError(
            f"{source} holds {found.description}, which is none of {known}; give the network's name: backbone=NAME, "
            "any timm model"
        )
    name = settings.get("model", settings["name"])
    if layout.kind == "pooling" and not name.startswith(("tresnet", "resnet")):
        raise CheckpointError(
            f"{source}: the linear layer of {name} may follow more than average pooling; it can be imported for "
            "TResNets and ResNets only"
        )
    # The authors' networks expect pixels within 0..1; timm's and torchvision's ResNets ImageNet's mean and std.
    unit = name.startswith("tresnet") or not timm.is_model(name)
    if method is not None:
        unit = method.unit
    return {**settings, "normalize": "unit" if unit else "backbone"}


def _named(name: str) -> dict[str, Any]:
    if name in BACKBONES and name != "timm":
        return {"name": name}
    if timm.is_model(name):
        return {"name": "timm", "model": name}
    raise ConfigError(f"backbone={name}: no such backbone; {suggest(name, BACKBONES.names())}; or any timm model")


def _described(settings: Mapping[str, str]) -> str:
    return f"timm's {settings['model']}" if "model" in settings else settings["name"]
