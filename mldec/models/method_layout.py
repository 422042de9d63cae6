"""How a checkpoint of another method becomes one of ours: names, shapes, and the settings that follow from them.

The methods themselves are in `published_methods`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mldec.errors import CheckpointError
from mldec.labels import LabelSpace
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig
from mldec.registry import HEADS

HEAD = "head."  # before the names of the head's tensors
SHOWN = 10  # tensors that an error lists

Tensors = Mapping[str, Tensor]


def _squeezed(tensor: Tensor) -> Tensor:
    """Without the trailing axes of length 1 that kernels of 1 x 1 convolutions have."""
    while tensor.dim() > 2 and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor


def _unmerged(found: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    return found


@dataclass(frozen=True)
class Method:
    """A published layout.

    Attributes:
        head: our name of the method.
        title: its own name, for messages.
        answer: how it scores the labels, for messages, with its settings, `count` of labels and `width` of embeddings.
        mark: a name that is found in its files only, a regular expression.
        rules: (regular expression of the whole name, ours); "" leaves the tensor out.
        settings: those of the head that follow from the converted tensors, below `head.`.
        num_classes: a tensor, and its axis that is N; None for a layout that is known for comparison only.
        embeddings: a tensor, and its axis that is as wide as the label embeddings, which no file has; None: no need.
        assumed: settings of the head that logits depend on and no file shows: those of its code, unless they are set.
        training: settings of the head that only training depends on.
        not_in_file: tensors of our head that the file lacks: they are made from the co-occurrence of labels.
        unit: images enter with values from 0 to 1, without mean and standard deviation.
        fit: a tensor of the head in our shape; by default without the axes of 1 x 1 convolutions.
        merge: all tensors as ours, where several become one or shapes differ otherwise.
        spare: tensors of the file that our head lacks with some of the settings that are assumed.
        positions: a tensor that is left out: sine positions (1, D, height, width) of the tokens, which show the images'
            size.
        identities: tensors that are left out and must be the identity, since logits would depend on any other.
    """

    head: str
    title: str
    mark: str
    rules: tuple[tuple[str, str], ...]
    settings: Callable[[Tensors], dict[str, Any]]
    num_classes: tuple[str, int] | None
    answer: str = ""
    embeddings: tuple[str, int] | None = None
    assumed: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    not_in_file: tuple[str, ...] = ()
    unit: bool = False
    fit: Callable[[Tensor], Tensor] = _squeezed
    merge: Callable[[dict[str, Tensor], str], dict[str, Tensor]] = _unmerged
    spare: tuple[str, ...] = ()
    positions: str = ""
    identities: tuple[str, ...] = ()

    def build(
        self,
        in_features: int,
        num_classes: int,
        settings: Mapping[str, Any],
        label_embeddings: LabelEmbeddings | None,
        cooccurrence: np.ndarray | None,
    ) -> nn.Module:
        """The head with the settings of a file; labels are numbered where no label embeddings name them."""
        component, more, extra = HEADS[self.head], {}, {}
        names = [str(number) for number in range(num_classes)]
        if label_embeddings is not None and self.embeddings is not None:
            names = list(label_embeddings.names[:num_classes])
            more["label_embeddings"] = LabelEmbeddingsConfig(source=label_embeddings.source)
            extra = {"label_embeddings": label_embeddings, "cooccurrence": cooccurrence}
        config = component.config_class(name=self.head, **settings, **more)
        head: nn.Module = component.build(config, in_features=in_features, labels=LabelSpace(names), **extra)
        return head


def converted(method: Method, tensors: Tensors, source: str = "the state dict") -> dict[str, Tensor]:
    """The tensors under our names. Names that no rule knows stay as they are.

    Raises CheckpointError if a tensor of several that become one is missing, two have one name of ours, a tensor of the
    head has no values, or one that is left out has values that logits would depend on.
    """
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = next((re.sub(rule, to, name) for rule, to in method.rules if re.fullmatch(rule, name)), name)
        if new in origin:
            raise CheckpointError(f"{source}: its tensors {origin[new]} and {name} are the same part of {method.title}")
        if name in method.identities and not _is_identity(tensor):
            raise CheckpointError(
                f"{source}: {name} of shape {tuple(tensor.shape)} is not the identity, which {method.title}'s code "
                "needs; this network cannot be imported"
            )
        if not new:
            continue
        origin[new], found[new] = name, tensor
        if new.startswith(HEAD):
            if not tensor.numel():
                raise CheckpointError(f"{source}: {name} has shape {tuple(tensor.shape)}, which holds no values")
            found[new] = method.fit(tensor)
    return method.merge(found, source)


def method_settings(method: Method, tensors: Tensors, source: str) -> tuple[dict[str, Any], int, int | None]:
    """Settings of the config group `head`, N, and the width of the label embeddings, if the head needs some.

    Raises CheckpointError if a tensor that they follow from is missing, or has too few dimensions.
    """
    head = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
    assert method.num_classes is not None
    try:
        settings = {"name": method.head, **method.settings(head)}
        width = None if method.embeddings is None else head[method.embeddings[0]].shape[method.embeddings[1]]
        return settings, head[method.num_classes[0]].shape[method.num_classes[1]], width
    except KeyError as error:
        raise CheckpointError(f"{source}: looks like {method.head}, but has no tensor for its {error}") from None
    except (IndexError, TypeError):
        flat = [f"{name}: {tuple(tensor.shape)}" for name, tensor in head.items() if tensor.dim() < 2]
        raise CheckpointError(
            f"{source}: looks like {method.head}, but a tensor that shows its sizes has too few dimensions; those of "
            f"the head with fewer than 2: {', '.join(flat[:SHOWN])}"
        ) from None


def _is_identity(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and torch.equal(tensor, torch.eye(*tensor.shape).to(tensor))
