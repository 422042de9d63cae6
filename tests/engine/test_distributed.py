"""Property: several processes train and evaluate as one, count each image once, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

from mldec.engine import data_splits
from mldec.engine.checkpoint import load_checkpoint
from mldec.engine.display import Display
from mldec.engine.distributed import ProcessGroup
from mldec.engine.metric_writer import read_records
from mldec.engine.trainer import Trainer
from mldec.errors import ConfigError
from tests.curve import C_TRAN, SDL, make, small_experiment, with_head
from tests.engine.test_soak import await_end, children
from tests.forked import begin, finish
from tests.same import timeless

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from a server")

#: Without batch norm and dropout an image's gradient does not depend on its neighbours. No split divides by 2 or 3.
PLAIN = (
    "backbone=timm",
    "backbone.model=test_vit",
    "head.dropout=0",
    "dataset.train=95",
    "dataset.val=25",
    "dataset.test=23",
    "optimizer=sgd",
    "schedule.max_lr=1e-3",
    "runtime.log_every=1",
)


@pytest.fixture
def small_digits(digits_root: Path) -> list[str]:
    """Without settings of the backbone that PLAIN replaces."""
    return small_experiment(digits_root)


def train(folder: Path, words: Sequence[str], processes: int) -> None:
    """A run in `processes` processes, as torchrun would start them."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    where = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = ["train", *words, f"run_dir={folder}"]
    group = [begin(words, RANK=str(rank), LOCAL_RANK=str(rank), **where) for rank in range(processes)]
    for process in group:
        process.join()
    assert [process.exitcode for process in group] == [0] * processes


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_records(folder / "metrics.jsonl") if record["kind"] == "train"]


@pytest.mark.parametrize(
    "variant",
    [
        ("loss=asl", "schedule.accumulate=2", "schedule.epochs=2", "optimizer.clip_norm=10"),
        ("loss=asl", "schedule.epochs=1"),  # gradients that are not clipped show their scale
        # Details beside the logits, and the counts of all images.
        (*SDL, "loss=distribution_balanced", "schedule.epochs=1"),
        # Which labels C-Tran is told each process draws by itself: here none are.
        pytest.param((*C_TRAN, "head.dropout=0", "head.known_share=0", "schedule.epochs=1"), marks=pytest.mark.slow),
        pytest.param(("loss=bce", "schedule.epochs=7"), marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(variant: Sequence[str], small_digits: list[str], tmp_path: Path) -> None:
    """The last batch has 31 images, so that the two have unequal shares of it."""
    for processes in (1, 2):
        train(tmp_path / str(processes), with_head([*small_digits, *PLAIN], variant), processes)
    one, two = (losses(tmp_path / name) for name in ("1", "2"))
    assert two == pytest.approx(one, rel=1e-4)
    assert one[-1] < one[0]
    weights = [load_checkpoint(tmp_path / name / "checkpoints" / "last.pt")["model"] for name in ("1", "2")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_evaluation_is_exact_in_any_number_of_processes(small_digits: list[str], tmp_path: Path) -> None:
    """Weights stay what they are at this rate, so all score the same network. One image is less than three."""
    words = [*small_digits, *PLAIN, "schedule.epochs=1", "schedule.max_lr=1e-30", "runtime.eval_batch_size=4"]
    for processes in (1, 3):
        train(tmp_path / str(processes), words, processes)
    found, expected = (
        [record for record in timeless(tmp_path / which) if record["kind"] != "train"] for which in ("3", "1")
    )
    assert [record.pop("loss", None) for record in found] == pytest.approx(
        [record.pop("loss", None) for record in expected]
    )
    assert found == expected
    for table in ("per_class_ap.csv", "thresholds.csv"):
        assert (tmp_path / "3" / table).read_text() == (tmp_path / "1" / table).read_text()
    for devices in ("1", "2"):  # the door of its own: of what was trained on three, too
        words = [f"run={tmp_path / '3'}", f"runtime.devices={devices}", f"output={tmp_path / f'measured{devices}'}"]
        finish(["evaluate", *words])
    alone, shared = (
        json.loads((tmp_path / f"measured{devices}" / "metrics.json").read_text()) for devices in ("1", "2")
    )
    assert {**alone, "date": "", "environment": {}} == {**shared, "date": "", "environment": {}}
    alone_table, shared_table = (
        (tmp_path / f"measured{devices}" / "per_class_ap.csv").read_text() for devices in ("1", "2")
    )
    assert alone_table == shared_table


def test_batch_norm_over_all_devices_needs_cuda(small_digits: list[str]) -> None:
    config = make([*small_digits, "runtime.sync_batch_norm=true"])
    with pytest.raises(ConfigError, match=r"runtime\.sync_batch_norm=true needs CUDA devices, found cpu"):
        Trainer(config, data_splits.build_splits(config), Display(quiet=True), group=ProcessGroup(size=2))


def await_records(folder: Path, process: ForkServerProcess, count: int = 1) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        if len(read_records(folder / "metrics.jsonl")) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no records after two minutes, exit code {process.exitcode}")


def test_preempted_together_and_continued_alone(small_digits: list[str], tmp_path: Path) -> None:
    """runtime.devices starts two, a signal stops both at one step, and one goes on from there."""
    run, words = tmp_path / "run", [*small_digits, *PLAIN, "schedule.epochs=8"]
    said = tmp_path / "said"
    process = begin(["train", *words, "runtime.devices=2", f"run_dir={run}"], errors=str(said))
    try:
        await_records(run, process, count=3)
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
    finally:
        process.kill()
    assert process.exitcode == 75, said.read_text()
    stopped = load_checkpoint(run / "checkpoints" / "last.pt")["step"]
    assert stopped >= 3
    alone = begin(["train", f"resume={run}", "runtime.devices=1", "runtime.limit_eval_batches=1"])
    alone.join()
    assert alone.exitcode == 0
    steps = [record["step"] for record in read_records(run / "metrics.jsonl") if record["kind"] == "train"]
    assert steps == list(range(1, 25))
    assert losses(run)[-1] < losses(run)[0]


def test_one_that_dies_ends_the_others(small_digits: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*small_digits, *PLAIN, "schedule.epochs=500", "runtime.devices=2", f"run_dir={run}"]
    said = tmp_path / "said"
    process = begin(["train", *words], errors=str(said))
    try:
        await_records(run, process)
        group = children(process.pid)
        assert len(group) == 2
        os.kill(max(group), signal.SIGKILL)
        process.join(60)
    finally:
        process.kill()
    assert process.exitcode not in (None, 0, 75), said.read_text()
    assert await_end(group) == set()
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] >= 0
