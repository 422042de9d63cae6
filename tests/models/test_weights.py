"""Nothing loads silently in part: every tensor of the module and of the file is accounted for."""

import json
import pickle

import pytest
import torch
from torch import nn

from mldec.errors import CheckpointError
from mldec.models.weights import LoadReport, load_weights, read_weights


def network():
    return nn.ModuleDict(
        {"body": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)), "neck": nn.Linear(2, 2)}
    )


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.model.", "_orig_mod.module."])
def test_the_prefix_of_the_file_is_recognised(prefix):
    source, target = network(), network()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    state |= {"head.fc.weight": torch.zeros(2), "optimizer.step": torch.zeros(1)}
    report = load_weights(target, state, "file")
    assert report.loaded == tuple(source.state_dict())
    assert report.skipped == ("head.fc.weight",)
    assert report.unexpected == ("optimizer.step",)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_everything_is_accounted_for():
    target = network()
    state = network().state_dict()
    del state["neck.bias"], state["body.1.num_batches_tracked"]
    state["neck.weight"] = torch.zeros(3, 2)
    state["neck.scale"] = torch.zeros(2)
    report = load_weights(target, state, "a.pth", required=0.5)
    assert report.missing == ("neck.bias",)
    assert report.mismatched == ("neck.weight: (3, 2) in the file, (2, 2) in the model",)
    assert report.unexpected == ("neck.scale",)
    assert set(report.loaded) == set(state) - {"neck.weight", "neck.scale"}
    assert report.share == pytest.approx(8 / 10)
    assert str(report).splitlines() == [
        "a.pth: 8 of 10 tensors loaded",
        "  1 missing: neck.bias",
        "  1 unexpected: neck.scale",
        "  1 mismatched: neck.weight: (3, 2) in the file, (2, 2) in the model",
    ]


def test_too_little_is_refused_and_leaves_the_module_untouched():
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"a.pth: 7 of 11 tensors loaded") as caught:
        load_weights(
            target, {k: v + 1 for k, v in target.state_dict().items() if "body.1" in k or "neck" in k}, "a.pth"
        )
    assert "missing: body.0.weight" in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_a_file_that_has_nothing_in_common_is_refused():
    with pytest.raises(CheckpointError, match="0 of 10 tensors loaded"):
        load_weights(network(), {"x": torch.zeros(1)}, "a.pth")


def test_conversion_sees_names_without_their_prefix():
    state = {f"module.{name}": value for name, value in network().state_dict().items()}
    seen = []
    load_weights(network(), state, "file", convert=lambda found: seen.extend(found) or found)
    assert "neck.weight" in seen


def test_a_long_list_is_cut():
    report = LoadReport("file", (), missing=tuple("abcdefgh"))
    assert str(report).splitlines()[1] == "  8 missing: a, b, c, d, e, …"


@pytest.mark.parametrize("container", ["model", "state_dict", None])
def test_reads_all_containers(tmp_path, container):
    state = {"a": torch.arange(3)}
    torch.save({container: state, "epoch": 4} if container else state, tmp_path / "w.pt")
    assert torch.equal(read_weights(tmp_path / "w.pt")["a"], state["a"])


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_unreadable_files(tmp_path, capsys):
    with pytest.raises(CheckpointError, match="no such file of weights"):
        read_weights(tmp_path / "absent.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(CheckpointError, match="not a readable file of plain tensors"):
            read_weights(tmp_path / name)
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    torch.save({"model": Malicious()}, tmp_path / "code.pth")
    for name in ("pickle.pth", "code.pth"):
        with pytest.raises(CheckpointError, match="not a readable file of plain tensors"):
            read_weights(tmp_path / name)
    assert "executed" not in capsys.readouterr().out
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        read_weights(tmp_path / "empty.pth")


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}, 16),  # more than there is
        ({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}}, 16),  # a product that overflows
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, 24),  # a hole
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, 16),  # backwards
        ({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, 16),
        ({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, 16),
        ({"a": 3}, 16),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, header, body):
    text = json.dumps(header).encode()
    (tmp_path / "lies.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(body))
    with pytest.raises(CheckpointError, match="not a readable file of plain tensors"):
        read_weights(tmp_path / "lies.safetensors")


def test_a_safetensors_header_of_a_size_that_no_file_has_is_refused(tmp_path):
    for size in (2**63, 2**64 - 1, 10**9):
        (tmp_path / "lies.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
        with pytest.raises(CheckpointError, match="not a readable file of plain tensors"):
            read_weights(tmp_path / "lies.safetensors")
