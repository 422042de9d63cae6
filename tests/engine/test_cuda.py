"""Properties of training on CUDA; each is rehearsed on the CPU, in small, so that it cannot rot where there is no GPU.

`make gpu-check` runs what is marked `cuda`, and keeps what tests record (`record_property`) for docs/performance.md.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mldec.engine.checkpoint import load_checkpoint, read_last
from mldec.engine.interrupt import Interrupted
from mldec.engine.metric_writer import read_records
from tests.curve import make, make_trainer, small_experiment
from tests.engine.test_distributed import PLAIN, losses
from tests.engine.test_trainer import interrupt_at
from tests.forked import PRELOADED, command
from tests.same import assert_same_run

CUDA = (pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))

#: Ten labels, learned to a plateau in 768 steps.
DIGITS = (
    *("dataset.colours=1", "dataset.max_digits=2", "dataset.train=4096", "dataset.val=512", "dataset.test=1024"),
    *("schedule.epochs=6", "schedule.batch_size=32"),
)
#: Test mAP of DIGITS on the CPU in fp32 by seed (torch 2.14), which a slow test measures again, and how far another run
#: may be from it: 4 standard deviations of these two. Seed 0 in bf16 on the CPU: 98.98.
CPU_MAP, NOISE = {0: 98.51, 1: 99.05}, 1.5


#: Of a rehearsal: four steps.
FEW = ("dataset.train=32", "dataset.val=16", "dataset.test=16", "schedule.batch_size=16")


def few(device: str) -> Sequence[str]:
    return FEW if device == "cpu" else ()


def on(device: str, *values: object) -> object:
    """A parameter set that runs on `device`."""
    return pytest.param(device, *values, marks=CUDA if device == "cuda" else ())


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    """Process-wide switches as they were: trainers set them for their device."""
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.slow
@pytest.mark.parametrize("seed", CPU_MAP)
def test_the_cpu_learns_the_digits_as_well_as_the_gpu_is_asked_to(seed: int, digits_root: Path, tmp_path: Path) -> None:
    words = ["experiment=digits", f"dataset.root={digits_root}", "runtime=cpu", "runtime.tensorboard=false"]
    found = make_trainer(make([*words, *DIGITS, f"seed={seed}", "runtime.precision=fp32"])).fit(tmp_path)
    assert found["mAP"] == pytest.approx(CPU_MAP[seed], abs=NOISE)


@pytest.mark.parametrize(("device", "precision"), [on("cpu", "bf16"), on("cuda", "bf16"), on("cuda", "fp16")])
def test_half_precision_learns_the_digits_as_well_as_the_cpu(
    device: str, precision: str, small_digits: list[str], digits_root: Path, tmp_path: Path, record_property
) -> None:
    """On the CPU the scenes are few, and the reference is a run in fp32 beside it."""
    if device == "cuda":
        expected, noise = sum(CPU_MAP.values()) / len(CPU_MAP), NOISE
        words = ["experiment=digits", f"dataset.root={digits_root}", "runtime.tensorboard=false", *DIGITS]
    else:
        words, noise = [*small_digits, *FEW, "dataset.colours=1"], 10.0
        expected = make_trainer(make([*words, "runtime.precision=fp32"])).fit(tmp_path / "reference")["mAP"]
    runner = make_trainer(make([*words, f"runtime.device={device}", f"runtime.precision={precision}"]))
    assert runner.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert runner.state.scaler.is_enabled() == (precision == "fp16")
    found = runner.fit(tmp_path / "run")["mAP"]
    record_property(f"digits in {precision}: test mAP (CPU in fp32: {expected:.2f})", f"{found:.2f} %")
    assert found == pytest.approx(expected, abs=noise)


@pytest.mark.parametrize(("device", "precision"), [on("cpu", "fp32"), on("cuda", "fp32"), on("cuda", "bf16")])
def test_channels_last_trains_the_same_and_either_layout_resumes_the_other(
    device: str, precision: str, small_digits: list[str], tmp_path: Path
) -> None:
    words = [*small_digits, *few(device), f"runtime.device={device}", f"runtime.precision={precision}"]
    words += ["runtime.log_every=1", "runtime.deterministic=true"]  # products of float32 in float32
    for name, layout in (("contiguous", "false"), ("channels_last", "true")):
        runner = make_trainer(make([*words, f"runtime.channels_last={layout}"]))
        kernels = [p for p in runner.state.model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
        assert kernels
        assert all(p.is_contiguous(memory_format=runner.memory_format) for p in kernels)
        runner.fit(tmp_path / name)
    near = {"fp32": 1e-3, "bf16": 0.03}[precision]
    assert losses(tmp_path / "channels_last") == pytest.approx(losses(tmp_path / "contiguous"), rel=near)

    stopped = make_trainer(make([*words, "runtime.channels_last=false"]))
    interrupt_at(stopped, 1)  # so that later losses show what became of the optimizer's state
    with pytest.raises(Interrupted):
        stopped.fit(tmp_path / "changed")
    resumed = make_trainer(make([*words, "runtime.channels_last=true"]))
    resumed.load(read_last(tmp_path / "changed"))
    for parameter, kept in resumed.state.optimizer.state.items():
        moments = [value for value in kept.values() if value.shape == parameter.shape]
        assert moments
        assert all(value.stride() == parameter.stride() for value in moments)
    resumed.fit(tmp_path / "changed")
    assert losses(tmp_path / "changed") == pytest.approx(losses(tmp_path / "contiguous"), rel=near)


@pytest.mark.parametrize(
    ("device", "optimizer"), [on("cpu", "adamw"), *(on("cuda", each) for each in ("adamw", "adam", "sgd", "lamb"))]
)
def test_a_step_that_overflows_is_skipped_whole(device: str, optimizer: str, small_digits: list[str]) -> None:
    """Weights, average, schedule and count of updates stay; then the scale has found its place, and training goes on.

    The CPU has no fp16: there the scaler is made to overflow in fp32.
    """
    precision, scale = ("fp16", 2.0**24) if device == "cuda" else ("fp32", 2.0**125)
    words = [f"optimizer={optimizer}", "schedule.max_lr=1e-3", "schedule.epochs=10", "optimizer.clip_norm=10"]
    runner = make_trainer(make([*small_digits, *words, f"runtime.device={device}", f"runtime.precision={precision}"]))
    runner.state.scaler = torch.amp.GradScaler(device, init_scale=scale, growth_interval=1000)
    runner.network.train()
    batch = runner.batches.first()
    skipped = 0
    while runner.state.progress.updates < 3:
        updates, before = runner.state.progress.updates, state(runner)
        runner.train_step(batch)
        runner.state.progress.step += 1
        assert runner.state.optimizer.param_groups[0]["lr"] == pytest.approx(runner.schedule(updates).lr)
        if runner.state.progress.updates == updates:
            skipped += 1
            assert skipped < 30
            assert all(torch.equal(a, b) for a, b in zip(before, state(runner), strict=True))
        else:
            assert not all(torch.equal(a, b) for a, b in zip(before, state(runner), strict=True))
        assert runner.state.ema is not None
        assert runner.state.ema.updates == runner.state.progress.updates
        assert all(p.isfinite().all() for p in runner.state.model.parameters())
    assert skipped > 0
    assert runner.state.scaler.get_scale() == scale / 2**skipped


def state(runner) -> list[torch.Tensor]:
    """Parameters of the network and of its average; statistics of batch norm move in every forward pass."""
    return [p.detach().clone() for module in (runner.state.model, runner.state.ema.module) for p in module.parameters()]


def begin_over_gloo(words: list[str], environment: dict[str, str]) -> None:
    """The command with gloo for all tensors: NCCL refuses two processes on one device."""
    begin = dist.init_process_group
    dist.init_process_group = lambda backend, **options: begin("gloo", **options)
    command(words, environment)


def train(folder: Path, words: Sequence[str], device: str, processes: int) -> None:
    """A run in `processes` processes that all take the first device of the kind."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    where = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0"}
    context = multiprocessing.get_context("spawn" if device == "cuda" else "forkserver")
    if device != "cuda":
        context.set_forkserver_preload([*PRELOADED])
    words = ["train", *words, f"runtime.device={device}", f"run_dir={folder}"]
    group = [
        context.Process(target=begin_over_gloo, args=(words, {**where, "RANK": str(rank)})) for rank in range(processes)
    ]
    for process in group:
        process.start()
    for process in group:
        process.join(timeout=300)
    for process in group:
        process.kill()
    assert [process.exitcode for process in group] == [0] * processes


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from a server")
@pytest.mark.parametrize("device", [on("cpu"), on("cuda")])
def test_two_processes_on_one_device_train_as_one(device: str, digits_root: Path, tmp_path: Path) -> None:
    words = [
        *small_experiment(digits_root),
        *PLAIN,
        *(each.replace("=32", "=31") for each in few(device)),
        "schedule.epochs=1",
    ]
    words += ["runtime.precision=fp32", "runtime.deterministic=true"]
    for processes in (1, 2):
        train(tmp_path / str(processes), words, device, processes)
    near = 1e-4 if device == "cpu" else 1e-3  # convolutions on CUDA are TF32
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=near)
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt")["model"] for name in ("1", "2"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=10 * near, atol=near / 10, msg=name)


@pytest.mark.parametrize(
    ("device", "precision"), [on("cpu", "bf16"), on("cuda", "fp32"), on("cuda", "bf16"), on("cuda", "fp16")]
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    device: str, precision: str, small_digits: list[str], tmp_path: Path
) -> None:
    """With `runtime.deterministic=true`, and no kernel that torch knows to be otherwise."""
    words = [f"runtime.device={device}", f"runtime.precision={precision}", "runtime.deterministic=true"]
    config = make(
        [*small_digits, *few(device), *words, "augment.mixup=0.4", "augment.cutmix=1.0", "optimizer.clip_norm=1.0"]
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(config).fit(whole)
    assert [str(each.message) for each in caught if "deterministic" in str(each.message)] == []
    runner = make_trainer(config)
    interrupt_at(runner, 3)
    with pytest.raises(Interrupted):
        runner.fit(parts)
    runner = make_trainer(config)
    runner.load(read_last(parts))
    assert runner.state.progress.step == 3
    runner.fit(parts)
    assert [r["kind"] for r in read_records(parts / "metrics.jsonl")][-1] == "test"
    assert_same_run(parts, whole)
