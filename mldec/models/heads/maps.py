"""Maps of the evidence for each label: one map over the tokens of an image per label.

Every head that supports it has `maps(tokens, weighting) -> (B, n, T)`, labels in the order of its logits:

* "attention": the attention of the label's query in the last layer, A, averaged over its heads. A distribution over the
  tokens. Labels of one group share a query and therefore this map.
* "label": the contribution of each token to the label's logit, positive or negative. Each label of a group has its own
  map.

The contributions of a decoder. In its last layer tokens affect the logit of label n through their values only: the
query q of the label attends to a = (sum_t A_hqt v_ht, concatenated over the heads h). All that follows (output
projection, norms, feed-forward, output weights w_n) is affine in a once the scale 1 / sigma of each norm and the
active units of the ReLU are fixed at their values for this image. So

    z_n = r_n + sum_t c_nt,    c_nt = sum_h A_hqt <g_nh, v_ht>,

where g_n is w_n propagated back through those maps, and r_n is the result of the query and the biases without any
token. c_nt is thus exactly what the logit loses without the value of token t, with attention, scales and active units
fixed. The gradient of z_n with respect to a is no substitute: the output of a norm does not change with the length of
its input, so gradient times input sums to nearly 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mldec.models.heads.layers import DecoderLayer, with_position

Weighting = Literal["label", "attention"]


def maximum_shares(values_BTC: Tensor) -> Tensor:
    """(B, T, C): the largest value of a channel over the tokens, at the first token that has it; 0 elsewhere."""
    largest_B1C, first_B1C = values_BTC.max(dim=1, keepdim=True)
    return torch.zeros_like(values_BTC).scatter_(1, first_B1C, largest_B1C)


def layer_maps(
    layer: DecoderLayer,
    queries_BQD: Tensor,
    memory_BTD: Tensor,
    position_TD: Tensor | None,
    query_of_labels: Tensor,
    weights_nD: Tensor,
    weighting: Weighting,
    norm: nn.Module | None = None,
    query_position_BQD: Tensor | None = None,
) -> Tensor:
    """(B, n, T): maps of the last layer of a decoder, see above.

    Args:
        queries_BQD: the input of the cross-attention block; of batch size 1 where all images share it.
        query_of_labels: (n,) the query that predicts each label.
        weights_nD: the output weights of each label.
        norm: the layer norm after the last layer, if there is one.
        query_position_BQD: added to the queries of the attention only; None: nothing is added.
    """
    attention = layer.multihead_attn
    placed_BQD = with_position(queries_BQD, query_position_BQD)
    weights_BhQT = attention.weights(placed_BQD, with_position(memory_BTD, position_TD))
    if weighting == "attention":
        return weights_BhQT.mean(dim=1)[:, query_of_labels]
    values_BhTd = attention.values(memory_BTD)
    attended = queries_BQD + attention.out_proj((weights_BhQT @ values_BhTd).transpose(1, 2).flatten(2))
    fed = layer.norm2(attended)
    hidden = layer.linear1(fed)
    final = fed + layer.linear2(hidden.relu())
    # Back from the output weights, each step the transpose of one above.
    g = weights_nD.to(final.dtype)
    if isinstance(norm, nn.LayerNorm):
        g = _through_norm(norm, layer.norm3(final)[:, query_of_labels], g)
    g = _through_norm(layer.norm3, final[:, query_of_labels], g)
    active = hidden[:, query_of_labels] > 0
    g = g + ((g @ layer.linear2.weight) * active) @ layer.linear1.weight
    g = _through_norm(layer.norm2, attended[:, query_of_labels], g) @ attention.out_proj.weight
    g_Bhnd = g.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    return (weights_BhQT[:, :, query_of_labels] * (g_Bhnd @ values_BhTd.transpose(2, 3))).sum(dim=1)


def _through_norm(norm: nn.LayerNorm, x_BnD: Tensor, g: Tensor) -> Tensor:
    """`g` propagated back through `norm`, its scale fixed at that of `x`; the mean is subtracted, which is linear."""
    sigma = (x_BnD.var(dim=2, keepdim=True, unbiased=False) + norm.eps).sqrt()
    scaled = g * norm.weight / sigma
    return scaled - scaled.mean(dim=2, keepdim=True)
