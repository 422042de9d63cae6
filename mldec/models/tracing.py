"""Reading the shapes of a network without computing anything and without changing the network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from mldec.errors import ConfigError, first_lines


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[tuple[nn.Module, torch.device]]:
    """A context in which tensors have shapes but no values; gives a copy of `model` to trace, and the model's device.

    Networks cache results (position biases, relative indices, grids). In this context those are fake tensors, so a copy
    is called: in evaluation mode, with modules of its own and the very parameters and buffers of the original.

    Raises:
        ConfigError: the model cannot be copied, or it holds a fake tensor before or after the trace.
    """
    refuse_fake_tensors(model)
    traced = _copy_without_tensors(model).eval()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield traced, device
    refuse_fake_tensors(model)  # a model may share state with its copies


def refuse_fake_tensors(model: nn.Module) -> None:
    """Raise ConfigError if a parameter, buffer or attribute of any module, or of its class, has no values."""
    for name, module in model.named_modules():
        for attribute, tensor in (*_tensors(module), *_class_tensors(type(module))):
            if isinstance(tensor, FakeTensor):
                where = f"{name}.{attribute}" if name else attribute
                raise ConfigError(
                    f"{type(model).__name__} holds a tensor without values in {where}, which tracing its shapes under "
                    "FakeTensorMode left there; build the model outside of that mode, and let each module cache its "
                    "results in itself only"
                )


def _copy_without_tensors(model: nn.Module) -> nn.Module:
    """A deep copy that shares all tensors with the original."""
    # deepcopy skips objects in its memo, so tensors take no memory, and results of autograd, which cannot be copied,
    # raise no error.
    memo = {id(tensor): tensor for module in model.modules() for _, tensor in _tensors(module)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # modules may hold any object, and copying one may raise any error
        raise ConfigError(
            f"{type(model).__name__} cannot be copied, which is needed to read its shapes ({first_lines(error)}); "
            "remove objects that copy.deepcopy does not support, such as generators, locks or open files"
        ) from error


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the module itself with the name of its attribute, also within lists and dicts."""
    for attribute, value in vars(module).items():
        if attribute in ("_parameters", "_buffers"):
            yield from ((name, tensor) for name, tensor in value.items() if tensor is not None)
        elif attribute != "_modules":
            yield from ((attribute, leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _class_tensors(kind: type) -> Iterator[tuple[str, Tensor]]:
    """Tensors in class attributes, which all modules of a class and their copies share."""
    for owner in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for attribute, value in vars(owner).items():
            yield from ((attribute, leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
