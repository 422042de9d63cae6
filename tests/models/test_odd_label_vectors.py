"""Labels and label vectors at the edges: equal vectors, a single label, and names that are no text."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mldec.engine.known_labels import label_states
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace
from mldec.models.heads.sdl import SDL
from mldec.models.label_embeddings import LabelEmbeddings


@pytest.mark.parametrize("count", [1, 3])
def test_vectors_of_which_centering_leaves_nothing_are_refused_instead_of_infinite_weights(count):
    embeddings = LabelEmbeddings(tuple("abc"[:count]), torch.ones(count, 6), "words")
    with pytest.raises(DataError, match=rf"the {count} trained labels are all equal.*use normalize=unit"):
        SDL(8, count, label_embeddings=embeddings, normalize="centered")
    head = SDL(8, count, label_embeddings=embeddings).eval()
    assert head(torch.randn(2, 3, 8)).isfinite().all()


@pytest.mark.parametrize("known", [{1: 1}, {None: 1}, {"cat": np.array([1, 0])}, {"cat": [1]}, {"cat": None}])
def test_known_labels_of_other_types_are_a_config_error(known):
    config: Any = SimpleNamespace(head=SimpleNamespace(name="c_tran"), loss=SimpleNamespace(single_label=False))
    model: Any = SimpleNamespace(reads_known_labels=True)
    with pytest.raises(ConfigError, match=r"use its name, a text|use 1 for present or 0 for absent"):
        label_states(known, config, model, LabelSpace(["cat", "1"]))
