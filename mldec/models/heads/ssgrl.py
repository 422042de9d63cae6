"""SSGRL: one attended feature for each label, which the labels then exchange over a graph.

Chen et al., "Learning Semantic-Specific Graph Representation for Multi-Label Image Recognition", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import Count, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.label_graph import LabelGraphConfig, LabelGraphHead, label_probabilities
from mldec.models.heads.maps import Weighting
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.tokens import Tokens
from mldec.registry import HEADS

POOLED_FROM = 14  # rows and columns of tokens from which 2 x 2 of them are averaged first


class SSGRL(LabelGraphHead):
    """Logits (B, N) of tokens (B, T, C) in three steps.

    1. Semantic decoupling: f_n = sum_t alpha_nt x_t with alpha_n = softmax_t(w_a . u_nt + b_a) and
       u_nt = W3 tanh(W1 x_t * W2 v_n) + b3, where v_n are label embeddings, as they are.
    2. A gated graph network of `steps` steps over the labels, starting with h = f; see `_step`.
    3. logit_n = w_n . tanh(Wo [h_n ; f_n] + bo) + b_n.

    Maps of 14 x 14 tokens and more are averaged over 2 x 2 tokens first, as published.

    Args:
        cooccurrence: (N, N) counts of the training images; None for a network that a checkpoint is loaded into.
        hidden: width of the semantic decoupling.
        output_dim: width of the last layer before the logits.
        published: the reset gate uses the weights of the update gate, an error of the published code.
        projection: width to which tokens are mapped first; None: they are read as they are.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        label_embeddings: LabelEmbeddings,
        cooccurrence: np.ndarray | None = None,
        steps: int = 3,
        hidden: int = 1024,
        output_dim: int = 2048,
        published: bool = False,
        projection: int | None = None,
    ) -> None:
        super().__init__(in_features, label_embeddings, label_probabilities(cooccurrence, num_classes), projection)
        self.steps, self.published = steps, published
        width = self.projection.out_features
        self.token_map = nn.Linear(width, hidden, bias=False)  # W1
        self.label_map = nn.Linear(label_embeddings.width, hidden, bias=False)  # W2
        self.joint_map = nn.Linear(hidden, hidden)  # W3
        self.attention = nn.Linear(hidden, 1)
        self.update_in, self.reset_in, self.state_in = (nn.Linear(2 * width, width) for _ in range(3))
        self.update_own, self.reset_own, self.state_own = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(2 * width, output_dim)
        self.weight = nn.Parameter(torch.empty(num_classes, output_dim).uniform_(-1, 1) * output_dim**-0.5)
        self.bias = nn.Parameter(torch.empty(num_classes).uniform_(-1, 1) * output_dim**-0.5)
        if published:
            self.reset_own.requires_grad_(False)  # part of checkpoints, but never used

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        features_BNC, _, _ = self._decouple(tokens)
        outputs_BNO = self._outputs(features_BNC)
        with full_precision(outputs_BNO):
            return (outputs_BNO.to(self.weight.dtype) * self.weight).sum(dim=2) + self.bias

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """(B, N, T): the attention of each label; or what each token adds to its logit through f_n in step 3, with the
        graph's state and the slope of the tanh fixed."""
        features_BNC, attention_BNT, values_BTC = self._decouple(tokens)
        found = attention_BNT
        if weighting == "label":
            slopes_BNO = (1 - self._outputs(features_BNC) ** 2) * self.weight
            gradients_BNC = slopes_BNO @ self.output.weight[:, features_BNC.shape[2] :]
            found = attention_BNT * (gradients_BNC @ values_BTC.transpose(1, 2))
        grid = tokens.grid if isinstance(tokens, Tokens) else None
        if not _is_pooled(grid):
            return found
        assert grid is not None
        height, width = grid  # each of 2 x 2 tokens has a quarter; an odd last row or column has none
        spread = F.interpolate(found.unflatten(2, (height // 2, width // 2)) / 4, scale_factor=2)
        return F.pad(spread, (0, width % 2, 0, height % 2)).flatten(2)

    def _decouple(self, tokens: Tokens | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, N, C), their attention (B, N, T) and the tokens (B, T, C), after pooling."""
        values_BTC, grid, _ = self.projection(tokens)
        if _is_pooled(grid):
            assert grid is not None
            values_BTC = F.avg_pool2d(values_BTC.transpose(1, 2).unflatten(2, grid), 2).flatten(2).transpose(1, 2)
        joint_BTNd = torch.tanh(self.token_map(values_BTC)[:, :, None] * self.label_map(self.vectors))
        # Nothing nonlinear lies between the last two maps: together they are one.
        direction_d = self.attention.weight[0] @ self.joint_map.weight
        offset = self.attention.weight[0] @ self.joint_map.bias + self.attention.bias
        attention_BNT = (joint_BTNd @ direction_d + offset).softmax(dim=1).transpose(1, 2)
        return attention_BNT @ values_BTC, attention_BNT, values_BTC

    def _outputs(self, features_BNC: Tensor) -> Tensor:
        """(B, N, output_dim): steps 2 and 3 without the last product."""
        state_BNC = features_BNC
        for _ in range(self.steps):
            state_BNC = self._step(state_BNC)
        return torch.tanh(self.output(torch.cat([state_BNC, features_BNC], dim=2)))

    def _step(self, state: Tensor) -> Tensor:
        """z = sigmoid(W3 a + U3 h), r = sigmoid(W4 a + U4 h), c = tanh(W5 a + U5 (r * h)), then (1 - z) h + z c, where
        a = [A h ; A^T h]. All maps have biases."""
        received = torch.cat([self.adjacency @ state, self.adjacency.T @ state], dim=2)
        update = torch.sigmoid(self.update_in(received) + self.update_own(state))
        own = self.update_own if self.published else self.reset_own
        reset = torch.sigmoid(self.reset_in(received) + own(state))
        candidate = torch.tanh(self.state_in(received) + self.state_own(reset * state))
        return (1 - update) * state + update * candidate


def _is_pooled(grid: tuple[int, int] | None) -> bool:
    return grid is not None and min(grid) >= POOLED_FROM


@dataclass(frozen=True, kw_only=True)
class SSGRLConfig(LabelGraphConfig):
    """Settings of `head=ssgrl`; the defaults are the published ones."""

    steps: Count = 3  # of the graph network
    hidden: Count = 1024  # width of the semantic decoupling
    output_dim: Count = 2048  # width of the last layer before the logits
    published: bool = False  # with the published error: the reset gate uses weights of the update gate
    projection: Count | None = None  # width to which tokens are mapped first (linear, ReLU); null: as they are


@HEADS.register("ssgrl", SSGRLConfig)
def build_ssgrl(
    config: SSGRLConfig,
    *,
    in_features: int,
    labels: LabelSpace,
    label_embeddings: LabelEmbeddings,
    cooccurrence: np.ndarray | None = None,
) -> SSGRL:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return SSGRL(in_features, len(labels), label_embeddings, cooccurrence, **settings)
