"""Where tensors live and in which precision the network computes."""

from __future__ import annotations

import contextlib
import os

import torch

from mldec.config import RuntimeConfig
from mldec.errors import ConfigError
from mldec.system import keep_freed_memory, usable_cores


def choose_device(name: str, number: int | None = None) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU.

    `number`: of the process among those of this machine, each of which takes a CUDA device of its own. Raises
    ConfigError if it is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_there in present.items() if is_there)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"runtime.device={name}: no such device; use auto, cpu, cuda, cuda:N or mps") from None
    if number is not None and device.type == "cuda":
        device = torch.device("cuda", number)
        torch.cuda.set_device(min(number, torch.cuda.device_count() - 1))
    present["cuda"] &= (device.index or 0) < torch.cuda.device_count()
    if not present.get(device.type, False):
        found = ", ".join(kind for kind, is_there in present.items() if is_there)
        name = str(device) if number is not None else name
        raise ConfigError(f"runtime.device={name} is not available here; found {found}; use runtime.device=auto")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The compute dtype: `auto` is bfloat16 on CUDA devices that have it and float32 elsewhere.

    Raises ConfigError for fp16 away from CUDA, where loss scaling has no support.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name == "fp16" and device.type != "cuda":
        raise ConfigError(f"runtime.precision=fp16 needs a CUDA device, found {device.type}; use fp32, bf16 or auto")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """A context in which matrix products and convolutions compute in `dtype`; nothing changes for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def prepare_runtime(runtime: RuntimeConfig, device: torch.device) -> None:
    """Set process-wide switches: CPU threads and memory, deterministic kernels, cuDNN's search for the fastest ones."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not runtime.deterministic
        torch.set_float32_matmul_precision("highest" if runtime.deterministic else "high")
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(runtime.deterministic, warn_only=True)


def count_workers(runtime: RuntimeConfig, device: torch.device) -> int:
    """Loader processes: as configured, else one per usable core, at most 8; a fourth of that where the network is on
    the processor too.

    There every step waits for the slowest of its threads, so that a worker that takes a core for a moment costs as much
    as one that takes them all. On two cores none is fastest.
    """
    if runtime.workers is not None:
        return runtime.workers
    return min(8, usable_cores() // 4 if device.type == "cpu" else usable_cores())
