import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from mldec.data import unpack as room
from mldec.data.unpack import BoundedHeader, DamagedArchive, unpack
from mldec.errors import DataError

TREE = {"VOCdevkit/VOC2007/a.txt": b"a", "VOCdevkit/VOC2007/sub/b.bin": bytes(range(256)), "top.txt": b"", "./c": b"c"}


def make_zip(path: Path, members: dict[str, bytes], modes: dict[str, int] | None = None) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return str(path)


def make_tar(path: Path, members: dict[str, bytes], **special: tarfile.TarInfo) -> str:
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in special.values():
            archive.addfile(info)
    return str(path)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.TGZ"])
def test_what_was_packed_comes_out(tmp_path: Path, name: str) -> None:
    make = make_zip if name == "x.zip" else make_tar
    unpack(make(tmp_path / name, TREE), str(tmp_path / "out"))
    assert tree(tmp_path / "out") == {os.path.normpath(name): content for name, content in TREE.items()}
    assert sorted(os.listdir(tmp_path)) == ["out", name] or sorted(os.listdir(tmp_path)) == [name, "out"]


def test_a_single_compressed_file_loses_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"a,b"))
    unpack(str(tmp_path / "labels.csv.gz"), str(tmp_path / "out"))
    assert tree(tmp_path / "out") == {"labels.csv": b"a,b"}


def test_folders_are_merged_and_a_top_folder_can_be_dropped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    unpack(make_tar(tmp_path / "a.tar", {"VOC/2007/a": b"1", "VOC/2007/same": b"old"}), str(out))
    unpack(make_tar(tmp_path / "b.tar", {"VOC/2007/same": b"new", "VOC/2012/c": b"3"}), str(out))
    assert tree(out) == {"VOC/2007/a": b"1", "VOC/2007/same": b"new", "VOC/2012/c": b"3"}
    unpack(make_tar(tmp_path / "train_0.tar.gz", {"train_0/x.jpg": b"x"}), str(out / "train"), top="train_0")
    unpack(make_tar(tmp_path / "train_1.tar.gz", {"train_1/y.jpg": b"y"}), str(out / "train"), top="train_1")
    assert tree(out / "train") == {"x.jpg": b"x", "y.jpg": b"y"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/outside", "absolute"),
        ("C:/outside", "absolute"),
        ("../outside", "leaves"),
        ("a/../../outside", "leaves"),
        ("..\\outside", "backslash"),
        ("a\\b", "backslash"),
    ],
)
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str, reason: str, suffix: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    make = make_zip if suffix == ".zip" else make_tar
    archive = make(place / f"x{suffix}", {"good": b"1", name: b"2"})
    with pytest.raises(DataError, match=reason) as caught:
        unpack(archive, str(place / "out"))
    assert repr(name) in str(caught.value)
    assert os.listdir(tmp_path) == ["place"]
    assert os.listdir(place) == [f"x{suffix}"]


@pytest.mark.parametrize(
    "member",
    [
        special("link", tarfile.SYMTYPE, "../.."),
        special("link", tarfile.SYMTYPE, "good"),
        special("link", tarfile.LNKTYPE, "good"),
        special("link", tarfile.CHRTYPE),
        special("link", tarfile.BLKTYPE),
        special("link", tarfile.FIFOTYPE),
    ],
    ids=["symlink-out", "symlink-in", "hardlink", "character", "block", "fifo"],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    archive = make_tar(tmp_path / "x.tar", {"good": b"1"}, member=member)
    with pytest.raises(DataError, match="'link' is refused: a link or device"):
        unpack(archive, str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["x.tar"]


def test_links_and_other_oddities_in_a_zip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="zero byte"):
        unpack(make_zip(tmp_path / "x.zip", {"a\0b": b"1"}), str(tmp_path / "out"))
    archive = make_zip(tmp_path / "x.zip", {"link": b"/etc"}, {"link": stat.S_IFLNK | 0o777})
    with pytest.raises(DataError, match="'link' is refused: a link or device"):
        unpack(archive, str(tmp_path / "out"))
    archive = make_zip(tmp_path / "y.zip", {"secret": b"1"})
    content = bytearray(Path(archive).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption, in the directory
    Path(archive).write_bytes(content)
    with pytest.raises(DataError, match="'secret' is refused: encrypted"):
        unpack(archive, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".gz"])
def test_bombs_are_refused_before_they_go_off(tmp_path: Path, suffix: str) -> None:
    zeros = bytes(40 * 2**20)
    if suffix == ".gz":
        path = tmp_path / "x.gz"
        path.write_bytes(gzip.compress(zeros))
    else:
        path = Path((make_zip if suffix == ".zip" else make_tar)(tmp_path / f"x{suffix}", {"bomb": zeros}))
    with pytest.raises(DataError, match=r"is refused: more than 300 times the archive's size"):
        unpack(str(path), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == [path.name]


def test_a_crowd_of_empty_files_is_a_bomb_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "x.tar.gz", {f"{number:06d}": b"" for number in range(4000)})
    packed = os.path.getsize(archive)
    assert packed * room.MOST_TIMES > 4000 * room.MEMBER_COST  # this one is honest
    unpack(archive, str(tmp_path / "out"))
    os.rename(tmp_path / "out", tmp_path / "was")
    monkeypatch.setattr(room, "MOST_TIMES", 1)
    monkeypatch.setattr(room, "SLACK", 0)
    with pytest.raises(DataError, match="as bombs are"):
        unpack(archive, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_no_room_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a": b"12345"})
    monkeypatch.setattr(room, "MARGIN", 2**62)
    with pytest.raises(OSError, match="bytes of room"):
        unpack(archive, str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.csv.gz"])
def test_damaged_archives_are_told_from_refused_ones(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = os.urandom(5000)
    if name == "x.csv.gz":
        path.write_bytes(gzip.compress(noise))
    else:
        (make_zip if name == "x.zip" else make_tar)(path, {"a": noise, "b": noise})
    whole = path.read_bytes()
    for content in (whole[:-3000], whole[: len(whole) // 2], b"<html>please log in</html>", b""):
        if name == "x.csv.gz" and not content:
            continue  # nothing at all is nothing compressed, to gzip
        if name == "x.tar" and content == whole[:-3000]:
            content = whole[: 512 + 5120]  # cut where the next member would begin
        path.write_bytes(content)
        with pytest.raises(DamagedArchive, match=f"{name} cannot be unpacked"):
            unpack(str(path), str(tmp_path / "out"))
        assert os.listdir(tmp_path) == [name]
    with pytest.raises(DataError, match=r"allowed: \.zip, \.tar"):
        unpack(str(tmp_path / "x.rar"), str(tmp_path / "out"))


def pax(**records: str) -> bytes:
    """Records of a pax header, each with its own length before it."""
    parts = []
    for key, value in records.items():
        text = f" {key.replace('__', '.')}={value}\n".encode()
        length = next(n for n in range(len(text), len(text) + 9) if len(str(n)) + len(text) == n)
        parts.append(str(length).encode() + text)
    return b"".join(parts)


def headed(path: Path, *headers: tuple[bytes, bytes, int], member: bytes = b"") -> str:
    """A .tar.gz with headers before its only member: type, content, and how many zeros come after that."""
    with gzip.open(path, "wb") as file:
        for kind, content, zeros in headers:
            info = tarfile.TarInfo("././@Header")
            info.type, info.size = kind, len(content) + zeros
            file.write(info.tobuf(tarfile.GNU_FORMAT) + content)
            for _ in range(zeros // 2**20):
                file.write(bytes(2**20))
            file.write(bytes(-len(content) % 512))
        info = tarfile.TarInfo("a")
        info.size = len(member)
        file.write(info.tobuf() + member + bytes(-len(member) % 512) + bytes(1024))
    return str(path)


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_a_header_of_megabytes_is_refused_unread(tmp_path: Path, kind: bytes) -> None:
    archive = headed(tmp_path / "x.tar.gz", (kind, b"", 256 * 2**20))
    tracemalloc.start()
    with pytest.raises(DamagedArchive, match=r"x\.tar\.gz cannot be unpacked: a header of 268,435,456 bytes; at most"):
        unpack(archive, str(tmp_path / "out"))
    with (
        pytest.raises(tarfile.ReadError, match="at most 262,144"),
        tarfile.open(archive, tarinfo=BoundedHeader) as opened,
    ):
        opened.getmembers()
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert os.listdir(tmp_path) == ["x.tar.gz"]


def test_headers_of_honest_size_are_read(tmp_path: Path) -> None:
    name = "/".join(["long" * 25] * 9)
    for kind, content in ((b"L", name.encode() + b"\0"), (b"x", pax(path=name, comment="c" * 2**17))):
        unpack(headed(tmp_path / "x.tar.gz", (b"g", pax(comment="f00"), 0), (kind, content, 0)), str(tmp_path / "out"))
        assert tree(tmp_path / "out") == {name: b""}


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", pax(GNU__sparse__map="1,x"), 0)],
        [(b"x", pax(GNU__sparse__size="x"), 0)],
        [(b"x", pax(GNU__sparse__major="1", GNU__sparse__minor="0"), 0)],
        [(b"x", pax(size="-1024"), 0)],
        [(b"x", b"9999999999999 a=b\n", 0), (b"x", b"0 a=b\n", 0)],
        [(b"g", pax(comment="a"), 0)] * 2000,
        [(b"g", pax(**{f"k{number}": "v" for number in range(200)}), 0)],
        [(b"S", b"", 0)],
        [(b"x", b"30 hdrcharset=\xff\xfe\n", 0)],
    ],
    ids=["map", "size", "sparse-1.0", "negative", "length", "nested", "global", "sparse", "charset"],
)
def test_headers_that_mean_harm_are_one_error_of_the_archive(
    tmp_path: Path, headers: list[tuple[bytes, bytes, int]]
) -> None:
    archive = headed(tmp_path / "x.tar.gz", *headers, member=b"1\n" * 512)
    with pytest.raises(DamagedArchive, match=r"x\.tar\.gz cannot be unpacked: ") as caught:
        unpack(archive, str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["x.tar.gz"]


def test_whatever_a_library_raises_is_one_error_of_the_archive(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"é.txt": b"x"})
    content = Path(archive).read_bytes()
    Path(archive).write_bytes(content.replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DamagedArchive, match=r"x\.zip cannot be unpacked: 'utf-8' codec"):
        unpack(archive, str(tmp_path / "out"))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(archive, "w", method) as packed:
            packed.writestr("a", b"a" * 1000)
        with pytest.raises(DataError, match="'a' is refused: packed by another method than deflate"):
            unpack(archive, str(tmp_path / "out"))
    for error in (
        lzma.LZMAError("x"),
        OSError("Invalid data stream"),
        RecursionError(),
        struct.error("x"),
        KeyError("x"),
    ):

        def keep_going(error: Exception = error) -> None:
            raise error

        with pytest.raises(DamagedArchive, match=r"x\.tar cannot be unpacked"):
            unpack(make_tar(tmp_path / "x.tar", {"a": b"1"}), str(tmp_path / "out"), keep_going=keep_going)
    with pytest.raises(DataError, match="is refused: File name too long"):
        unpack(make_tar(tmp_path / "x.tar", {"a" * 300: b"1"}), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["x.tar", "x.zip"]


def test_contradictions_are_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", {"a": b"1", "a/b": b"2"})
    with pytest.raises(DataError, match="'a/b' is refused: both a file and a folder"):
        unpack(archive, str(tmp_path / "out"))


def test_what_is_in_the_way_is_left_alone(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "file").mkdir(parents=True)
    outside.mkdir()
    (out / "linked").symlink_to(outside)
    own = make_tar(out / "own.tar", {"first": b"1", "x": b"2"})
    for members, message in [
        ({"first": b"1", "file": b"2"}, "is there, as folder"),
        ({"first": b"1", "own.tar/below": b"2"}, "is there, as file"),
        ({"first": b"1", "linked/below": b"2"}, "is a link"),
    ]:
        archive = make_tar(tmp_path / "x.tar", members)
        with pytest.raises(DataError, match=message):
            unpack(archive, str(out))
        assert sorted(os.listdir(out)) == ["file", "linked", "own.tar"]
    archive = make_tar(out / "file" / "y.tar", {"file/smuggled": b"1"})
    with pytest.raises(DataError, match="the folder of the archive itself"):
        unpack(archive, str(out))
    assert os.listdir(outside) == []
    assert os.path.exists(own)


def test_stopped_while_unpacking_leaves_nothing(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", TREE)
    calls = 0

    def keep_going() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, str(tmp_path / "out"), keep_going=keep_going)
    assert os.listdir(tmp_path) == ["x.tar"]


def test_stopped_while_moving_says_so_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "x.tar", {"a": b"1", "b": b"2", "c": b"3"})
    replace = os.replace
    with monkeypatch.context() as patch:

        def killed(source: str, place: str) -> None:
            if os.path.exists(tmp_path / "out" / "a") or os.listdir(tmp_path / "out"):
                raise KeyboardInterrupt
            replace(source, place)

        patch.setattr(room.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, str(tmp_path / "out"))
    assert len(os.listdir(tmp_path / "out")) == 1
    assert os.path.exists(archive + room.UNFINISHED)
    unpack(archive, str(tmp_path / "out"))
    assert tree(tmp_path / "out") == {"a": b"1", "b": b"2", "c": b"3"}
    assert not os.path.exists(archive + room.UNFINISHED)
