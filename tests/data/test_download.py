import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mldec.data import download as room
from mldec.data import transfer, watch
from mldec.data.download import Download, fetch
from mldec.data.unpack import UNFINISHED
from mldec.errors import ConfigError, DataError
from tests.data.test_unpack import make_tar, make_zip, tree

CONTENT = os.urandom(300_000)


@dataclass
class Page:
    """What the server does with requests for a path."""

    content: bytes = CONTENT
    ranges: bool = True
    etag: str | None = '"1"'
    modified: str | None = None
    statuses: list[int] = field(default_factory=list)  # answered first, one a request
    drops: list[int] = field(default_factory=list)  # then the connection ends after so many bytes, one a request
    announced: int | None = None  # a Content-Length that is not true
    location: str | None = None
    kind: str = "application/octet-stream"
    hold: tuple[int, threading.Event] | None = None  # send so many bytes, then wait
    gate: threading.Barrier | None = None
    length: str | None = None  # the header Content-Length as it is; empty: none is sent
    drip: str | None = None  # what comes a byte at a time: the "headers", a "chunk" size, or the "body"


class Site:
    """A server on the loopback, and a record of what it was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def add(self, name: str, **behaviour) -> str:
        self.pages["/" + name] = Page(**behaviour)
        return self.url(name)

    def asked(self, name: str) -> list[str | None]:
        """The ranges of all requests for a path."""
        return [span for path, span in self.requests if path == "/" + name]

    @staticmethod
    def drip(request: BaseHTTPRequestHandler) -> None:
        """A byte now and then, until nobody listens."""
        with contextlib.suppress(OSError):
            for _ in range(200):
                request.wfile.write(b"1")
                time.sleep(0.05)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        span = request.headers.get("Range")
        self.requests.append((request.path, span))
        page = self.pages.get(request.path)
        if page is None:
            return request.send_error(404)
        if page.gate is not None:
            page.gate.wait(timeout=5)
        if page.statuses:
            return request.send_error(page.statuses.pop(0))
        if page.location is not None:
            request.send_response(302)
            request.send_header("Location", page.location)
            request.end_headers()
            return self.drip(request) if page.drip == "redirect" else None
        same = request.headers.get("If-Range") in (page.etag, page.modified)
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and page.ranges and same else None
        if start is not None and start >= len(page.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(page.content)}")
            return request.end_headers()
        body = page.content[start or 0 :]
        if page.drip == "headers":
            request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            return self.drip(request)
        request.send_response(200 if start is None else 206)
        length = page.length if page.length is not None else str(page.announced or len(body))
        if length:
            request.send_header("Content-Length", length)
        if page.drip == "chunk":
            request.send_header("Transfer-Encoding", "chunked")
        request.send_header("Content-Type", page.kind)
        if start is not None:
            end, total = len(page.content) - 1, len(page.content)
            request.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        for name, value in (("ETag", page.etag), ("Last-Modified", page.modified)):
            if value:
                request.send_header(name, value)
        request.end_headers()
        if page.drip is not None:
            return self.drip(request)
        if page.hold is not None:
            amount, release = page.hold
            request.wfile.write(body[:amount])
            release.wait(timeout=5)
            body = body[amount:]
        request.wfile.write(body[: page.drops.pop(0)] if page.drops else body)
        return None


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()
    site.thread.join()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def item(*urls: str, file: str = "file.bin", **details) -> Download:
    return Download(file=file, urls=urls, **details)


def one(*urls: str, **details) -> list[Download]:
    return [item(*urls, **details)]


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# A file ---------------------------------------------------------------------------------------------------------------


def test_the_bytes_arrive_and_are_reported(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    url = site.add("a")
    (known,) = fetch(one(url, checksum=sha256(CONTENT)), str(tmp_path), on_bytes=lambda *call: seen.append(call))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file.bin"]
    assert seen[0] == ("file.bin", 0, len(CONTENT))
    assert seen[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert [have for _, have, _ in seen] == sorted(have for _, have, _ in seen)
    assert str(known) == f"file.bin: 300,000 bytes from {url}, sha256 as expected; now {tmp_path}/file.bin"
    md5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
    assert fetch(one(url, checksum=md5, file="sub/b"), str(tmp_path))[0].checked
    (unknown,) = fetch(one(url, file="c"), str(tmp_path))
    assert not unknown.checked
    assert f"no checksum is known; its sha256 is {sha256(CONTENT)[7:]}" in str(unknown)


def test_what_is_there_is_not_asked_for(site: Site, tmp_path: Path) -> None:
    wanted = one(site.url("never"), provides=("images/", "list.txt", "train/0*.jpg"))
    (tmp_path / "images").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "list.txt").touch()
    (tmp_path / "train" / "01.jpg").touch()
    with pytest.raises(DataError, match="404"):  # an empty folder is nothing
        fetch(wanted, str(tmp_path))
    (tmp_path / "images" / "1.jpg").touch()
    site.requests.clear()
    assert fetch(wanted, str(tmp_path))[0].action == "there"
    assert str(fetch(wanted, str(tmp_path))[0]) == f"file.bin: there already, in {tmp_path}/images/"
    (tmp_path / "train" / "01.jpg").rename(tmp_path / "train" / "11.jpg")
    assert site.requests == []
    with pytest.raises(DataError, match="404"):
        fetch(wanted, str(tmp_path))


@pytest.mark.parametrize("validator", [{"etag": '"7"'}, {"etag": None, "modified": "Tue, 10 Jul 2018 00:00:00 GMT"}])
def test_a_broken_connection_is_resumed(site: Site, tmp_path: Path, validator: dict) -> None:
    """Each request asks for what is missing and no more, as often as it takes."""
    url = site.add("a", drops=[100_000, 50_000, 0, 7, 0], **validator)
    fetch(one(url, checksum=sha256(CONTENT)), str(tmp_path), attempts=5, pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    starts = [None, 100_000, 150_000, 150_000, 150_007, 150_007]
    assert site.asked("a") == [None if start is None else f"bytes={start}-" for start in starts]


def test_a_later_call_resumes(site: Site, tmp_path: Path) -> None:
    url = site.add("a", drops=[120_000])
    with pytest.raises(DataError, match=r"Kept: .*\.downloads/file\.bin\.part, 120,000 bytes; run the command again"):
        fetch(one(url), str(tmp_path), attempts=1)
    assert below(tmp_path) == [".downloads/file.bin.part", ".downloads/file.bin.part.json"]
    fetch(one(url), str(tmp_path))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert site.asked("a") == [None, "bytes=120000-"]
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": '"2"'}, {"etag": None}, {"etag": 'W/"1"'}])
def test_what_cannot_be_resumed_begins_anew(site: Site, tmp_path: Path, change: dict) -> None:
    """A server without ranges; a file that changed; one of which nobody can say whether it did."""
    before = dict(change) if "ranges" in change or change["etag"] != '"2"' else {}
    url = site.add("a", content=bytes(300_000), drops=[120_000], **before)
    with pytest.raises(DataError):
        fetch(one(url), str(tmp_path), attempts=1)
    site.add("a", **change)
    fetch(one(url), str(tmp_path), attempts=1)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("noted", [True, False])
def test_a_complete_part_is_only_finished(site: Site, tmp_path: Path, noted: bool) -> None:
    """Killed between the last byte and the new name: no byte is asked for, or the server says 416."""
    url = site.add("a")
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "file.bin.part").write_bytes(CONTENT)
    note = {"validator": '"1"', "total": len(CONTENT) if noted else None}
    (tmp_path / ".downloads" / "file.bin.part.json").write_text(json.dumps(note))
    fetch(one(url, checksum=sha256(CONTENT)), str(tmp_path))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert site.asked("a") == ([] if noted else ["bytes=300000-"])


def test_a_part_that_is_too_long_begins_anew(site: Site, tmp_path: Path) -> None:
    url = site.add("a")
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "file.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / ".downloads" / "file.bin.part.json").write_text('{"validator": "\\"1\\"", "total": null}')
    fetch(one(url), str(tmp_path), pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert site.asked("a") == ["bytes=300004-", None]


def test_passing_trouble_is_waited_out(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(room._Work, "wait", lambda self, seconds: pauses.append(seconds))
    url = site.add("a", statuses=[500, 503, 429], announced=None)
    fetch(one(url), str(tmp_path), attempts=4, pause=2.0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert pauses == [2.0, 4.0, 8.0]


# Mirrors --------------------------------------------------------------------------------------------------------------


def test_the_next_mirror_is_taken(site: Site, tmp_path: Path) -> None:
    mirrors = [
        site.add("forbidden", statuses=[403]),
        site.url("absent"),
        site.add("down", statuses=[500, 500]),
        site.add("short", announced=400_000),
        site.add("wrong", content=bytes(300_000), etag='"2"'),
        site.add("longer", content=CONTENT + b"more", etag='"3"'),
        site.add("page", content=b"<html>log in</html>", kind="text/html; charset=utf-8", etag='"4"'),
        site.add("good", etag='"5"'),
        site.url("never"),
    ]
    details = {"checksum": sha256(CONTENT), "size": len(CONTENT)}
    (record,) = fetch(one(*mirrors, **details), str(tmp_path), attempts=2, pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert record.url == site.url("good")
    names = [path[1:] for path, _ in site.requests]
    assert names == ["forbidden", "absent", "down", "down", "short", "wrong", "longer", "page", "good"]


def test_wrong_bytes_never_have_the_final_name(site: Site, tmp_path: Path) -> None:
    url = site.add("a", content=b"wrong")
    with pytest.raises(DataError) as caught:
        fetch(one(url, checksum=sha256(CONTENT)), str(tmp_path))
    assert f"its sha256 is {sha256(b'wrong')[7:]}, not {sha256(CONTENT)[7:]}" in str(caught.value)
    assert below(tmp_path) == []


def test_a_body_that_is_too_short_is_no_file(site: Site, tmp_path: Path) -> None:
    short = site.add("short", announced=400_000, etag=None)
    with pytest.raises(DataError, match=r"after 300,000 of 400,000 bytes; given up after 2 attempts"):
        fetch(one(short), str(tmp_path), attempts=2, pause=0)
    assert site.asked("short") == [None, None]
    assert below(tmp_path) == [".downloads/file.bin.part", ".downloads/file.bin.part.json"]


def test_when_all_fails_everything_is_named(site: Site, tmp_path: Path) -> None:
    gone, down = site.url("gone"), site.add("down", drops=[1000, 0], statuses=[500])
    wanted = [item(gone, down, unpack=".", file="x.zip"), item(site.add("fine"), file="fine.bin")]
    with pytest.raises(DataError) as caught:
        fetch(wanted, str(tmp_path), attempts=2, pause=0)
    message = str(caught.value)
    assert f"{gone}: HTTP 404 Not Found" in message
    assert f"{down}: the connection ended after 1,000 of 300,000 bytes; given up after 2 attempts" in message
    assert f"Kept: {tmp_path}/.downloads/x.zip.part, 1,000 bytes" in message
    assert f"put it at {tmp_path}/.downloads/x.zip and run the command again" in message
    assert "There now: fine.bin" in message
    assert (tmp_path / "fine.bin").read_bytes() == CONTENT


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataError, match=r"http://127.0.0.1:1/a: no connection: .*refused; given up after 2 attempts"):
        fetch(one("http://127.0.0.1:1/a"), str(tmp_path), attempts=2, pause=0)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_other_schemes_are_refused(site: Site, tmp_path: Path, target: str) -> None:
    with pytest.raises(DataError, match=f"it redirects to {target}, which is refused"):
        fetch(one(site.add("a", location=target)), str(tmp_path))
    assert below(tmp_path) == []


def test_the_body_of_a_redirect_is_not_read(site: Site, tmp_path: Path) -> None:
    site.add("target")
    began = time.monotonic()
    fetch(one(site.add("a", location="/target", drip="redirect")), str(tmp_path), pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert time.monotonic() - began < 5  # its body takes 10 s, or for ever


def test_redirects_are_followed_with_the_range(site: Site, tmp_path: Path) -> None:
    site.add("target", drops=[1000])
    fetch(one(site.add("a", location="/target")), str(tmp_path), pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert site.asked("target") == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"urls": ("file:///etc/passwd",)}, "allowed: http, https"),
        ({"urls": ("ftp://x/y",)}, "allowed: http, https"),
        ({"file": "../x"}, "does not lie below"),
        ({"file": "/x"}, "does not lie below"),
        ({"file": ""}, "does not lie below"),
        ({"unpack": "a/../.."}, "does not lie below"),
        ({"unpack": ".downloads"}, "does not lie below"),
        ({"provides": ("..\\x",)}, "does not lie below"),
        ({"checksum": "sha1:00"}, "neither md5"),
        ({"checksum": "md5:" + "0" * 31}, "neither md5"),
        ({"file": "x.rar", "unpack": "."}, r"allowed: \.zip"),
    ],
)
def test_unsafe_descriptions_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Download(**{"file": "x.zip", "urls": ("http://x/y",)} | change)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parallel=0: use 1 or more"):
        fetch([], str(tmp_path), parallel=0)
    with pytest.raises(DataError, match=r"file\.bin is listed twice"):
        fetch(one("http://x/y") * 2, str(tmp_path))
    part = str(tmp_path / "part")
    with pytest.raises(transfer.TransferError, match="allowed: http, https"):
        transfer.receive("file:///x", part, size=None, attempts=1, pause=0, wait=print, on_bytes=print)


# Servers that mean harm -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["²", "-5", "9" * 5000, "1.5", "0x10", "1_000", "10**9"])
def test_a_length_that_is_none_is_refused(site: Site, tmp_path: Path, length: str) -> None:
    """`²` and the digits of other scripts are digits to Python, and 5,000 of them are too many for it."""
    with pytest.raises(DataError, match=r"announces Content-Length .*, expected a whole number of bytes") as caught:
        fetch(one(site.add("a", length=length)), str(tmp_path))
    assert len(str(caught.value)) < 500
    assert below(tmp_path) == []


def test_a_body_of_no_announced_length_is_taken_up_to_a_bound(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = site.add("a", length="")
    fetch(one(url), str(tmp_path))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    monkeypatch.setattr(transfer, "MOST_UNANNOUNCED", len(CONTENT) - 1)
    with pytest.raises(DataError, match="more than 299,999 bytes came, and the server announces no size"):
        fetch(one(url, file="b"), str(tmp_path))
    assert below(tmp_path) == ["file.bin"]
    fetch(one(url, file="c", size=len(CONTENT)), str(tmp_path))  # its length is known from elsewhere


def test_the_room_on_the_disk_is_looked_at_while_bytes_come(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, looks = shutil.disk_usage(tmp_path), []

    def disk_usage(path: str) -> shutil._ntuple_diskusage:
        looks.append(path)
        return usage._replace(free=10**12 if len(looks) == 1 else 1000)

    monkeypatch.setattr(transfer, "SPACE_EVERY", 1)
    monkeypatch.setattr(transfer.shutil, "disk_usage", disk_usage)
    with pytest.raises(DataError, match=r"1,000 bytes are left on the disk, .* free space"):
        fetch(one(site.add("a", length="")), str(tmp_path))
    assert below(tmp_path) == []  # nobody knows how much would still come


@pytest.mark.parametrize("what", ["body", "headers", "chunk"])
@pytest.mark.parametrize("length", [None, ""])
def test_a_byte_now_and_then_does_not_keep_a_connection(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, length: str | None
) -> None:
    """Each byte comes long before a socket's timeout. Ended by us, a body is not taken for complete."""
    monkeypatch.setattr(watch, "WINDOW", 0.3)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"less than 1,024 bytes/s for .* given up after 2 attempts"):
        fetch(one(site.add("a", drip=what, length=length)), str(tmp_path), attempts=2, pause=0)
    assert time.monotonic() - began < 8
    assert "file.bin" not in below(tmp_path)
    assert len(site.asked("a")) == 2


def test_a_byte_for_each_request_is_no_progress(site: Site, tmp_path: Path) -> None:
    url = site.add("a", drops=[1] * 100)
    with pytest.raises(DataError, match="given up after 3 attempts"):
        fetch(one(url), str(tmp_path), attempts=3, pause=0)
    assert len(site.asked("a")) == 3


@pytest.mark.parametrize(
    "note", ["[]", '{"validator": [1], "total": 1}', '{"validator": "1", "total": "x"}', "[" * 9999]
)
def test_a_strange_note_beside_a_part_means_nothing(site: Site, tmp_path: Path, note: str) -> None:
    url = site.add("a")
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "file.bin.part").write_bytes(b"part")
    (tmp_path / ".downloads" / "file.bin.part.json").write_text(note)
    fetch(one(url), str(tmp_path), pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


# By hand --------------------------------------------------------------------------------------------------------------


def test_a_file_put_there_by_hand_is_checked_and_used(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".downloads").mkdir()
    archive = make_zip(tmp_path / ".downloads" / "x.zip", {"a": b"1"})
    (tmp_path / "plain.csv").write_bytes(CONTENT)
    checksum = sha256(Path(archive).read_bytes())
    wanted = [
        item(site.url("never"), file="x.zip", checksum=checksum, unpack="."),
        item(site.url("never"), file="plain.csv", checksum=sha256(CONTENT)),
    ]
    records = fetch(wanted, str(tmp_path))
    assert [(record.action, record.checked) for record in records] == [("found", True)] * 2
    assert site.requests == []
    assert below(tmp_path) == ["a", "plain.csv"]


def test_a_wrong_file_put_there_by_hand_is_moved_aside(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"mine")
    fetch(one(site.add("a"), checksum=sha256(CONTENT)), str(tmp_path))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert (tmp_path / "file.bin.wrong").read_bytes() == b"mine"
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"file\.bin, found there: its sha256 is .*; moved to .*file\.bin\.wrong"):
        fetch(one(site.url("gone"), checksum=sha256(CONTENT)), str(tmp_path))


# Archives -------------------------------------------------------------------------------------------------------------


def test_archives_are_unpacked_and_merged(site: Site, tmp_path: Path) -> None:
    make_tar(tmp_path / "1.tar", {f"VOCdevkit/VOC2007/{n}": b"1" for n in range(50)})
    make_tar(tmp_path / "2.tar", {f"VOCdevkit/VOC2007/{n}": b"2" for n in range(50, 100)})
    root = tmp_path / "root"
    wanted = [
        item(
            site.add(f"{n}.tar", content=(tmp_path / f"{n}.tar").read_bytes(), etag=f'"{n}"'),
            file=f"{n}.tar",
            unpack=".",
            provides=(f"VOCdevkit/VOC2007/{start}",),
        )
        for n, start in ((1, 0), (2, 99))
    ]
    records = fetch(wanted, str(root))
    assert tree(root / "VOCdevkit" / "VOC2007") == {str(n): b"1" if n < 50 else b"2" for n in range(100)}
    assert os.listdir(root) == ["VOCdevkit"]
    assert [record.action for record in records] == ["fetched"] * 2
    site.requests.clear()
    assert [record.action for record in fetch(wanted, str(root))] == ["there"] * 2
    assert site.requests == []


def test_archives_are_kept_if_wanted(site: Site, tmp_path: Path) -> None:
    content = Path(make_zip(tmp_path / "x.zip", {"a": b"1"})).read_bytes()
    root = tmp_path / "root"
    fetch(one(site.add("x.zip", content=content), file="x.zip", unpack="in"), str(root), keep_archives=True)
    assert below(root) == [".downloads/x.zip", "in/a"]


def test_an_archive_that_is_none_is_like_a_wrong_file(site: Site, tmp_path: Path) -> None:
    """Without a checksum, that it cannot be unpacked is how one finds out."""
    content = Path(make_zip(tmp_path / "x.zip", {"a": b"1"})).read_bytes()
    root = tmp_path / "root"
    bad = site.add("bad", content=content[:-30], etag='"2"')
    with pytest.raises(DataError, match=r"bad: .*x\.zip cannot be unpacked"):
        fetch(one(bad, file="x.zip", unpack="."), str(root))
    assert below(root) == []
    fetch(one(bad, site.add("x.zip", content=content), file="x.zip", unpack="."), str(root))
    assert below(root) == ["a"]


def test_a_malicious_archive_is_refused_whole(site: Site, tmp_path: Path) -> None:
    content = Path(make_zip(tmp_path / "x.zip", {"good": b"1", "../../outside": b"2"})).read_bytes()
    root = tmp_path / "deep" / "root"
    with pytest.raises(DataError, match=r"'\.\./\.\./outside' is refused"):
        fetch(one(site.add("x.zip", content=content), file="x.zip", unpack="."), str(root))
    assert below(root) == [".downloads/x.zip"]
    assert sorted(os.listdir(tmp_path)) == ["deep", "x.zip"]
    content = Path(make_zip(tmp_path / "y.zip", {".downloads/other.zip": b"forged"})).read_bytes()
    with pytest.raises(DataError, match="the folder of the archive itself"):
        fetch(one(site.add("y.zip", content=content), file="y.zip", unpack="."), str(root))


def test_an_unpacking_cut_short_is_not_taken_for_done(site: Site, tmp_path: Path) -> None:
    """Killed while members were moved into place: `provides` may already be there, the rest is not."""
    (tmp_path / ".downloads").mkdir()
    archive = make_tar(tmp_path / ".downloads" / "x.tar", {"first": b"1", "second": b"2"})
    os.mkdir(archive + UNFINISHED)
    (tmp_path / "first").write_bytes(b"1")
    wanted = one(site.url("never"), file="x.tar", unpack=".", provides=("first",))
    assert fetch(wanted, str(tmp_path))[0].action == "found"
    assert below(tmp_path) == ["first", "second"]
    assert fetch(wanted, str(tmp_path))[0].action == "there"
    assert site.requests == []


# Many at once, and stops ----------------------------------------------------------------------------------------------


def test_files_are_fetched_at_the_same_time(site: Site, tmp_path: Path) -> None:
    """The server answers none of three before it has been asked for all of them; a fourth has to wait."""
    gate = threading.Barrier(3)
    wanted = [
        *(item(site.add(name, content=name.encode() * 9, gate=gate), file=name) for name in "abc"),
        item(site.add("d"), file="d"),
    ]
    records = fetch(wanted, str(tmp_path), parallel=3)
    assert [record.file for record in records] == ["a", "b", "c", "d"]
    assert {name: (tmp_path / name).read_bytes() for name in "abc"} == {name: name.encode() * 9 for name in "abc"}


def test_ctrl_c_leaves_parts_that_are_resumed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GRACE", 0.05)
    release = threading.Event()
    url = site.add("a", hold=(100_000, release))

    def on_bytes(file: str, have: int, total: int | None) -> None:
        if have == 100_000:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # A process that was started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(one(url), str(tmp_path), on_bytes=on_bytes)
    finally:
        signal.signal(signal.SIGINT, before)
    assert below(tmp_path) == [".downloads/file.bin.part", ".downloads/file.bin.part.json"]
    release.set()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.name.endswith("(thread)"):
            thread.join(5)
    site.add("a")
    fetch(one(url), str(tmp_path))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert site.asked("a") == [None, "bytes=100000-"]


def test_a_fault_in_a_thread_comes_out(site: Site, tmp_path: Path) -> None:
    def on_bytes(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch(one(site.add("a")), str(tmp_path), on_bytes=on_bytes)


def test_two_calls_do_not_write_to_the_same_part(site: Site, tmp_path: Path) -> None:
    def on_bytes(*_: object) -> None:
        fetch(one(site.url("b"), file="b"), str(tmp_path))

    with pytest.raises(DataError, match="another download into it is running"):
        fetch(one(site.add("a")), str(tmp_path), on_bytes=on_bytes)


def test_trouble_with_the_disk_is_one_line(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [item(site.add("a"), file="a"), item(site.add("b"), file="b")]
    (tmp_path / "root").touch()
    with pytest.raises(DataError, match=r"root.*: (File exists|Not a directory)"):
        fetch(wanted, str(tmp_path / "root"))
    usage = transfer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage._replace(free=299_999))
    with pytest.raises(
        DataError, match=r"300,000 bytes are needed, 299,999 are free; free space, or .*root=DIR"
    ) as caught:
        fetch(wanted, str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()
    monkeypatch.undo()

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr(room.os, "makedirs", denied)
    with pytest.raises(DataError, match="somewhere: Permission denied; root=DIR must be a folder that you"):
        fetch(wanted, str(tmp_path))
