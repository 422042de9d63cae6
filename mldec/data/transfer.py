"""One file from one url: every attempt resumes where the last one ended, if the server still has the same file."""

from __future__ import annotations

import errno
import http.client
import io
import json
import os
import re
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from mldec.data.watch import Watch
from mldec.errors import DataError, shortened, whole_number
from mldec.files import replacing, without_links
from mldec.untrusted import read_bytes

SCHEMES = ("http", "https")
TIMEOUT = 60.0  # seconds without a byte
LONGEST_PAUSE = 60.0  # seconds between two attempts
CHUNK = 2**18  # bytes
TEMPORARY = (408, 425, 429)  # status codes below 500 after which another attempt may succeed

LEAST_GAIN = 2**12  # bytes that an attempt must bring to count as progress
MOST_UNANNOUNCED = 2**38  # bytes (256 GiB) of a body of unknown length; the largest published file has 50 GB
MOST_NOTED = 2**16  # bytes of a note about a part
MARGIN = 2**28  # bytes that stay free on the disk
SPACE_EVERY = 2**24  # bytes after which the free space on the disk is checked again


class TransferError(Exception):
    """Why a url gave no complete file. `final`: another attempt cannot succeed; `slow`: it brought too little."""

    def __init__(self, reason: str, *, final: bool = False, slow: bool = False) -> None:
        super().__init__(reason)
        self.final, self.slow = final, slow


def receive(
    url: str,
    part: str,
    *,
    size: int | None,
    attempts: int,
    pause: float,
    wait: Callable[[float], None],
    on_bytes: Callable[[int, int | None], None],
) -> None:
    """Complete the file `part` from `url`.

    What `part` already holds is kept if the server confirms, by the ETag or date noted in `<part>.json`, that it still
    has the same file and sends the rest; otherwise it is fetched anew.

    Args:
        url: http or https; so must be everything that it redirects to.
        size: bytes, if known; a server that offers another number gets no further request.
        attempts: in a row; one that brings at least LEAST_GAIN bytes is counted as the first again.
        pause: seconds before the second of these; doubled each time.
        wait: sleeps for so many seconds.
        on_bytes: called with the bytes so far and the bytes in all, if known. What it or `wait` raises stops the work;
            `part` can then be resumed.

    Raises:
        TransferError: the file did not come, or not to its end.
        OSError: `part` cannot be written.
    """
    furthest, failures = bytes_in(part), 0
    while True:
        try:
            return _attempt(url, part, size, on_bytes)
        except TransferError as error:
            # Attempts that make progress are not limited: large files come over bad lines.
            gain = bytes_in(part) - furthest
            failures = failures + 1 if gain < LEAST_GAIN or error.slow else 1
            furthest += max(0, gain)
            if error.final:
                raise
            if failures >= attempts:
                raise TransferError(f"{error}; given up after {attempts} attempts") from None
        wait(min(pause * 2 ** (failures - 1), LONGEST_PAUSE))


def remove(part: str) -> None:
    """Delete `part` and what is noted beside it, as far as they exist."""
    for path in (part, part + ".json"):
        if os.path.exists(path):
            os.unlink(path)


def bytes_in(path: str) -> int:
    """The size of a file; 0 if there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def _attempt(url: str, part: str, size: int | None, on_bytes: Callable[[int, int | None], None]) -> None:
    if urlsplit(url).scheme not in SCHEMES:  # for another one there is no handler, and no response
        raise TransferError(f"refused; allowed: {', '.join(SCHEMES)}", final=True)
    have = bytes_in(part)
    validator, noted = _noted(part)
    if have and have == noted:
        return
    if validator is None:
        have = 0
    with Watch() as watch:
        try:
            response = _open(url, part, have, validator, watch)
            if response is None:
                return
            with response:
                have, total = _extent(response, part, have, noted)
                _check_offer(url, response.headers, total, size)
                expected = size if total is None else total
                have = _write_body(response, part, have, total, expected, on_bytes, watch)
        except TransferError as error:
            raise TransferError(watch.reason(), slow=True) if watch.slow else error from None
    if expected is not None and have > expected:
        remove(part)
        raise TransferError(f"more than the {expected:,} bytes that were expected came", final=True)
    if expected is not None and have < expected:
        raise TransferError(f"the connection ended after {have:,} of {expected:,} bytes")


def _write_body(
    response: Any,
    part: str,
    have: int,
    total: int | None,
    expected: int | None,
    on_bytes: Callable[[int, int | None], None],
    watch: Watch,
) -> int:
    """Append the body of a response to `part`, which has `have` bytes of the file. Returns how many it has then.

    Stops after more than `expected` bytes. Raises OSError where the disk has too little free space, and
    TransferError where the connection breaks, is too slow, or brings more than MOST_UNANNOUNCED.
    """
    free = shutil.disk_usage(os.path.dirname(part)).free
    if expected is not None and expected - have > free:
        raise OSError(errno.ENOSPC, f"{expected - have:,} bytes are needed, {free:,} are free", part)
    with open(part, "ab" if have else "wb", opener=without_links) as file:
        if not have:  # only now that the file is empty: the note must never describe other bytes than those there
            _note(part, response.headers, total)
        on_bytes(have, expected)
        looked = have
        while chunk := _read(response, watch):
            have += len(chunk)
            if expected is not None and have > expected:
                break
            if expected is None and have > MOST_UNANNOUNCED:
                remove(part)
                raise TransferError(
                    f"more than {MOST_UNANNOUNCED:,} bytes came, and the server announces no size",
                    final=True,
                )
            if have - looked >= SPACE_EVERY:
                looked = have
                _check_space(part, keep=expected is not None)
            on_bytes(have, expected)  # may stop us, and after a stop nothing is written: another call may do so
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return have


def _check_space(part: str, *, keep: bool) -> None:
    """Raise OSError when the disk is nearly full; a part of unknown final size is not kept then."""
    free = shutil.disk_usage(os.path.dirname(part)).free
    if free < MARGIN:
        if not keep:
            remove(part)
        raise OSError(errno.ENOSPC, f"{free:,} bytes are left on the disk, {MARGIN:,} are to stay free", part)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any) -> Any:
        target = headers.get("Location") or headers.get("URI") or ""
        fp.close()
        try:
            scheme = urlsplit(target).scheme or req.type
        except ValueError:
            scheme = ""
        if scheme not in SCHEMES or (req.type, scheme) == ("https", "http"):
            raise TransferError(f"it redirects to {shortened(target, 200)}, which is refused", final=True)
        # The body of a redirect, which urllib would read to its end however long it is, is not needed.
        return super().http_error_302(req, io.BytesIO(), code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener(watch: Watch) -> urllib.request.OpenerDirector:
    """Handlers for http and https and none else: file:, ftp: and data: have no handler."""

    def watched(kind: Any) -> Any:
        class Connection(kind):
            def connect(self) -> None:
                super().connect()
                watch.follow(self.sock)

        return Connection

    class Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(watched(http.client.HTTPConnection), req)

        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(watched(http.client.HTTPSConnection), req)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        Handler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _open(url: str, part: str, have: int, validator: str | None, watch: Watch) -> Any:
    """The response; None if the server reports that `part` is complete."""
    headers = {"User-Agent": "mldec", "Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        return _opener(watch).open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            if (error.headers.get("Content-Range") or "").strip() == f"bytes */{have}":
                return None
            remove(part)
            raise TransferError("the server has a shorter file than the part kept here") from None
        final = error.code < 500 and error.code not in TEMPORARY
        raise TransferError(f"HTTP {error.code} {error.reason}", final=final) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        unknown = isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN
        final = unknown or isinstance(error, ValueError) or isinstance(reason, ssl.SSLCertVerificationError)
        raise TransferError(f"no connection: {_describe(reason)}", final=final) from None


def _extent(response: Any, part: str, have: int, noted: int | None) -> tuple[int, int | None]:
    """The byte of the file at which the response begins, and the size of the file, if the server reports it."""
    length = response.headers.get("Content-Length")
    total = None if length is None else whole_number(length.strip())
    if length is not None and total is None:
        raise TransferError(
            f"the server announces Content-Length {shortened(length)}, expected a whole number of bytes", final=True
        )
    if response.status != 206:
        return 0, total
    content_range = (response.headers.get("Content-Range") or "").strip()
    match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", content_range)
    if match is None or int(match[1]) != have or (noted is not None and match[2] not in ("*", str(noted))):
        remove(part)
        raise TransferError("the server sent another part of the file than requested")
    return have, whole_number(match[2]) if noted is None else noted


def _check_offer(url: str, headers: Message, total: int | None, size: int | None) -> None:
    if size is not None and total is not None and total != size:
        raise TransferError(f"the server's file has {total:,} bytes, the published one {size:,}", final=True)
    if headers.get_content_type() == "text/html" and not urlsplit(url).path.endswith((".html", ".htm")):
        raise TransferError("a web page came in place of the file", final=True)


def _read(response: Any, watch: Watch) -> bytes:
    try:
        data: bytes = response.read1(CHUNK)  # the bytes so far, so that little is lost when the connection breaks
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of a chunk's size that is no number
        raise TransferError(f"the connection broke: {_describe(error)}") from None
    if not data and watch.slow:  # which must not be taken for the end of the file
        raise TransferError(watch.reason(), slow=True)
    watch.received += len(data)
    return data


def _note(part: str, headers: Message, total: int | None) -> None:
    """Write down what identifies the same file later: an ETag, unless weak, or else the date of the last change."""
    etag = headers.get("ETag")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    with replacing(part + ".json") as partial, partial.open("w", encoding="utf-8") as file:
        json.dump({"validator": validator, "total": total}, file)


def _noted(part: str) -> tuple[str | None, int | None]:
    try:
        noted = json.loads(read_bytes(part + ".json", most=MOST_NOTED))
        validator, total = noted["validator"], noted["total"]
    except (DataError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, None
    if not isinstance(validator, str | None) or not isinstance(total, int | None):
        return None, None
    return validator, total


def _describe(error: object) -> str:
    return str(error) or type(error).__name__
