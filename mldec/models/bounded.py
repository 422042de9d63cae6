"""Limits on the size of a network whose settings come from a file: about the size of the file's own tensors."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._pytree import tree_leaves

from mldec.errors import CheckpointError

Module = TypeVar("Module", bound=nn.Module)

# Allowed beyond the content of the file: temporary parts of a network (a classifier that is dropped, layers that are
# replaced), modules without parameters, and tables of positions, which files do not contain.
MORE_PARTS, MORE_NUMBERS, MORE_POSITIONS, MORE_MODULES = 1_000, 2**24, 2**29, 10_000


def build_within(make: Callable[[], Module], state: Mapping[str, Tensor], source: str) -> Module:
    """`make()`, a module for the tensors of `state`.

    It is built on the meta device first. Raises CheckpointError as soon as it has far more tensors, parameters or
    modules than `state`, and the errors of `make`.
    """
    with at_most(state, source):
        _shell(make)
    with at_most(state, source):
        return make()


def build_with(make: Callable[[], Module], state: Mapping[str, Tensor], source: str) -> Module:
    """`make()` with the tensors of `state` loaded. Raises as `build_within`, and RuntimeError where they do not fit."""
    with at_most(state, source):
        shell = _shell(make)
    if shell is not None:
        shell.load_state_dict(_as_in(shell, state), assign=True)
        leaves = (leaf for module in shell.modules() for leaf in tree_leaves(vars(module)))
        if not any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves):
            return shell
    with at_most(state, source):
        module = make()
    module.load_state_dict(state)
    return module


@contextmanager
def at_most(state: Mapping[str, Tensor], source: str) -> Iterator[None]:
    """Within the block, all modules that this thread builds together have at most about the tensors of `state`.

    Raises CheckpointError that names `source` when there are more.
    """
    numbers = sum(value.numel() for value in state.values())
    most = {
        "tensors": 3 * len(state) + MORE_PARTS,
        "parameters": 2 * numbers + MORE_NUMBERS,
        "buffer values": 2 * numbers + MORE_POSITIONS,
        "modules": 10 * len(state) + MORE_MODULES,
    }
    counts: Counter[str] = Counter()
    thread = threading.get_ident()

    def add(what: str, number: int) -> None:
        counts[what] += number
        if counts[what] > most[what]:
            raise CheckpointError(
                f"{source}: its settings describe a network of more than {most[what]:,} {what}, but it holds "
                f"{len(state):,} tensors with {numbers:,} parameters; the settings do not belong to these weights"
            )

    def on_registration(what: str, module: nn.Module, name: str, value: Tensor | nn.Module | None) -> None:
        if value is None or threading.get_ident() != thread:
            return
        if isinstance(value, nn.Module):
            add("modules", 1)
        else:
            add("tensors", 1)
            add(what, value.numel())

    with ExitStack() as stack:
        for register, what in (
            (register_module_parameter_registration_hook, "parameters"),
            (register_module_buffer_registration_hook, "buffer values"),
            (register_module_module_registration_hook, "modules"),
        ):
            stack.callback(register(partial(on_registration, what)).remove)
        yield


def _shell(make: Callable[[], Module]) -> Module | None:
    """`make()` on the meta device; None for networks whose constructors need values."""
    try:
        with torch.device("meta"):
            return make()
    except CheckpointError:
        raise
    except Exception:  # constructors that fail on the meta device may succeed on another one
        return None


def _as_in(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of `state` with the dtypes of the tensors of `module`, contiguous."""
    expected = module.state_dict()
    return {
        name: torch.empty_like(value, dtype=expected[name].dtype, memory_format=torch.contiguous_format).copy_(value)
        if name in expected and expected[name].shape == value.shape
        else value
        for name, value in state.items()
    }
