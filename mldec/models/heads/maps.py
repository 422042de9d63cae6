"""Where in an image a head found what it says of a label: one map over the tokens for each label.

Every head that can be asked has `maps(tokens, weighting) -> (B, n, T)`, labels in the order of its logits:

* "attention": the attention of the label's query in the last layer, A, averaged over its heads. A distribution over the
  tokens. Labels of one group share a query, and so this map.
* "label": what each token contributes to the label's logit, in logits, positive or negative. Labels of one group have
  maps of their own.

The contributions of a decoder. In its last layer tokens reach the logit of label n by their values alone: the query q
of the label takes up a = (sum_t A_hqt v_ht, one head h after the other). All that follows (output projection, norms,
feed-forward, output weights w_n) is linear in a, up to a constant, once the scale 1 / sigma of each norm and the open
gates of the ReLU are held at what they are for this image. So

    z_n = r_n + sum_t c_nt,    c_nt = sum_h A_hqt <g_nh, v_ht>,

where g_n is w_n taken back through those maps, and r_n what the query and the biases give without any token. c_nt is
thus exactly what the logit loses without the value of token t, attention, scales and gates held. The gradient of z_n by
a would not do: a norm's output does not change with the length of its input, so gradient times input sums to nearly 0.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor, nn

from mldec.models.heads.layers import MultiHeadAttention, with_position

Weighting = Literal["label", "attention"]


class AttentionLayer(Protocol):
    """A post-norm decoder layer from its cross-attention on."""

    multihead_attn: MultiHeadAttention
    norm2: nn.LayerNorm
    linear1: nn.Linear
    linear2: nn.Linear
    norm3: nn.LayerNorm


def layer_maps(
    layer: AttentionLayer,
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
        queries_BQD: what cross-attention is added to; of batch size 1 where all images share them.
        query_of_labels: (n,) the query that answers for each label.
        weights_nD: the output weights of each label.
        norm: the layer norm after the last layer, if there is one.
        query_position_BQD: added to the queries where they ask; None: nothing is.
    """
    attention = layer.multihead_attn
    asking = queries_BQD if query_position_BQD is None else queries_BQD + query_position_BQD
    weights_BhQT = attention.weights(asking, with_position(memory_BTD, position_TD))
    if weighting == "attention":
        return weights_BhQT.mean(dim=1)[:, query_of_labels]
    values_BhTd = attention.values(memory_BTD)
    taken_up = attention.out_proj((weights_BhQT @ values_BhTd).transpose(1, 2).flatten(2))
    attended = queries_BQD + taken_up
    fed = layer.norm2(attended)
    hidden = layer.linear1(fed)
    final = fed + layer.linear2(hidden.relu())
    # Back from the output weights, each step the transpose of one above.
    g = weights_nD.to(final.dtype)
    if isinstance(norm, nn.LayerNorm):
        g = _through_norm(norm, layer.norm3(final)[:, query_of_labels], g)
    g = _through_norm(layer.norm3, final[:, query_of_labels], g)
    open_gates = hidden[:, query_of_labels] > 0
    g = g + ((g @ layer.linear2.weight) * open_gates) @ layer.linear1.weight
    g = _through_norm(layer.norm2, attended[:, query_of_labels], g) @ attention.out_proj.weight
    g_Bhnd = g.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    return (weights_BhQT[:, :, query_of_labels] * (g_Bhnd @ values_BhTd.transpose(2, 3))).sum(dim=1)


def _through_norm(norm: nn.LayerNorm, x_BnD: Tensor, g: Tensor) -> Tensor:
    """`g` by the input of `norm`, its scale held at that of `x`: the mean is still taken off, which is linear."""
    sigma = (x_BnD.var(dim=2, keepdim=True, unbiased=False) + norm.eps).sqrt()
    scaled = g * norm.weight / sigma
    return scaled - scaled.mean(dim=2, keepdim=True)
