"""Checking the pickle of a file of tensors before torch reads it.

`torch.load(weights_only=True)` runs no code in a file but trusts every size in it. Here the same pickle is read with
stand-ins for tensors, and each size is compared with the content of the file, so that a small file cannot use much
memory or time: storages larger than their bytes, views larger than their storage, lists that contain one another many
times over, integers of a million digits.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, cast

import torch

MOST_BYTES = 64 * 2**20  # of a pickle, without its tensors
MOST_OPERATIONS = 5_000_000
MOST_BITS = 256  # of an integer
DEPTH = 64  # of nested containers
SHARED = 8  # times that values may be repeated by reference
VIEWS = 4  # times that tensors may view the bytes of a file

# fmt: off
#: The operations of `torch.save` and of torch's weights-only reader.
OPERATIONS = frozenset((
    "PROTO", "STOP", "MARK", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT",
    "EMPTY_SET", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "BINGET",
    "LONG_BINGET", "BINPUT", "LONG_BINPUT", "LONG1",
))
# fmt: on
STORAGES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("ShortStorage", "HalfStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "FloatStorage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")


class Refused(Exception):
    """A pickle is not read; the message gives the reason."""


def rehearse(stream: BinaryIO, size: int, records: Mapping[str, int] | None = None) -> dict[str, int]:
    """The sizes in bytes of the storages of one pickle of a stream, by key.

    It is read with stand-ins for its tensors; the stream is after the pickle afterwards.

    Args:
        size: of the file in bytes, which limits the tensors, up to a factor.
        records: sizes in bytes of the storages in the file, by key; None where they follow the pickle.

    Raises Refused for anything that is not tensors and plain values, or larger than the file.
    """
    data = _take_one(stream)
    reader = _Rehearsal(BytesIO(data), size, records)
    content = reader.load()
    _weigh(content, SHARED * len(data) + 1_000_000)
    return reader.storages


def read_plain(stream: BinaryIO) -> Any:
    """One pickle of plain values without tensors. Raises Refused for any other."""
    return _Rehearsal(BytesIO(_take_one(stream)), 0, {}).load()


def _take_one(stream: BinaryIO) -> bytes:
    """The bytes of one pickle, after checking its operations and their number."""
    begin = stream.tell()
    for count, (operation, argument, place) in enumerate(pickletools.genops(stream), start=1):
        if operation.name not in OPERATIONS:
            raise Refused(f"it holds the pickle operation {operation.name}, which files of tensors do not need")
        # A memo with one huge index would use memory for all indices below it.
        if operation.name.endswith("BINPUT") and cast(int, argument) > count:
            raise Refused(f"it uses memo index {argument:,} after {count:,} operations; at most {count:,} is allowed")
        if count > MOST_OPERATIONS or (place or 0) - begin > MOST_BYTES:
            raise Refused(f"the description of its tensors exceeds {MOST_OPERATIONS:,} steps or {MOST_BYTES:,} bytes")
    end = stream.tell()
    if end - begin > MOST_BYTES:
        raise Refused(f"the description of its tensors has more than {MOST_BYTES:,} bytes")
    stream.seek(begin)
    return stream.read(end - begin)


class _Kind(NamedTuple):
    """A type of storage or number: bytes per element."""

    width: int


class _Storage(NamedTuple):
    size: int
    width: int


class _Entries(dict[Any, Any]):
    """Stands in for OrderedDict; attributes of one (torch adds the versions of modules) are ignored."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Bag:
    """Stands in for argparse.Namespace."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Tensor:
    """Stands in for a tensor."""


class _Rehearsal(pickle.Unpickler):
    """Creates stand-ins; nothing that the file names is imported or called."""

    def __init__(self, stream: BinaryIO, file_size: int, records: Mapping[str, int] | None) -> None:
        super().__init__(stream)
        self.file_size, self.records = file_size, records
        self.storages: dict[str, int] = {}
        self.stored = self.viewed = 0  # bytes of storages, and of the tensors that view them
        self._known: dict[str, Any] = {
            "collections.OrderedDict": _Entries,
            "collections.Counter": _Entries,
            "argparse.Namespace": _Bag,
            "torch.Size": tuple,
            "torch.device": lambda *parts: None,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_parameter": lambda data, *more: data,
        }
        self._known |= dict.fromkeys(("builtins.set", "__builtin__.set"), list)

    def find_class(self, module: str, name: str) -> Any:
        if module in STORAGE_MODULES and name in STORAGES:
            return _Kind(STORAGES[name])
        dtype = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        if isinstance(dtype, torch.dtype):
            return _Kind(dtype.itemsize)
        try:
            return self._known[f"{module}.{name}"]
        except KeyError:
            raise Refused(f"it holds {module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or (len(pid) > 5 and pid[5]):
            raise Refused("it refers to external data other than tensor storages; nothing else is allowed")
        _, kind, key, _, count = pid[:5]
        if not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_size(count):
            raise Refused("one of its storages has no type, key or size")
        size = count * kind.width
        if self.records is not None and size != self.records.get(key):
            raise Refused(f"storage {key[:40]!r} should have {size:,} bytes and has {self.records.get(key, 0):,}")
        if key not in self.storages:
            self.storages[key] = size
            self.stored += size
        if self.storages[key] != size:
            raise Refused(f"storage {key[:40]!r} has two sizes")
        if self.stored > self.file_size:
            raise Refused(f"its tensors should have more bytes than the {self.file_size:,} of the file")
        return _Storage(size, kind.width)

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor:
        width = storage.width if isinstance(storage, _Storage) else 0
        return self._view(storage, width, offset, shape, strides)

    def _typed_tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor:
        width = more[2].width if len(more) > 2 and isinstance(more[2], _Kind) else 0
        return self._view(storage, width, offset, shape, strides)

    def _view(self, storage: Any, width: int, offset: Any, shape: Any, strides: Any) -> _Tensor:
        whole = isinstance(storage, _Storage) and width > 0 and _is_size(offset)
        if not whole or not _are_sizes(shape) or not _are_sizes(strides) or len(shape) != len(strides):
            raise Refused("one of its tensors has no storage, shape or strides")
        count = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if count else 0
        # A copy of a number that is repeated by a stride of 0 has as many numbers as its shape.
        if max(count, last + 1 if count else 0) * width > storage.size:
            raise Refused(f"a tensor of shape {str(shape[:8])[:100]} has a storage of {storage.size:,} bytes")
        self.viewed += count * width
        if self.viewed > VIEWS * self.file_size:
            raise Refused(f"its tensors view the bytes of the file more than {VIEWS} times")
        return _Tensor()


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= DEPTH and all(map(_is_size, values))


def _weigh(content: Any, most: int) -> None:
    """Raise Refused if visiting or printing `content`, shared parts every time again, takes more than `most` steps."""
    known: dict[int, tuple[int, int] | None] = {}

    def weigh(value: Any, depth: int) -> tuple[int, int]:
        """Steps, and levels of containers. Each container is visited once."""
        if isinstance(value, (str, bytes)):
            return 1 + len(value), 0
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise Refused(f"it holds an integer of {value.bit_length():,} bits")
        if id(value) in known:
            found = known[id(value)]
            if found is None:
                raise Refused("one of its lists contains itself")
            return found
        children = _children(value)
        if children is None:
            return 1, 0
        known[id(value)] = None
        if depth > DEPTH:
            raise Refused(f"its containers are nested more than {DEPTH} levels deep")
        parts = [weigh(child, depth + 1) for child in children]
        found = (1 + sum(steps for steps, _ in parts), 1 + max((levels for _, levels in parts), default=0))
        if found[0] > most or found[1] > DEPTH:
            raise Refused(f"its nested lists and dicts expand to more than {most:,} values or {DEPTH} levels")
        known[id(value)] = found
        return found

    weigh(content, 0)


def _children(value: Any) -> list[Any] | None:
    """The content of a container; None for other values."""
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    if isinstance(value, _Bag):
        return [value.state]
    is_container = isinstance(value, (list, tuple, set)) and not isinstance(value, (_Kind, _Storage))
    return list(value) if is_container else None
