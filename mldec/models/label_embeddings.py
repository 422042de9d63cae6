"""Label embeddings: the vectors by which a network can predict labels that it was not trained on (paper §2.3.3).

`read_label_embeddings` reads them from a text file of GloVe, word2vec or fastText, an array with a list of names, or a
model that embeds texts. A label without a vector is an error that lists the nearest words which have one; it never
becomes a row of zeros.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mldec.config import Seed
from mldec.errors import DataError, shortened, whole_number
from mldec.labels import LabelSpace
from mldec.models import embedding_files, text_models
from mldec.models.text_cache import file_digest, remembered

KINDS = """  words.txt, words.vec      GloVe, word2vec or fastText text
  words.npy, words.pth      an array; head.label_embeddings.names=FILE lists its names, else its rows are the labels in
                            order
  FOLDER                    a sentence-transformers model
  package:NAME              one inside an installed Python package
  hub:OWNER/NAME            one on the Hugging Face Hub
  open_clip:MODEL/WEIGHTS   the text tower of a CLIP model, also open_clip:hf-hub:OWNER/NAME
  random:WIDTH              a random vector per label, for comparison"""

LOOK_UP = "texts-1"  # part of the cache key: increase it whenever `_vector` finds other vectors in the same file
IN_ORDER = "labels; give it one row per label, in their order, or list its names: head.label_embeddings.names=FILE"
TEXT_MODELS = ("package", "hub", "open_clip")  # allowed before the colon of a source, beside "random"


@dataclass(frozen=True, kw_only=True)
class LabelEmbeddingsConfig:
    """Where the label embeddings come from.

    Attributes:
        source: a file of label embeddings, or package:NAME, hub:OWNER/NAME, open_clip:MODEL/WEIGHTS, random:WIDTH.
        names: for an array, the file with the names of its rows or columns: a JSON list or {"0": name}, or one name
            per line; null: its rows are the labels in their order.
        templates: texts with {} for the label, whose vectors are averaged: "a photo of a {}." for a text model.
        aliases: a file with lines `label<tab>text`: the text that is looked up instead of a label.
        seed: of source=random.
    """

    source: str
    names: str | None = None
    templates: tuple[str, ...] = ("{}",)
    aliases: str | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.source.strip() in ("", "???"):  # the placeholder in head/zero_shot.yaml
            raise ValueError(f"source: missing; label embeddings come from one of\n{KINDS}")
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise ValueError(f"templates={list(self.templates)}: each needs {{}} once, in place of the label")

    def unused(self) -> list[str]:
        """One sentence per setting that has a value without effect on this source."""
        kind = self.source.partition(":")[0]
        is_random = kind == "random"
        is_array = kind not in ("random", *TEXT_MODELS) and embedding_files.is_array(Path(self.source))
        found = []
        if self.names is not None and not is_array:
            found.append(f"names={self.names}: only used with an array (.npy, .pth), not with {self.source}")
        if self.seed and not is_random:
            found.append("seed: only used with head.label_embeddings.source=random:WIDTH")
        why = "random vectors depend on the labels only" if is_random else ""
        if is_array and self.names is None:
            why = "an array without names has its rows in the order of the labels"
        if why and self.aliases is not None:
            found.append(f"aliases={self.aliases}: without effect, {why}")
        if why and self.templates != ("{}",):
            found.append(f"templates={list(self.templates)}: without effect, {why}")
        return [f"head.label_embeddings.{sentence}" for sentence in found]


@dataclass(frozen=True, eq=False)
class LabelEmbeddings:
    """Names and their vectors.

    Attributes:
        names: V different names.
        vectors: (V, width) float32, finite, no row zero.
        source: where they were read from, for messages.
    """

    names: tuple[str, ...]
    vectors: Tensor
    source: str

    def __post_init__(self) -> None:
        LabelSpace(self.names)  # rejects empty and repeated names
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.names):
            raise DataError(f"label embeddings of shape {tuple(self.vectors.shape)} for {len(self.names)} names")
        bad = ~self.vectors.isfinite().all(dim=1) | (self.vectors == 0).all(dim=1)
        if bad.any():
            first = self.names[int(bad.nonzero()[0, 0])]
            raise DataError(
                f"{self.source}: {int(bad.sum())} of {len(bad)} label embeddings are zero or not finite "
                f"(first: {first!r})"
            )

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    def select(self, names: Sequence[str]) -> LabelEmbeddings:
        """The embeddings of `names`, in that order. Raises DataError that lists the names without a vector."""
        places = {name: place for place, name in enumerate(self.names)}
        missing = [name for name in names if name not in places]
        if missing:
            raise DataError(_without_vectors([(name, name) for name in missing], self.names, self.source))
        return LabelEmbeddings(tuple(names), self.vectors[[places[name] for name in names]], self.source)

    def equals(self, other: LabelEmbeddings) -> bool:
        """Whether names and vectors are the same; the source does not count."""
        return self.names == other.names and torch.equal(self.vectors, other.vectors)

    def joined(self, other: LabelEmbeddings) -> LabelEmbeddings:
        """These embeddings and the further ones of `other`. Raises DataError if the widths differ."""
        if other.width != self.width:
            raise DataError(
                f"{other.source} has label embeddings of width {other.width}, the network was trained with width "
                f"{self.width} ({self.source}); use that source (label_embeddings=SOURCE for predict, "
                "head.label_embeddings.source=SOURCE elsewhere), or train with the other one"
            )
        known = set(self.names)
        new = [name for name in other.names if name not in known]
        if not new:
            return self
        vectors = torch.cat([self.vectors, other.select(new).vectors.to(self.vectors)])
        return LabelEmbeddings((*self.names, *new), vectors, self.source)


def read_label_embeddings(
    config: LabelEmbeddingsConfig, labels: Sequence[str], ordered: Sequence[str] | None = None
) -> LabelEmbeddings:
    """The vectors of `labels`.

    Args:
        labels: the labels that need a vector.
        ordered: all labels of the dataset, to which the rows of an array without names belong; None: `labels`.

    Raises:
        DataError: the source does not exist, is damaged or lacks words; a package that it needs is not installed.
    """
    LabelSpace(labels)
    texts = _texts(config, labels)
    kind, _, rest = config.source.partition(":")
    if kind == "random":
        vectors = _random(labels, rest, config)
    elif kind in TEXT_MODELS:
        vectors = text_models.embed(kind, rest, texts, config.templates)
    else:
        path = Path(config.source).expanduser()
        if path.is_dir():
            vectors = text_models.embed("folder", str(path), texts, config.templates)
        elif not path.is_file():
            raise DataError(
                f"head.label_embeddings.source={config.source}: no such file or folder; use one of\n{KINDS}"
            )
        elif embedding_files.is_array(path) and config.names is None:
            ordered = labels if ordered is None else ordered
            if unknown := [label for label in labels if label not in set(ordered)]:
                raise DataError(
                    f"{path} has no names, so its rows are the labels of the dataset only; it has no vector for "
                    f"{', '.join(map(repr, unknown[:5]))}. Use a source that has: label_embeddings=SOURCE for mldec "
                    "predict, head.label_embeddings.source=SOURCE elsewhere"
                )
            rows = np.array(embedding_files.read_array(path, len(ordered), IN_ORDER), np.float32, order="C")
            return LabelEmbeddings(tuple(ordered), torch.from_numpy(rows), config.source).select(labels)
        elif config.templates != ("{}",):
            raise DataError(
                f"head.label_embeddings.templates={list(config.templates)}: only a text model reads sentences; "
                f"{path.name} has single words: leave templates out"
            )
        else:
            vectors = _from_file(path, config, labels, texts)
    return LabelEmbeddings(tuple(labels), torch.from_numpy(np.ascontiguousarray(vectors, np.float32)), config.source)


def _texts(config: LabelEmbeddingsConfig, labels: Sequence[str]) -> list[str]:
    """The text that is looked up for each label: the label or its alias."""
    if config.aliases is None:
        return list(labels)
    aliases = embedding_files.read_aliases(Path(config.aliases).expanduser())
    return [aliases.get(label, label) for label in labels]


def _random(labels: Sequence[str], text: str, config: LabelEmbeddingsConfig) -> np.ndarray:
    """A standard normal vector per name, which depends on the name and the seed only; `text` is their width."""
    width = whole_number(text)
    if width is None or not 1 <= width <= embedding_files.MAX_WIDTH:
        raise DataError(
            f"head.label_embeddings.source={shortened(config.source)}: a width is needed, as in random:300 (1 to 65536)"
        )

    def draw(name: str) -> np.ndarray:
        digest = hashlib.sha256(f"{config.seed}:{name}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "little")).standard_normal(width)

    return np.stack([draw(name) for name in labels])


def _from_file(path: Path, config: LabelEmbeddingsConfig, labels: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """One row per label from a file of words, which is read only for texts that are not in the cache."""
    embedding_files.check_format(path)
    names = None if config.names is None else Path(config.names).expanduser()

    def look_up(new: list[str]) -> np.ndarray:
        file = embedding_files.open_embedding_file(path, config.names)
        found = file.vectors({form for text in new for form in _all_forms(text)})
        rows: dict[str, Any] = {text: _vector(text, found) for text in new}
        pairs = zip(labels, texts, strict=True)
        missing = [(label, rows[text]) for label, text in pairs if isinstance(rows.get(text), str)]
        if missing:
            raise DataError(_without_vectors(missing, file.words(), config.source))
        return np.stack(list(rows.values()))

    digests = [file_digest(path, text=not embedding_files.is_array(path))]
    digests += [] if names is None or not names.exists() else [file_digest(names)]  # look_up says what is wrong
    known = remembered(":".join([LOOK_UP, path.suffix, *digests]), list(dict.fromkeys(texts)), look_up)
    return np.stack([known[text] for text in texts])


def _vector(text: str, found: Mapping[str, np.ndarray]) -> np.ndarray | str:
    """The vector of the whole text if the file has it, else the mean over its words; or the first word without one."""
    for form in whole_forms(text):
        if form in found:
            return found[form]
    parts = []
    for word in split(text):
        known = next((form for form in word_forms(word) if form in found), None)
        if known is None:
            return word
        parts.append(found[known])
    return np.mean(parts, axis=0) if parts else text


def _all_forms(text: str) -> list[str]:
    return [*whole_forms(text), *(form for word in split(text) for form in word_forms(word))]


def whole_forms(text: str) -> list[str]:
    """The forms in which files have a label of several words: as it is, or joined by _ or -, also in lower case."""
    forms = [text, *(joint.join(split(text)) for joint in (" ", "_", "-", ""))]
    return list(dict.fromkeys([*forms, *(form.lower() for form in forms)]))


def word_forms(word: str) -> list[str]:
    return list(dict.fromkeys([word, word.lower(), word.capitalize()]))


def split(text: str) -> list[str]:
    """The words of a label, split at all but letters, digits and apostrophes: "traffic_light" has two."""
    kept = "".join(character if character.isalnum() or character == "'" else " " for character in text)
    return kept.split()


def _without_vectors(missing: Sequence[tuple[str, str]], known: Iterable[str], source: str) -> str:
    """The message for labels without vectors: each with the missing word and the nearest known ones."""
    candidates = nearby(known, [word for _, word in missing[:10]])
    lines = [f"{source}: no label embedding for {len(missing)} label{'s' if len(missing) > 1 else ''}"]
    for label, word in missing[:10]:
        close = difflib.get_close_matches(word.lower(), candidates, n=3, cutoff=0.6)
        what = f"{label!r}" if label == word else f"{label!r} (no {word!r})"
        lines.append(f"  {what}: {'nearest known: ' + ', '.join(close) if close else 'no similar word found'}")
    if len(missing) > 10:
        lines.append(f"  and {len(missing) - 10} more")
    lines.append(
        "Rename them, or list other texts to look up in a file of lines label<tab>text: "
        "head.label_embeddings.aliases=FILE"
    )
    return "\n".join(lines)


def nearby(known: Iterable[str], words: Sequence[str]) -> list[str]:
    """The known words with the first letter and about the length of one of `words`: to compare millions is slow."""
    firsts = {(word[:1].lower(), len(word) + change) for word in words for change in (-2, -1, 0, 1, 2)}
    return list(dict.fromkeys(word for word in known if (word[:1].lower(), len(word)) in firsts))
