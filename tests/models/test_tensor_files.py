"""Property: a file of tensors is read as what it is; one that asks for more than it holds is refused."""

from __future__ import annotations

import argparse
import collections
import time
import zipfile

import pytest
import torch

from mldec.errors import CheckpointError
from mldec.models.tensor_files import check_names, read_torch_file

SECONDS = 30  # on a busy machine; each takes a fraction of one


def same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before 1.6"])
def test_what_torch_saves_comes_back(tmp_path, zipped):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(12.0)
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [shared, shared[2:8].view(2, 3).t(), shared[:0]],
        "numbers": (1, -(2**40), 2**63, 0.5, True, None, float("inf")),
        "half": torch.randn(3).half(),
        "bf16": torch.randn(3).bfloat16(),
        "whole": torch.zeros(2, 0, 3, dtype=torch.int64),
        "one": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([1, 2]),
        "text": "naïve\n" * 3,
    }
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read_torch_file(tmp_path / "x.pt")
    assert same(found, content)
    assert type(found["model"]) is dict
    assert type(found["parameter"]) is torch.Tensor
    torch.save({"args": argparse.Namespace(lr=3)}, tmp_path / "y.pt", _use_new_zipfile_serialization=zipped)
    assert read_torch_file(tmp_path / "y.pt")["args"].lr == 3


def repacked(source, target, change=lambda name, content: content, packed=(), records=()):
    """A copy of an archive; `change` gives the content of each record, `packed` are deflated, `records` are more."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            kind = zipfile.ZIP_DEFLATED if item.filename.endswith(packed or "\0") else zipfile.ZIP_STORED
            new.writestr(item.filename, change(item.filename, old.read(item)), kind)
        for name, content in records:
            new.writestr(name, content)
    return target


@pytest.fixture
def sound(tmp_path):
    torch.save({"a": torch.arange(4.0), "b": torch.ones(300)}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def pickled(sound, target, content):
    """The archive `sound` with another pickle."""
    return repacked(sound, target, lambda name, old: content if name.endswith("data.pkl") else old)


def nested(levels):
    value: list = []
    for _ in range(levels):
        value = [value, value]
    return value


def attributed(**values):
    ordered = collections.OrderedDict(a=torch.ones(1))
    ordered.__dict__.update(values)
    return ordered


TENSOR = (
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0%sX\x03\0\0\0cpuJ%stQ"
    b"K\0(J%st(J%st\x89ccollections\nOrderedDict\n)RtR."
)


def rebuilt(key=b"0", count=4, shape=4, stride=1):
    return TENSOR % (key, *(number.to_bytes(4, "little") for number in (count, shape, stride)))


def test_the_archive_of_these_tests_is_itself_sound(sound, tmp_path):
    assert torch.equal(read_torch_file(pickled(sound, tmp_path / "y.pt", rebuilt())), torch.arange(4.0))
    repacked(sound, tmp_path / "z.pt")
    assert torch.equal(read_torch_file(tmp_path / "z.pt")["b"], torch.ones(300))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rebuilt(count=2**30, shape=2**30), "storage '0' should have .* bytes and has 16"),
        (rebuilt(count=3), "storage '0' should have 12 bytes and has 16"),
        (rebuilt(key=b"7"), "should have 16 bytes and has 0"),
        (rebuilt(shape=2**30, stride=0), "a tensor of shape .* has a storage of 16 bytes"),
        (rebuilt(shape=4, stride=2), "a tensor of shape .* has a storage of 16 bytes"),
        (b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R.", "it holds builtins.bytearray"),
        (b"\x80\x02ctorch\nFloatTensor\nJ\0\0\0\x7f\x85R.", "it holds torch.FloatTensor"),
        (b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x04\0\0\0idna\x86R.", "it holds _codecs.encode"),
        (b"\x80\x02cos\nsystem\nX\x01\0\0\0a\x85R.", "it holds os.system"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "it uses memo index .* after 3 operations"),
        (b"\x80\x02\x8b\0\0\0\x10" + bytes(100) + b".", "LONG4|not enough data"),
        (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "an integer of 2,0.. bits"),
        (b"\x80\x02]q\0h\0a.", "one of its lists contains itself"),
        (b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".", "more than 64 levels"),
    ],
)
def test_a_pickle_that_asks_for_more_than_there_is(sound, tmp_path, content, message):
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(pickled(sound, tmp_path / "y.pt", content))
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before 1.6"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1).expand(10**12)}, "has a storage of 4 bytes"),
        ({"a": [torch.zeros(100)] * 3 + [torch.zeros(100).view(100)], "b": [torch.ones(9)[:] for _ in range(3)]}, None),
        (nested(60), "nested lists and dicts expand to more than"),
        ({"a": torch.eye(3).to_sparse()}, "it holds torch"),
        (["x" * 10**5] + [["y" * 100_000]] * 10_000, "nested lists and dicts expand to more than"),
        (10**400, "LONG|bits"),
        (attributed(values=3, get=4), None),
    ],
    ids=["expanded", "shared tensors", "shared lists", "sparse", "shared text", "number", "methods"],
)
def test_what_becomes_more_than_the_file_is_refused(tmp_path, content, message, zipped):
    began = time.monotonic()
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    if message is None:
        found = read_torch_file(tmp_path / "x.pt")
        assert list(found.values())
        assert found.get("z") is None
    else:
        with pytest.raises(CheckpointError, match=message):
            read_torch_file(tmp_path / "x.pt")
    assert time.monotonic() - began < SECONDS


def test_one_storage_seen_many_times_is_refused(tmp_path):
    whole = torch.zeros(10**5)
    torch.save([whole.view(-1)[:] for _ in range(50)], tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="view the bytes of the file more than 4 times"):
        read_torch_file(tmp_path / "x.pt")


def test_an_archive_with_packed_records_is_refused(sound, tmp_path):
    with pytest.raises(CheckpointError, match=r"its record x/data/1 is compressed .*1,200\), which torch never does"):
        read_torch_file(repacked(sound, tmp_path / "y.pt", packed=("data/1",)))
    zeros = repacked(sound, tmp_path / "z.pt", lambda name, old: old + bytes(2**24) * name.endswith("pkl"), ("pkl",))
    assert zeros.stat().st_size < 2**20
    with pytest.raises(CheckpointError, match="is compressed"):
        read_torch_file(zeros)


def test_an_archive_that_two_readers_could_read_as_two_is_refused(sound, tmp_path):
    whole = sound.read_bytes()
    for changed in (whole + b"x", whole + whole, b"PK\x03\x04" + whole, whole[:-1], whole[:500]):
        (tmp_path / "y.pt").write_bytes(changed)
        with pytest.raises(CheckpointError, match="archive"):
            read_torch_file(tmp_path / "y.pt")
    with pytest.warns(UserWarning, match="Duplicate"):
        repacked(sound, tmp_path / "y.pt", records=[("x/data/0", b"\0" * 16)])
    with pytest.raises(CheckpointError, match="two records of one name"):
        read_torch_file(tmp_path / "y.pt")
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(tmp_path / "z.pt", "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
        new.writestr("x/data/2", bytes(1200))
        new.infolist()[-1].header_offset = new.infolist()[-2].header_offset
    with pytest.raises(CheckpointError, match="shares bytes"):
        read_torch_file(tmp_path / "z.pt")


def test_the_old_format_is_believed_no_more_than_the_new_one(tmp_path):
    torch.save({"a": torch.ones(300)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x.pt").read_bytes()
    at = whole.index(b"M,\x01")  # 300
    (tmp_path / "y.pt").write_bytes(whole[:at] + b"J\0\0\0\x7f" + whole[at + 3 :])
    with pytest.raises(CheckpointError, match=r"should have more bytes than the .* of the file"):
        read_torch_file(tmp_path / "y.pt")
    for content in (b"", b"\0" * 1000, b"not weights", whole[: len(whole) // 2]):
        (tmp_path / "y.pt").write_bytes(content)
        with pytest.raises(CheckpointError):
            read_torch_file(tmp_path / "y.pt")


def test_names_that_no_module_has_are_refused():
    check_names([".".join(["layer"] * 12)], "file")
    for name in ("a" * 1000, "." * 10**5, ".".join("a" * 65)):
        with pytest.raises(CheckpointError, match="file: a tensor has a name of"):
            check_names([name], "file")
    with pytest.raises(CheckpointError, match="file: a tensor has the name '1'"):
        check_names([1], "file")
