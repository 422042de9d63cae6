"""Properties: a checkpoint is whole or not there, gives back what was trained, and runs nobody's code."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from mldec.engine.checkpoint import find_checkpoint, load_checkpoint, restore, save_checkpoint
from mldec.errors import CheckpointError, RunError
from mldec.files import remove_partial
from tests.curve import make, make_trainer


@pytest.fixture
def run(small_digits, tmp_path):
    trainer = make_trainer(make([*small_digits, "schedule.epochs=1"]))
    trainer.fit(tmp_path / "run")
    return tmp_path / "run", trainer


def test_restoring_gives_the_same_logits_for_either_kind_of_weights(run):
    folder, trainer = run
    images = torch.rand(2, 3, 64, 64)
    for weights, network in (("raw", trainer.state.model), ("ema", trainer.state.ema.module)):
        restored = restore(folder, weights=weights, which="last")
        assert torch.equal(restored.classifier(images), network.eval()(images))
        assert restored.labels.names == trainer.splits.labels.names
        assert restored.normalization == trainer.scorer.normalization
        assert restored.config == trainer.config


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"value": 1})

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"cannot write .*last\.pt: No space left on device; the previous file is kept"):
        save_checkpoint(path, {"value": 2})
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert os.listdir(tmp_path) == ["last.pt"]


def fill_up(path: Path, said: Path) -> None:
    """Save twice; for the second file there is no room."""
    save_checkpoint(path, {"value": torch.ones(10)})
    import resource  # not on Windows

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        save_checkpoint(path, {"value": torch.ones(100_000)})
    except RunError as error:
        said.write_text(str(error))


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_a_disk_that_fills_up_while_writing_keeps_the_old_file(tmp_path):
    path, said = tmp_path / "run" / "last.pt", tmp_path / "said"
    path.parent.mkdir()
    process = multiprocessing.get_context("fork").Process(target=fill_up, args=(path, said))
    process.start()
    process.join()
    assert re.fullmatch(r"cannot write .*: .*File too large; the previous file is kept.*", said.read_text())
    assert torch.equal(torch.load(path, weights_only=True)["value"], torch.ones(10))
    assert os.listdir(path.parent) == ["last.pt"]


def test_what_reads_back_as_something_else_never_replaces_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"value": torch.ones(1000)})
    write = torch.save

    def damage(content, file):
        write(content, file)
        file.seek(file.tell() // 2)
        file.write(b"X" * 8)

    monkeypatch.setattr(torch, "save", damage)
    with pytest.raises(RunError, match=r"cannot write .*last\.pt: .* reads back differently"):
        save_checkpoint(path, {"value": torch.zeros(1000)})
    assert torch.equal(torch.load(path, weights_only=True)["value"], torch.ones(1000))
    assert os.listdir(tmp_path) == ["last.pt"]


def test_half_a_file_of_a_killed_process_is_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".1234.partial.pt").write_bytes(b"half")
    save_checkpoint(folder / "last.pt", {"value": 1})
    remove_partial(tmp_path, "checkpoints")  # as the next run in the directory does
    assert os.listdir(folder) == ["last.pt"]


def test_colleagues_may_read_what_the_umask_lets_them(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"value": 1})
    (tmp_path / "other").write_text("")
    assert (tmp_path / "last.pt").stat().st_mode == (tmp_path / "other").stat().st_mode


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("evil.pt", "wb") as file:
        pickle.dump({"model": Harm()}, file, protocol=2)
    torch.save({"model": Harm()}, "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(CheckpointError, match="damaged or holds more than tensors"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


def test_what_is_no_checkpoint_is_named(run, tmp_path):
    folder, _ = run
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of mldec: it has no format"):
        load_checkpoint(tmp_path / "other.pt")
    half = (folder / "checkpoints" / "last.pt").read_bytes()[:1000]
    (tmp_path / "half.pt").write_bytes(half)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match="no run directory or checkpoint"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not a run directory"):
        find_checkpoint(tmp_path)


def test_a_newer_format_asks_for_a_newer_mldec(run, tmp_path):
    folder, _ = run
    content = load_checkpoint(folder / "checkpoints" / "best.pt")
    save_checkpoint(tmp_path / "newer.pt", content | {"format": 99})
    with pytest.raises(CheckpointError, match="upgrade mldec"):
        load_checkpoint(tmp_path / "newer.pt")
