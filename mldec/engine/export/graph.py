"""Writing, reading and running a network as a graph that does not need mldec, with torch.export and ONNX.

Inputs are `images` (B,3,H,W) and, for zero-shot networks, `label_vectors` (N,width); B and N are dynamic. Outputs are
`scores` (B,N) in 0..1 and the `logits` (B,N) that they are computed from.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mldec.data.image import Normalization
from mldec.engine.inference import logits_to_scores
from mldec.errors import ConfigError, RunError
from mldec.models.classifier import Classifier

INPUTS, OUTPUTS = ("images", "label_vectors"), ("scores", "logits")
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[Sequence[Tensor]], list[Tensor]]


class Scorer(nn.Module):
    """Images to scores and logits.

    Args:
        classifier: in eval mode.
        softmax: see `logits_to_scores`.
        normalization: applied to uint8 images; None if images are passed normalised, in floating point.
    """

    def __init__(self, classifier: Classifier, softmax: bool, normalization: Normalization | None = None) -> None:
        super().__init__()
        self.classifier, self.softmax, self.normalization = classifier, softmax, normalization

    def forward(self, images: Tensor, label_vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`label_vectors` (N,width): embeddings of the query labels; None for the trained labels."""
        if self.normalization is not None:
            images = self.normalization(images)
        if label_vectors is None:
            logits = self.classifier(images)
        else:
            head = cast(Any, self.classifier.head)
            logits = head(self.classifier.backbone(images), head.vocabulary.one_group_each(label_vectors))
        return logits_to_scores(logits, self.softmax), logits


def takes_vectors(classifier: Classifier) -> bool:
    """Whether the network can score labels of which only the embeddings are known."""
    return classifier.vocabulary is not None and bool(getattr(classifier.head, "labels_are_independent", False))


def check_onnx() -> None:
    """Raise ConfigError if a package that writes or checks ONNX files is missing."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format=onnx needs {', '.join(ONNX_PACKAGES)}, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'mldec[export]'"
        )


def write_onnx(scorer: Scorer, example: Sequence[Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file with `metadata` in its metadata_props. Raises RunError if torch cannot express the network.

    Weights of more than 2 GB, the limit of an ONNX file, are stored in a second file next to it.
    """
    with _exporting("onnx"):
        program = torch.onnx.export(
            scorer,
            tuple(example),
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS[: len(example)]),
            output_names=list(OUTPUTS),
            dynamic_shapes=_dynamic(example),
        )
        assert program is not None, "dynamo=True returns a program"
        program.model.metadata_props.update(metadata)
        program.save(str(path))


def read_onnx(path: Path) -> tuple[Run, dict[str, str]]:
    """A function that runs an ONNX file on the CPU, and its metadata."""
    import onnxruntime

    with _exporting("onnx", "ONNX Runtime cannot load the file"):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.cpu().numpy() for name, tensor in zip(INPUTS, inputs, strict=False)}
        with _exporting("onnx", "ONNX Runtime cannot run the file"):
            return [torch.from_numpy(array) for array in session.run(list(OUTPUTS), feed)]

    return run, dict(session.get_modelmeta().custom_metadata_map)


def write_program(scorer: Scorer, example: Sequence[Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a torch.export program with `metadata` as extra files. Raises RunError if torch cannot express it."""
    with _exporting("torch_export"):
        program = torch.export.export(scorer, tuple(example), dynamic_shapes=_dynamic(example), strict=False)
        torch.export.save(program, path, extra_files=dict(metadata))


def read_program(path: Path, keys: Sequence[str]) -> tuple[Run, dict[str, str]]:
    """A function that runs a torch.export program on the device it was exported on, and its extra files called `keys`.

    Only for trusted files: torch reads parts of them with pickle.
    """
    extra = dict.fromkeys(keys, "")
    with _exporting("torch_export", "torch cannot load the file"):
        module = torch.export.load(path, extra_files=extra).module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with _exporting("torch_export", "torch cannot run the file"):
            return list(module(*inputs))

    found: Mapping[str, Any] = extra
    return run, {key: value.decode() if isinstance(value, bytes) else str(value) for key, value in found.items()}


def _dynamic(example: Sequence[Tensor]) -> tuple[dict[int, Any], ...]:
    """The first dimension of every input is dynamic."""
    return tuple({0: torch.export.Dim(name)} for name in ("batch", "labels")[: len(example)])


@contextlib.contextmanager
def _exporting(name: str, what: str = "the network cannot be expressed in this format") -> Iterator[None]:
    """Silence the warnings and logs of exporters, and turn their many kinds of errors into RunError."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            yield
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"format={name}: {what}: {reason}; debug=true shows all of it") from error
    finally:
        logging.disable(disabled)
