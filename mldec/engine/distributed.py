"""Several processes that train one network: who they are, what each takes, and how they agree.

Each process has a device of its own and a share of every batch; gradients are averaged by DistributedDataParallel. One
of them, the main process, prints and writes, and broadcasts what only it knows. A single process is a process group of
one, for which nothing here costs anything.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mldec.engine.interrupt import end_at_once
from mldec.errors import ConfigError, RunError

T = TypeVar("T")

#: A process that is silent for so long is taken for dead. Evaluation of many images by the slowest counts too.
PATIENCE = datetime.timedelta(minutes=30)

#: In gloo's messages after a process at the other end has ended.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo::")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run; `rank` is this one's number, `local_rank` its number on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of the processes. All must ask."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes)

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum of a tensor of each process, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def broadcast(self, value: T) -> T:
        """What the main process has; the others give anything."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def from_main(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the main process, which alone calls it."""
        return cast(T, self.broadcast(compute() if self.is_main else None))

    def gather(self, value: T) -> list[T] | None:
        """What each process has, by rank, for the main process; None for the others."""
        if self.size == 1:
            return [value]
        found: list[T] | None = [value] * self.size if self.is_main else None
        dist.gather_object(value, found, dst=0)
        return found

    def sync_buffers(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the main process's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def parallel(self, classifier: nn.Module, device: torch.device) -> nn.Module:
        """`classifier` with gradients that are averaged over the group after each backward pass."""
        if self.size == 1:
            return classifier
        return DistributedDataParallel(classifier, device_ids=[device] if device.type == "cuda" else None)


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """The process group of torchrun or `runtime.devices`; without either, a process group of one.

    Raises ConfigError if the environment names a process group but not how to reach it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    try:
        # Values of the host go through gloo, also where gradients go through NCCL.
        with end_at_once():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    except ValueError as error:
        raise ConfigError(
            f"WORLD_SIZE={size}: {error}; start several processes by torchrun or runtime.devices"
        ) from None
    try:
        yield ProcessGroup(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(sign in str(error) for sign in LOST):
            raise
        raise RunError(
            f"the connection to another process of this run is lost; the cause is in that process's output "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    finally:
        dist.destroy_process_group()
