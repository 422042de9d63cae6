"""The query labels of a zero-shot decoder as label embeddings: their groups, and their augmentation in training.

Trained labels stay in the groups in which they were trained, whatever the other query labels are; other labels form
groups of their own. So the logit of a trained label never depends on the other query labels, and with one
label-embedding query per label (full decoding) no logit does. Where groups have queries of their own, other labels are
added to them in turn, and their logits depend on their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.errors import DataError, check_choice
from mldec.labels import LabelSpace
from mldec.models.label_embeddings import LabelEmbeddings

Normalize = Literal["none", "unit", "centered"]


class GroupedLabels(NamedTuple):
    """Labels in K groups of g: n query labels (followed by the random ones of training).

    Attributes:
        vectors: (K, g, width). Entries that no label needs repeat labels of their group.
        groups: (K,) the trained group whose learned weights each group uses.
        places: (n,) the entry of each label, among the K * g.
        biases: (n,) the trained label whose learned bias each label uses.
    """

    vectors: Tensor
    groups: Tensor
    places: Tensor
    biases: Tensor


@dataclass(frozen=True)
class QueryAugment:
    """Augmentation of label embeddings in training (paper §2.3.3, Table 3); evaluation has none.

    Attributes:
        noise: standard deviation of the noise on each entry, in units of the vectors' root mean square.
        random: the number of random vectors among the query labels; their target is "present".
        cutout: share of the entries that are set to zero.
    """

    noise: float = 0.0
    random: int = 0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        if self.noise < 0 or self.random < 0 or not 0 <= self.cutout < 1:
            raise ValueError(f"{self}: noise and random are at least 0, cutout is at least 0 and below 1")


class LabelVocabulary(nn.Module):
    """The label embeddings of a decoder, and which of them are its query labels.

    Args:
        label_embeddings: the N trained labels in the order of the network's outputs, then any others.
        num_trained: N.
        num_groups: K; groups hold g = ceil(N / K) labels.
        fixed_groups: the K groups have queries of their own, so that further labels are added to them (paper Table 8,
            "learnable" queries); otherwise further labels form further groups.
        normalize: "none": unchanged. "unit": to length 1. "centered": minus the mean of the trained labels, then to
            length sqrt(width), so that an entry is about 1: similar labels ("red seven", "red two") have nearly
            parallel vectors, whose small differences matter.
        augment: of training.
        order: (N,) a permutation: the order in which labels fill the groups. None: the order of the labels.
    """

    trained: Tensor
    query: Tensor
    plain_members: Tensor
    plain_places: Tensor

    def __init__(
        self,
        label_embeddings: LabelEmbeddings,
        num_trained: int,
        num_groups: int,
        *,
        fixed_groups: bool = False,
        normalize: Normalize = "none",
        augment: QueryAugment | None = None,
        order: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_choice("normalize", normalize, get_args(Normalize))
        if len(label_embeddings.names) < num_trained:
            raise ValueError(
                f"label embeddings of {len(label_embeddings.names)} labels for {num_trained} classes: each needs one"
            )
        self.known = label_embeddings
        self.trained_names = label_embeddings.names[:num_trained]
        self.num_groups, self.group_size = num_groups, -(-num_trained // num_groups)
        self.fixed_groups, self.normalize, self.augment = fixed_groups, normalize, augment or QueryAugment()
        # Groups are computed on the CPU, also where the network is built on the meta device.
        positions = _count(num_trained)
        # The entry of each trained label, and the label of each entry of the trained groups.
        self._place_of = positions if order is None else torch.argsort(order)
        self._trained_members = _fill_groups(positions if order is None else order, self.group_size)
        # The vectors belong to the checkpoint, not to the weights: initial weights must not overwrite another file of
        # embeddings.
        vectors = label_embeddings.vectors[:num_trained].to(torch.get_default_device(), torch.get_default_dtype())
        self.register_buffer("trained", vectors, persistent=False)
        for name in ("query", *_buffers("plain"), *_buffers("with_random")):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.set_labels(self.trained_names)

    def length(self) -> float:
        """Root mean square length of the normalized vectors of the trained labels.

        Raises DataError if it is 0: initial weights are divided by it.
        """
        vectors = self.known.vectors[: len(self.trained)]
        length = float(normalized(vectors, vectors, self.normalize).square().sum(dim=1).mean().sqrt())
        if length == 0:
            raise DataError(
                f"{self.known.source}: the label embeddings of the {len(vectors)} trained labels are all equal: "
                f"normalize={self.normalize} leaves nothing of them; use normalize=unit"
            )
        return length

    def set_labels(self, names: Sequence[str], label_embeddings: LabelEmbeddings | None = None) -> None:
        """Make `names` the query labels, in that order; `label_embeddings` has vectors that were not known before.

        Raises DataError for no name, a repeated or empty one, one without a vector, and vectors of another width.
        """
        LabelSpace(names)
        known = self.known if label_embeddings is None else self.known.joined(label_embeddings)
        vectors = known.select(names).vectors
        self.known, self.names = known, tuple(names)
        self.query = vectors.to(self.trained)
        columns = {name: column for column, name in enumerate(self.trained_names)}
        own = torch.tensor([columns.get(name, -1) for name in names], device="cpu")
        for layout, num_random in (("plain", 0), ("with_random", self.augment.random)):
            for name, value in zip(_buffers(layout), self._lay_out(own, num_random), strict=True):
                setattr(self, name, value.to(self.trained.device))

    def query_of_labels(self) -> Tensor:
        """(n,) int64: the group of each query label."""
        return self.plain_places // self.plain_members.shape[1]

    def forward(self) -> GroupedLabels:
        """The query labels; in training followed by the random vectors."""
        pool = normalized(torch.cat([self.trained, self.query]), self.trained, self.normalize)
        if not self.training:
            return self._grouped(pool, "plain")
        scale = pool.square().mean().sqrt()
        if self.augment.noise:
            pool = pool + self.augment.noise * scale * torch.randn_like(pool)
        if self.augment.random:
            pool = torch.cat([pool, scale * torch.randn(self.augment.random, pool.shape[1]).to(pool)])
        if self.augment.cutout:
            pool = pool * (torch.rand_like(pool) >= self.augment.cutout)
        return self._grouped(pool, "with_random")

    def one_group_each(self, vectors: Tensor) -> GroupedLabels:
        """Labels given by their vectors (n, width) only, each in a group of its own, in that order."""
        # Not len, which would be a constant in an exported graph.
        count = torch.arange(vectors.shape[0], device=vectors.device)
        first = torch.zeros_like(count)
        return GroupedLabels(normalized(vectors, self.trained, self.normalize)[:, None], first, count, first)

    def _grouped(self, pool: Tensor, layout: str) -> GroupedLabels:
        members, groups, places, biases = (getattr(self, name) for name in _buffers(layout))
        return GroupedLabels(pool[members], groups, places, biases)

    def _lay_out(self, own: Tensor, num_random: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows of the pool (trained, query and random vectors) in groups, and the rest of `GroupedLabels`.

        own (n,) is the trained column of each query label, or -1.
        """
        num_trained, g = len(self.trained), self.group_size
        own = torch.cat([own, own.new_full((num_random,), -1)])
        is_new = own < 0
        new = num_trained + is_new.nonzero()[:, 0]
        entry = self._place_of[own[~is_new]]  # in the groups of training
        places, biases = torch.empty_like(own), torch.empty_like(own)
        if self.fixed_groups:
            members, places[is_new] = _join_groups(self._trained_members, new)
            groups = _count(len(members))
            places[~is_new] = entry // g * members.shape[1] + entry % g
        else:
            needed = (entry // g).unique()
            further = _fill_groups(new, g)
            members = torch.cat([self._trained_members[needed], further])
            groups = torch.cat([needed, _count(len(further)) % self.num_groups])
            places[~is_new] = torch.searchsorted(needed, entry // g) * g + entry % g
            places[is_new] = len(needed) * g + _count(len(new))
        biases[~is_new] = own[~is_new]
        biases[is_new] = _count(len(new)) % num_trained
        return members, groups, places, biases


def normalized(vectors: Tensor, trained: Tensor, kind: Normalize) -> Tensor:
    """Vectors (V, width) scaled as `LabelVocabulary` describes; `trained` has the vectors of the trained labels."""
    if kind == "none":
        return vectors
    if kind == "unit":
        return F.normalize(vectors, dim=1)
    return F.normalize(vectors - trained.mean(dim=0), dim=1) * vectors.shape[1] ** 0.5


def _buffers(layout: str) -> tuple[str, str, str, str]:
    return (f"{layout}_members", f"{layout}_groups", f"{layout}_places", f"{layout}_biases")


def _count(end: int) -> Tensor:
    return torch.arange(end, device="cpu")


def _fill_groups(labels: Tensor, group_size: int) -> Tensor:
    """Labels (n,) in groups (ceil(n / g), g); the last group is filled by repeating its labels."""
    missing = -len(labels) % group_size
    if missing:
        last = labels[len(labels) // group_size * group_size :]
        labels = torch.cat([labels, last.repeat(missing)[:missing]])
    return labels.view(-1, group_size)


def _join_groups(groups: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add further labels to the groups (K, g) in turn. Returns (K, g') and the entry of each of them."""
    num_groups, size = groups.shape
    rounds = -(-len(labels) // num_groups)
    if rounds == 0:
        return groups, labels
    filled = labels.repeat(-(-rounds * num_groups // len(labels)))[: rounds * num_groups]
    turn = _count(len(labels))
    places = turn % num_groups * (size + rounds) + size + turn // num_groups
    return torch.cat([groups, filled.view(rounds, num_groups).T], dim=1), places
