"""C-Tran: a transformer encoder over the tokens and one embedding for each label, which may be known already.

Lanchantin et al., "General Multi-Label Image Classification with Transformers", CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, Fraction, Share, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.layers import EncoderLayer
from mldec.models.heads.maps import Weighting, layer_maps
from mldec.models.heads.projection import TokenProjection
from mldec.models.tokens import Tokens
from mldec.registry import HEADS


class CTran(nn.Module):
    """Logits (B, N): the N label embeddings, each plus that of its state (unknown, absent or present), pass through an
    encoder together with the tokens (B, T, C); then logit_n = w_n . e_n + b_n.

    Args:
        num_heads, num_layers, dropout: of the encoder, whose width D is that of the tokens.
        ffn_dim: width inside its feed-forward layers; None: D, as published.
        label_masks: label-mask training: the states of some labels are told, and only the others are learned. False:
            labels have no state, and none can be told.
        known_share: at most this share of the labels is told in training, `draw_known`.
        published: the unknown state is a random vector that is never trained, instead of 0.
        projection: width to which tokens are mapped first; None: they are read as they are.

    Raises:
        ValueError: D is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_heads: int = 4,
        num_layers: int = 3,
        ffn_dim: int | None = None,
        dropout: float = 0.1,
        label_masks: bool = True,
        known_share: float = 0.75,
        published: bool = False,
        projection: int | None = None,
    ) -> None:
        super().__init__()
        self.known_share, self.reads_known_labels = known_share, label_masks
        self.projection = TokenProjection(in_features, projection)
        dim = self.projection.out_features
        self.labels = nn.Embedding(num_classes, dim)
        self.states = nn.Embedding(3, dim, padding_idx=0) if label_masks else None  # unknown, absent, present
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, ffn_dim or dim, dropout) for _ in range(num_layers))
        self.fc = nn.Linear(dim, num_classes)
        self.apply(_initialise)
        if self.states is not None and not published:
            nn.init.zeros_(self.states.weight[0])

    def forward(self, tokens: Tokens | Tensor, known: Tensor | None = None) -> Tensor:
        """`known` (B or 1, N): 1 present, 0 absent, -1 unknown; None: nothing is known.

        Raises ValueError if labels are known and the head has no states.
        """
        sequence = self._embed(tokens, known)
        for layer in self.layers:
            sequence = layer(sequence)
        embeddings_BND = sequence[:, -self.fc.out_features :]
        with full_precision(embeddings_BND):
            return (embeddings_BND.to(self.fc.weight.dtype) * self.fc.weight).sum(dim=2) + self.fc.bias

    def draw_known(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        """(B, N) int8: the targets of some labels, -1 for all others, which are to be learned.

        For each image the number of labels is drawn evenly from 0 to `known_share` * N, rounded down, and then which;
        labels with an unknown target stay unknown.
        """
        images, num_classes = targets.shape
        counts = torch.randint(int(self.known_share * num_classes) + 1, (images, 1), generator=generator)
        order = torch.rand(images, num_classes, generator=generator).argsort(dim=1).argsort(dim=1)
        return torch.where((order < counts).to(targets.device), targets, -1).to(torch.int8)

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label", known: Tensor | None = None) -> Tensor:
        """(B, N, T): as for decoders, see `heads/maps.py`; what other labels contribute is left out.

        `known`: as in `forward`.
        """
        sequence = self._embed(tokens, known)
        for layer in self.layers[:-1]:
            sequence = layer(sequence)
        last, num_classes = cast(Any, self.layers[-1]), self.fc.out_features
        parts = {"linear1": last.linear1, "linear2": last.linear2, "norm2": last.norm1, "norm3": last.norm2}
        decoder = SimpleNamespace(multihead_attn=last.self_attn, **parts)
        every = torch.arange(num_classes, device=sequence.device)
        queries = sequence[:, -num_classes:]
        found = layer_maps(cast(Any, decoder), queries, sequence, None, every, self.fc.weight, weighting)
        return found[:, :, :-num_classes]

    def _embed(self, tokens: Tokens | Tensor, known: Tensor | None) -> Tensor:
        """The sequence (B, T + N, D): tokens, then labels."""
        values_BTD = self.projection(tokens).values
        labels_BND = self.labels.weight.expand(values_BTD.shape[0], -1, -1)
        if self.states is not None:
            states = torch.zeros_like(labels_BND[:, :, 0], dtype=torch.int64) if known is None else known.long() + 1
            labels_BND = labels_BND + self.states(states)
        elif known is not None:
            raise ValueError("the head was trained with label_masks=false: it cannot be told known labels")
        return self.norm(torch.cat([values_BTD, labels_BND.to(values_BTD.dtype)], dim=1))


def _initialise(module: nn.Module) -> None:
    """Uniform within 1 / sqrt(number of inputs): linear and embedding weights, and biases, as published."""
    if isinstance(module, nn.Linear | nn.Embedding):
        bound = module.weight.shape[1] ** -0.5
        nn.init.uniform_(module.weight, -bound, bound)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.uniform_(module.bias, -bound, bound)


@dataclass(frozen=True, kw_only=True)
class CTranConfig(ComponentConfig):
    """Settings of `head=c_tran`; the defaults are the published ones."""

    num_heads: Count = 4  # of each attention
    num_layers: Count = 3  # encoder layers over tokens and labels
    ffn_dim: Count | None = None  # width inside the feed-forward layers; null: that of the tokens
    dropout: Share = 0.1  # of attention and feed-forward
    label_masks: bool = True  # training tells some labels of each image; prediction can then be told known ones
    known_share: Fraction = 0.75  # at most this share of the labels is told in training
    published: bool = False  # as published, the unknown state is a random vector that is never trained, not 0
    projection: Count | None = None  # width to which tokens are mapped first (linear, ReLU); null: as they are


@HEADS.register("c_tran", CTranConfig)
def build_c_tran(config: CTranConfig, *, in_features: int, labels: LabelSpace) -> CTran:
    return CTran(in_features, len(labels), **arguments_of(config))
