"""The tables at probe scale that no committed page shows run from end to end on any data, with the packaged weights."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mldec.commands import main
from mldec.paper.records import find_records
from mldec.paper.tables import find_table

MANY_LABELS = ["dataset=digits", "dataset.train=64", "dataset.val=32", "dataset.test=32"]


def draw_classes(root: Path, classes: int = 10, images: int = 6) -> Path:
    """Folders of images of one label each, as many of each label, of noise around a colour."""
    generator = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for label in range(classes):
            folder = root / part / f"colour{label}"
            folder.mkdir(parents=True)
            for number in range(images):
                noise = generator.integers(-40, 40, (48, 48, 3))
                pixels = np.clip(noise + 128 + 12 * np.array([label, -label, 0]), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.mark.slow  # fifteen to thirty processes each
@pytest.mark.parametrize("name", ["2", "10", "figure6"])
def test_every_row_of_another_table_runs(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLDEC_CACHE", str(tmp_path / "cache"))
    table = find_table(name, "probe")
    if name == "figure6":
        data = [f"dataset={draw_classes(tmp_path / 'colours')}"]
    else:
        data = [*MANY_LABELS, f"dataset.root={tmp_path / 'digits'}"]
    options = ["scale=probe", "seeds=0", "jobs=2", "runtime.threads=1", f"output={tmp_path / 'out'}"]
    code = main.run(["table", name, *options, *data])
    captured = capsys.readouterr()
    assert code == 0, captured.out + captured.err
    records = find_records(tmp_path / "out" / "records").by_key.values()
    assert {record.row for record in records} == {row.key for row in table.reproduced}
    page = (tmp_path / "out" / f"{table.id}.md").read_text(encoding="utf-8")
    assert "not run" not in page.split("## ")[0]
    for finding in table.findings:
        assert finding.claim in captured.out
