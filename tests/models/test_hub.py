"""The real download of pretrained weights, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import has_hf_hub

BUILD = """
import sys, torch
from mldec.models.backbone import BackboneConfig
from mldec.models import backbone
from mldec.registry import BACKBONES
built = BACKBONES["resnet18"].build(BackboneConfig(name="resnet18", pretrained=True), image_size=64)
print(built.loaded)
torch.save(built.model.state_dict(), sys.argv[1])
"""


@pytest.fixture
def hub(tmp_path):
    """URL of a hub that has weights for timm's resnet18, those weights, and the paths that were asked for."""
    torch.manual_seed(0)
    weights = timm.create_model("resnet18").state_dict()
    save_file(weights, tmp_path / "model.safetensors")
    body = (tmp_path / "model.safetensors").read_bytes()
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            found = self.path.startswith("/timm/resnet18.") and self.path.endswith("/model.safetensors")
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", weights, asked
    server.shutdown()


def build(home: Path, target: Path, **environment: str) -> subprocess.CompletedProcess:
    """Build the backbone in a process of its own: the hub's client reads its environment when it is imported."""
    settings = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", BUILD, str(target)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not has_hf_hub(), reason="this timm does not go with this huggingface_hub")
def test_weights_come_from_the_hub_whole(hub, tmp_path):
    url, weights, asked = hub
    result = build(tmp_path / "home", tmp_path / "built.pt", HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    assert result.returncode == 0, result.stderr[-2000:]
    assert asked
    assert "120 of 120 tensors loaded" in result.stdout
    built = torch.load(tmp_path / "built.pt", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in built.items())


def test_a_hub_out_of_reach_is_one_clear_error(tmp_path):
    result = build(tmp_path / "home", tmp_path / "built.pt", HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "CheckpointError" in last
    assert "backbone.pretrained=FILE" in last
    assert "backbone.pretrained=false" in last
