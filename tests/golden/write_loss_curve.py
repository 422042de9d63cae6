"""Write loss_curve.json anew: `python tests/golden/write_loss_curve.py`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.curve import curve  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        content = {"torch": torch.__version__, "losses": curve(Path(folder))}
    (HERE / "loss_curve.json").write_text(json.dumps(content, indent=1) + "\n")
