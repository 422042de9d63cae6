"""BiAM (Narayan et al. 2021, arXiv:2108.09301), discriminative region-based attention by two branches.

Written from the equations of the authors' code. It needs tokens with a grid, for its convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import Count, Fraction, Share, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.embedding_head import EmbeddingHead, EmbeddingHeadConfig
from mldec.models.heads.kernels import Dropout, attention, full_precision
from mldec.models.heads.layers import batch_norm
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import GroupedLabels, Normalize
from mldec.models.tokens import Tokens, token_map, token_values
from mldec.registry import HEADS

SLOPE = 0.2  # of the leaky ReLUs


class ConvNorm(nn.Module):
    """norm(relu(conv x)) with a 3 x 3 convolution: the norm comes last, as published."""

    def __init__(self, features: int, dim: int, norm_momentum: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, dim, 3, padding=1)
        self.norm = nn.BatchNorm2d(dim, eps=1e-3, momentum=norm_momentum)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = batch_norm(self.norm, F.relu(self.conv(x)))
        return out


class RegionContext(nn.Module):
    """e_r = o + W_2 relu(W_1 o), o = h + MultiHead(h, h, h): self-attention among the places, without norms.

    The published code hides places whose attention score is exactly 0 from the softmax; here they count as any other.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} does not divide into num_heads={num_heads} heads; choose a multiple")
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Conv2d(dim, dim, 1) for _ in range(4))
        self.linear1, self.linear2 = nn.Conv2d(dim, 2 * dim, 1), nn.Conv2d(2 * dim, dim, 1)
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """(B, c, H, W) to (B, c, H, W)."""
        parts = (linear(h).flatten(2) for linear in (self.query, self.key, self.value))
        q_BhTd, k_BhTd, v_BhTd = (part.unflatten(1, (self.num_heads, -1)).transpose(2, 3) for part in parts)
        heads_BhTd = attention(q_BhTd, k_BhTd, v_BhTd, self.dropout.p if self.training else 0.0)
        attended = heads_BhTd.transpose(2, 3).flatten(1, 2).unflatten(2, h.shape[2:]).to(h.dtype)
        out = self.dropout(self.output(attended)) + h
        refined: Tensor = self.linear2(F.relu(self.linear1(out))) + out
        return refined


class SceneContext(nn.Module):
    """e_g = c_g + norm(relu(conv c_g)), c_g = gamma s, gamma = sigmoid(mean over places of s * W_g x_g).

    s = leaky_relu(W_c h); x_g (B, scene_features) describes the whole image; gamma is one factor per channel.
    """

    def __init__(self, dim: int, scene_features: int, dropout: float, norm_momentum: float) -> None:
        super().__init__()
        self.gate = nn.Conv2d(scene_features, dim, 1)
        self.channels = nn.Conv2d(dim, dim, 1)
        self.conv = ConvNorm(dim, dim, norm_momentum)
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor, scene: Tensor) -> Tensor:
        """(B, c, H, W) and (B, scene_features) to (B, c, H, W)."""
        s = F.leaky_relu(self.channels(h), SLOPE)
        gate = self.gate(self.dropout(scene)[:, :, None, None])
        gated = torch.sigmoid(s.mean(dim=(2, 3), keepdim=True) * gate) * s
        out: Tensor = gated + self.conv(gated)
        return out


class BiAM(EmbeddingHead):
    """logit_n = mean over the k highest of T places of E_t . (W v_n + b), where E joins regions with the scene.

        h = norm(relu(conv3x3 X)),   E = leaky_relu(W_j [e_r ; e_g])

    with e_r and e_g of `RegionContext` and `SceneContext`.

    Args:
        dim: c, a multiple of `num_heads`; published 256.
        num_heads: of the attention; published 8, and 16 for Open Images.
        out_dim: width of E; published 512.
        top_k: k; None: the published share, 6 of 196 places, but at least one.
        dropout: of the attention and of its output.
        scene_dropout: of the scene vector.
        norm_momentum: share of the last batch in the running statistics of the norms. Published is 0.99, meant as
            TensorFlow's, with which they are nearly those of the last batch.
        scene_features: width of the vector `scene` that `forward` then takes: the published 4096 of VGG's fc7. None:
            the scene is the mean token.
        Others: of `EmbeddingHead`.

    Raises:
        ValueError: `dim` is no multiple of `num_heads`; in `forward`, tokens without a grid or with fewer than k
            places, or a scene that is missing or not expected.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        out_dim: int = 512,
        top_k: int | None = None,
        dropout: float = 0.1,
        scene_dropout: float = 0.2,
        norm_momentum: float = 0.1,
        *,
        label_embeddings: LabelEmbeddings,
        normalize: Normalize = "unit",
        projection: int | None = None,
        scene_features: int | None = None,
    ) -> None:
        super().__init__(
            in_features, num_classes, label_embeddings=label_embeddings, normalize=normalize, projection=projection
        )
        self.top_k, self.scene_features = top_k, scene_features
        self.input_conv = ConvNorm(self.features, dim, norm_momentum)
        self.region = RegionContext(dim, num_heads, dropout)
        self.scene = SceneContext(dim, scene_features or self.features, scene_dropout, norm_momentum)
        self.labels = nn.Linear(label_embeddings.width, out_dim)
        self.fit_to_length(self.labels.weight)
        self.join = nn.Conv2d(2 * dim, out_dim, 1)

    def forward(
        self, tokens: Tokens | Tensor, query_labels: GroupedLabels | None = None, scene: Tensor | None = None
    ) -> Tensor:
        """Logits (B, n) of the labels that `vocabulary` holds, or of `query_labels`.

        Args:
            scene: (B, scene_features), if the head was built with that width.
        """
        return self._highest(self.projection(tokens), self.label_vectors(query_labels), scene)[0].mean(dim=1)

    def scores(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        return self._highest(tokens, vectors_nW, None)[0].mean(dim=1)

    def contributions(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): E_t . (W v_n + b) / k at the k highest places, 0 elsewhere; their sum is the logit."""
        highest_Bkn, places_Bkn, num_places = self._highest(tokens, vectors_nW, None)
        batch, k, n = highest_Bkn.shape
        empty_BTn = highest_Bkn.new_zeros(batch, num_places, n)
        return empty_BTn.scatter_(1, places_Bkn, highest_Bkn / k).transpose(1, 2)

    def _highest(self, tokens: Tokens, vectors_nW: Tensor, scene: Tensor | None) -> tuple[Tensor, Tensor, int]:
        """The k highest of the logits of single places, their places, (B, k, n) each, and T."""
        if (scene is None) != (self.scene_features is None):
            raise ValueError("BiAM takes scene (B, scene_features) if it was built with scene_features, and only then")
        h = self.input_conv(token_map(tokens, "BiAM"))
        if scene is None:
            scene = token_values(tokens).mean(dim=1)
        joined = F.leaky_relu(self.join(torch.cat([self.region(h), self.scene(h, scene)], dim=1)), SLOPE)
        dtype = self.labels.weight.dtype
        with full_precision(joined):
            labels_nE = self.labels(vectors_nW.to(dtype))
            single_BTn = joined.to(dtype).flatten(2).transpose(1, 2) @ labels_nE.T
        num_places = single_BTn.shape[1]
        k = self.top_k or max(1, round(6 * num_places / 196))
        if k > num_places:
            raise ValueError(f"top_k={k}: the tokens have {num_places} places; use at most that many")
        return *single_BTn.topk(k, dim=1), num_places


@dataclass(frozen=True, kw_only=True)
class BiAMConfig(EmbeddingHeadConfig):
    """Settings of `head=biam`; the defaults are those of the published code for NUS-WIDE."""

    dim: Count = 256  # c, width of regions and scene; a multiple of num_heads
    num_heads: Count = 8  # of the attention among the places
    out_dim: Count = 512  # width in which places and labels are compared
    top_k: Count | None = None  # places whose logits are averaged, the highest; null: 6 of 196, at least one
    dropout: Share = 0.1  # of the attention and of its output
    scene_dropout: Share = 0.2  # of the mean token, which describes the scene
    norm_momentum: Fraction = 0.1  # share of the last batch in the batch norms' running statistics; published: 0.99

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: not a multiple of num_heads={self.num_heads}")


@HEADS.register("biam", BiAMConfig)
def build_biam(config: BiAMConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings) -> BiAM:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return BiAM(in_features, len(labels), **settings, label_embeddings=label_embeddings)
