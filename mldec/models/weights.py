"""Loading weights from files into modules, with a report of what matched and what did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mldec.errors import CheckpointError, first_lines, suggest
from mldec.models.tensor_files import check_names, read_torch_file

#: Names of classifier modules in timm, torchvision and the published checkpoints.
CLASSIFIERS = ("head", "head_dist", "fc", "classifier", "last_linear")


@dataclass(frozen=True)
class LoadReport:
    """The result for each tensor of a module and of a file.

    Attributes:
        source: the file of the weights.
        loaded: names in the module that were loaded.
        missing: names in the module that the file lacks; their values are unchanged.
        unexpected: names in the file that the module lacks.
        mismatched: "name: shape in file, shape in module", for names that both have.
        skipped: names in the file that belong to a classifier which the module does not need.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of the module's tensors that were loaded, 0 to 1."""
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        return len(self.loaded) / total if total else 1.0

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        lines = [f"{self.source}: {len(self.loaded)} of {total} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatched", "skipped"):
            names = getattr(self, kind)
            if names:
                shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
                lines.append(f"  {len(names)} {'classifier tensors skipped' if kind == 'skipped' else kind}: {shown}")
        return "\n".join(lines)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file by name, on the CPU; nothing in the file is executed.

    A pickle may hold the state dict itself or have it under `model` or `state_dict`.

    Raises:
        CheckpointError: no such file, not a file of plain tensors, or no tensors in it.
    """
    return find_tensors(read_file(path), str(path))[1]


def read_file(path: str | Path) -> Any:
    """The content of such a file, on the CPU: tensors, containers and plain values.

    An `argparse.Namespace` is accepted too, since timm's checkpoints contain one.

    Raises:
        CheckpointError: no such file, or it holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"no such file of weights: {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return read_torch_file(path)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, CheckpointError) as error:
        raise CheckpointError(f"{path} is not a readable file of plain tensors ({first_lines(error)})") from error


def find_tensors(content: Any, source: str, key: str | None = None) -> tuple[str, dict[str, Tensor]]:
    """The state dict in a result of `read_file`: the name of its entry ("" for a bare one), and its tensors.

    Args:
        source: the name of the file in messages.
        key: the entry to use; None: `model` or `state_dict`, if there is one of them, else `content` itself.

    Raises:
        CheckpointError: there are no tensors by name.
    """
    if isinstance(content, Mapping):
        entries = [name for name, value in content.items() if isinstance(value, Mapping)]
        if key is not None and key not in entries:
            raise CheckpointError(f"{source}: no state dict under {key!r}; {suggest(key, map(str, entries))}")
        entry = key or next((name for name in ("model", "state_dict") if name in entries), "")
        container = content[entry] if entry else content
        tensors = {str(name): value for name, value in container.items() if isinstance(value, Tensor)}
        if tensors:
            check_names(tensors, source)
            return entry, tensors
    raise CheckpointError(
        f"{source} holds no tensors by name; expected a state dict, bare or under `model` or `state_dict`"
    )


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: str,
    *,
    classifiers: Collection[str] = CLASSIFIERS,
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None = None,
    required: float = 0.95,
) -> LoadReport:
    """Copy into `module` every tensor of `state_dict` that fits it by name and shape.

    A prefix of the names in the file that the module lacks (`module.`, `backbone.model.`, …) is detected: the one with
    which most names agree.

    Args:
        module: is changed only if enough tensors match.
        state_dict: names and tensors of a file.
        source: the name of the file in messages.
        classifiers: tensors of these modules that `module` lacks are reported as skipped, not as unexpected.
        convert: applied to the tensors with the prefix, after it is removed from their names.
        required: the minimum share of the module's tensors that must match, 0 to 1.

    Raises:
        CheckpointError: fewer match; the message lists some missing, unexpected and mismatched names. Or a tensor that
            fits has values that are not finite.
    """
    expected = module.state_dict()
    prefix = _common_prefix(state_dict, expected)
    found: Mapping[str, Tensor] = {
        name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)
    }
    outside = dict.fromkeys(name for name in state_dict if not name.startswith(prefix))
    if convert is not None:
        found = convert(dict(found))

    fitting, absent, mismatched = compare_tensors(expected, found)
    surplus = [*(name for name in found if name not in expected), *outside]
    skipped = dict.fromkeys(name for name in surplus if _is_classifier(name, classifiers, anywhere=name in outside))
    report = LoadReport(
        source=source,
        loaded=tuple(fitting),
        # The counter of batches is absent from older files and does not affect the output of a batch norm.
        missing=tuple(name for name in absent if not name.endswith("num_batches_tracked")),
        unexpected=tuple(name for name in surplus if name not in skipped),
        mismatched=tuple(mismatched),
        skipped=tuple(skipped),
    )
    if report.share < required:
        raise CheckpointError(
            f"{report}\nFewer than {required:.0%} of the tensors match: these are weights of another model. "
            "Choose the backbone of the file, or another file"
        )
    _refuse_not_finite(fitting, source)
    module.load_state_dict(fitting, strict=False)
    return report


class Comparison(NamedTuple):
    """The tensors of a file that fit a module, and what is wrong with the others, as names in the file.

    Attributes:
        fitting: by the names of the module.
        missing: in the file.
        mismatched: "name: shape in the file, shape in the model".
    """

    fitting: dict[str, Tensor]
    missing: list[str]
    mismatched: list[str]


def compare_tensors(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], name_in_file: Callable[[str], str] = str
) -> Comparison:
    """Compare the tensors of a module with those of a file, whose names `name_in_file` gives."""
    result = Comparison({}, [], [])
    for ours, value in expected.items():
        name = name_in_file(ours)
        if name not in found:
            result.missing.append(name)
        elif found[name].shape != value.shape:
            shapes = tuple(found[name].shape), tuple(value.shape)
            result.mismatched.append(f"{name}: {shapes[0]} in the file, {shapes[1]} in the model")
        elif found[name].is_complex() or found[name].is_floating_point() != value.is_floating_point():
            kinds = _kind(found[name]), _kind(value)
            result.mismatched.append(f"{name}: {kinds[0]} in the file, {kinds[1]} in the model")
        else:
            result.fitting[ours] = found[name]
    return result


def _kind(tensor: Tensor) -> str:
    """`int8`, of torch.int8."""
    return str(tensor.dtype).removeprefix("torch.")


def _refuse_not_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise CheckpointError(
                f"{source}: its tensor {name} has values that are not finite in float32; use other weights"
            )


def _common_prefix(names: Iterable[str], expected: Collection[str]) -> str:
    """The shortest prefix whose removal makes most of `names` equal to `expected` ones."""
    votes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        votes.update(".".join([*parts[:cut], ""]) for cut in range(len(parts)) if ".".join(parts[cut:]) in expected)
    return max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")


def _is_classifier(name: str, classifiers: Collection[str], anywhere: bool) -> bool:
    parts = name.split(".")
    if any(part in classifiers for part in (parts if anywhere else parts[:1])):
        return True
    return any(name.startswith(f"{classifier}.") for classifier in classifiers)  # one within another: `head.fc`
