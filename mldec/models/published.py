"""Classifiers from the files of others: the authors' checkpoints, timm's, those of average pooling (paper §1.5-1.8).

    classifier = load_published("tresnet_l.pth")

The network is read off the names and shapes of the tensors. Every tensor of the file must find its place and every
place its tensor: a file that fits in part is refused, with the names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
from torch import Tensor, nn

from mldec.errors import CheckpointError, ConfigError, DataError, suggest
from mldec.labels import LabelSpace
from mldec.models.backbone import Backbone
from mldec.models.bounded import build_within
from mldec.models.classifier import Classifier
from mldec.models.heads import GlobalAveragePool, MLDecoder, ZeroShotMLDecoder
from mldec.models.hub import TRESNETS
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.published_layouts import FoundBackbone, HeadLayout, find_backbone, find_head, head_settings
from mldec.models.published_layouts import without_wrappers as unwrapped
from mldec.models.tresnet import VARIANTS
from mldec.models.weights import find_tensors, read_file
from mldec.registry import BACKBONES

SHOWN = 30  # names that an error lists of each kind
OURS = ("format", "config", "labels", "normalization")  # entries that together make a checkpoint of mldec itself

#: What timm calls backbones that have a name of our own.
TIMM_NAMES = {full.partition(".")[0]: name for name, full in TRESNETS.items() if full is not None}


@dataclass(frozen=True, eq=False)
class Published:
    """A published file, read and understood, but not yet a network.

    Attributes:
        source: what messages call it.
        entry: where in the file the state dict stands; "" for a bare one.
        others: further entries that hold tensors, such as the moving average in timm's files.
        layout: where the head is.
        backbone, head: settings of these config groups. A head of label embeddings still needs `label_embeddings` among its settings.
        num_classes: N; None for a head of label embeddings.
        embedding_width: of the vectors that such a head takes; None for any other.
        idx_to_class: the file's table of labels as it stands, None where it has none.
        tensors: all of them, without a prefix such as `module.`.
        found: what the names of the body say.
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

    def labels(self) -> tuple[str, ...] | None:
        """The names under `idx_to_class` in the order of their numbers; None where the file has none.

        Raises CheckpointError if they are no list of names by number, or not as many as the classes.
        """
        table = self.idx_to_class
        if table is None:
            return None
        advice = "name the labels yourself: labels=FILE"
        try:
            pairs = table.items() if isinstance(table, Mapping) else enumerate(table)
            by_number = {int(number): str(name).strip() for number, name in pairs}
            names = LabelSpace([by_number[number] for number in range(len(by_number))]).names
        except (TypeError, ValueError, KeyError, DataError) as error:
            what = f"no number {error}" if isinstance(error, KeyError) else error
            raise CheckpointError(
                f"{self.source}: `idx_to_class` is no list of names by number ({what}); {advice}"
            ) from None
        if self.num_classes is not None and len(names) != self.num_classes:
            raise CheckpointError(
                f"{self.source}: `idx_to_class` has {len(names)} names for {self.num_classes} classes; {advice}"
            )
        return names

    def load_into(self, classifier: Classifier) -> None:
        """Copy the tensors into a classifier that was built from `backbone` and `head`.

        The scales w of InPlaceABN, whose sign is without meaning, become the batch norm's |w| + 1e-5.

        Raises CheckpointError with the names that are missing, left over or of another shape, however few; and where
        the published head would read other tokens or embeddings.
        """
        backbone = cast(Backbone, classifier.backbone)
        if backbone.prefix_tokens:
            raise CheckpointError(
                f"{self.source}: published heads also read the class token of {_described(self.backbone)}, which is no "
                "place of the image; such files cannot be taken over"
            )
        if classifier.vocabulary is not None and classifier.vocabulary.known.width != self.embedding_width:
            raise CheckpointError(
                f"{self.source} was trained with label embeddings of width {self.embedding_width}, those of "
                f"{classifier.vocabulary.known.source} have width {classifier.vocabulary.known.width}; name the source that it "
                "was trained with"
            )
        if broken := [name for name, value in self.tensors.items() if not value.isfinite().all()]:
            raise CheckpointError(f"{self.source} holds numbers that are not finite: {', '.join(broken[:SHOWN])}")
        report = backbone.load(self.body, self.source, required=0.0)
        missing, surplus = list(report.missing), [*report.unexpected, *report.skipped]
        other_shape = list(report.mismatched)

        places = {name: self.layout.file_name(name) for name in classifier.head.state_dict()}
        surplus += [name for name in self.tensors if self.layout.holds(name) and name not in places.values()]
        fitting = {}
        for ours, expected in classifier.head.state_dict().items():
            value = self.tensors.get(places[ours])
            if value is None:
                missing.append(places[ours])
            elif value.shape != expected.shape:
                other_shape.append(
                    f"{places[ours]}: {tuple(value.shape)} in the file, {tuple(expected.shape)} in the model"
                )
            else:
                fitting[ours] = value
        if missing or surplus or other_shape:
            raise CheckpointError(self._misfit(missing, surplus, other_shape))
        classifier.head.load_state_dict(fitting)

    @property
    def body(self) -> dict[str, Tensor]:
        """The tensors that are not the head's."""
        return {name: value for name, value in self.tensors.items() if not self.layout.holds(name)}

    def _misfit(self, missing: Sequence[str], surplus: Sequence[str], other_shape: Sequence[str]) -> str:
        name = self.backbone.get("model", self.backbone["name"])
        lines = [f"{self.source} holds {self.found.description}, and does not fit {name} with {self.head['name']}:"]
        for what, names in (("missing", missing), ("left over", surplus), ("of another shape", other_shape)):
            if names:
                more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"  {len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
        return "\n".join([*lines, "If the file is of another network, say of which: backbone=NAME"])


def load_published(
    source: str | Path | Mapping[str, Any],
    num_classes: int | None = None,
    *,
    backbone: str | None = None,
    image_size: int = 448,
    label_embeddings: LabelEmbeddings | None = None,
    key: str | None = None,
) -> Classifier:
    """The classifier of a published file, in evaluation, on the CPU.

    Args:
        source: a .pth, .pt or .safetensors file, or what such a file holds: a state dict, bare or under `model` or
            `state_dict`.
        num_classes: N, if the file is to be refused unless it has so many.
        backbone: the name of the backbone, ours or timm's, where the file's names do not tell.
        image_size: side of the images that it will see.
        label_embeddings: for a head that knows labels by their embeddings, the vectors of the labels to ask for; no file holds them.
        key: the entry of the file that holds the state dict; None: `model` or `state_dict`.

    Raises:
        CheckpointError: the file is not there or no such file, or a tensor is missing, left over or of another shape.
        ConfigError: there is no such backbone, or images of that size do not fit it.
    """
    published = read_published(source, num_classes, backbone=backbone, key=key)
    if published.num_classes is None and label_embeddings is None:
        raise CheckpointError(
            f"{published.source} has a head that knows labels by embeddings, which are not in the file; give "
            f"them as label_embeddings=LabelEmbeddings(…), {published.embedding_width} numbers per label"
        )
    classifier = build_within(
        lambda: _build(published, image_size, label_embeddings), published.tensors, published.source
    )
    published.load_into(classifier)
    return classifier.eval()


def _build(published: Published, image_size: int, label_embeddings: LabelEmbeddings | None) -> Classifier:
    component = BACKBONES[published.backbone["name"]]
    body: Backbone = component.build(component.config_class(**published.backbone), image_size=image_size)
    settings = {name: value for name, value in published.head.items() if name not in ("name", "label_embeddings")}
    head: nn.Module
    if published.num_classes is None and label_embeddings is not None:
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
) -> Published:
    """What a published file holds; arguments and errors as in `load_published`."""
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_file(source)
    if isinstance(content, Mapping) and all(entry in content for entry in OURS):
        raise CheckpointError(f"{name} is a checkpoint of mldec itself and needs no import; use it as run={name}")
    entry, tensors = find_tensors(content, name, key)
    others = [str(k) for k, v in content.items() if k != entry and isinstance(v, Mapping) and _has_tensors(v)]
    tensors = unwrapped(tensors)
    layout = find_head(tensors, name)
    head, outputs, embedding_width = head_settings(layout, tensors, name)
    if num_classes is not None and outputs is not None and num_classes != outputs:
        raise CheckpointError(f"{name} has outputs for {outputs} classes, not for num_classes={num_classes}")
    found = find_backbone({name: value for name, value in tensors.items() if not layout.holds(name)})
    return Published(
        source=name,
        entry=entry,
        others=tuple(others) if entry else (),
        layout=layout,
        backbone=_choose_backbone(found, backbone, name, layout),
        head=head,
        num_classes=outputs,
        embedding_width=embedding_width,
        idx_to_class=content.get("idx_to_class"),
        tensors=tensors,
        found=found,
    )


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    """Whether it looks like a state dict. An optimizer's state has tensors deeper only."""
    return any(isinstance(value, Tensor) for value in content.values())


def _choose_backbone(found: FoundBackbone, typed: str | None, source: str, layout: HeadLayout) -> dict[str, Any]:
    """Settings of the config group `backbone`: what the file says, confirmed or replaced by what was typed."""
    settings = found.settings
    if typed is not None:
        typed = TIMM_NAMES.get(typed, typed)
        if found.certain and settings is not None and settings != {"name": typed}:
            raise CheckpointError(
                f"backbone={typed}: {source} holds {found.description}, which is {_described(settings)}; leave backbone= out"
            )
        if settings is None or settings["name"] != typed:
            settings = _named(typed)
    if settings is None:
        known = ", ".join([*VARIANTS, *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152))])
        raise CheckpointError(
            f"{source} holds {found.description}, which is none of {known}; say which network it is: backbone=NAME, any timm "
            "model"
        )
    name = settings.get("model", settings["name"])
    if layout.kind == "pooling" and not name.startswith(("tresnet", "resnet")):
        raise CheckpointError(
            f"{source}: the linear layer of {name} may follow more than average pooling; only TResNets and ResNets "
            "are taken over with it"
        )
    # The authors' networks take pixels within 0..1; timm's and torchvision's ResNets those of ImageNet's statistics.
    unit = name.startswith("tresnet") or not timm.is_model(name)
    return {**settings, "normalize": "unit" if unit else "backbone"}


def _named(name: str) -> dict[str, Any]:
    if name in BACKBONES and name != "timm":
        return {"name": name}
    if timm.is_model(name):
        return {"name": "timm", "model": name}
    raise ConfigError(f"backbone={name}: no such backbone; {suggest(name, BACKBONES.names())}; or any timm model")


def _described(settings: Mapping[str, str]) -> str:
    return f"timm's {settings['model']}" if "model" in settings else settings["name"]
