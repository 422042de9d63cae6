"""Downloading published files: in parallel, resumed after a stop, checked, unpacked; existing ones are left alone.

Unfinished files lie in `<root>/.downloads/`, and nowhere else: whatever has its final name is complete and checked.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from mldec.data import transfer
from mldec.data.transfer import TransferError, bytes_in
from mldec.data.unpack import SUFFIXES, UNFINISHED, DamagedArchive, unpack
from mldec.errors import ConfigError, DataError
from mldec.files import lock_file

FOLDER = ".downloads"  # below the root: parts, and archives until they are unpacked
GRACE = 2.0  # seconds that threads get to end by themselves after Ctrl-C
CHUNK = 2**20  # bytes

OnBytes = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Download:
    """A published file.

    Attributes:
        file: its name here, relative.
        urls: http or https, in the order in which they are tried.
        checksum: "md5:…" or "sha256:…", where one is known.
        size: bytes, where known.
        unpack: the folder below the dataset's root into which the archive is unpacked ("." is the root); None: the
            file itself is needed, as `root/file`.
        top: a folder in the archive that is left out when it is unpacked.
        provides: entries below the root that show that it is there already: files, folders ending in "/" that hold
            something, or patterns that some file matches, such as "train/0*.jpg".
    """

    file: str
    urls: tuple[str, ...]
    checksum: str | None = None
    size: int | None = None
    unpack: str | None = None
    top: str | None = None
    provides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in (self.file, self.unpack or ".", *self.provides):
            parts = path.removesuffix("/").split("/")
            if os.path.isabs(path) or "\\" in path or {"", ".."} & set(parts) or parts[0] == FOLDER:
                raise DataError(f"{self.file}: {path!r} does not lie below the dataset's root")
        for url in self.urls:
            if urlsplit(url).scheme not in transfer.SCHEMES:
                raise DataError(f"{self.file}: {url} is refused; allowed: {', '.join(transfer.SCHEMES)}")
        if self.checksum is not None and not re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.checksum):
            raise DataError(f"{self.file}: checksum={self.checksum} is neither md5:<32 digits> nor sha256:<64 digits>")
        if self.unpack is not None and not self.file.lower().endswith(SUFFIXES):
            raise DataError(f"{self.file}: cannot be unpacked; allowed: {', '.join(SUFFIXES)}")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The result of a `Download`; as text, a line for the terminal.

    Attributes:
        action: "there": nothing was done; "found": it was there already, by hand or from an earlier call; "fetched"
            from `url`.
        path: the file, or the folder that it was unpacked into.
        size: bytes; None if it was there.
        checksum: found, "<algorithm>:<digits>"; None if it was there.
        checked: whether the checksum was compared with a known one.
    """

    file: str
    action: Literal["there", "found", "fetched"]
    path: str
    url: str | None = None
    size: int | None = None
    checksum: str | None = None
    checked: bool = False

    def __str__(self) -> str:
        if self.size is None or self.checksum is None:
            return f"{self.file}: there already, in {self.path}"
        algorithm, digits = self.checksum.split(":")
        origin = f"from {self.url}" if self.url else "found in place"
        verdict = f"{algorithm} as expected" if self.checked else f"no checksum is known; its {algorithm} is {digits}"
        return f"{self.file}: {self.size:,} bytes {origin}, {verdict}; now {self.path}"


def fetch(
    downloads: Iterable[Download],
    root: str,
    *,
    parallel: int = 4,
    keep_archives: bool = False,
    attempts: int = 5,
    pause: float = 1.0,
    on_bytes: OnBytes | None = None,
) -> list[Fetched]:
    """Bring all `downloads` below the folder `root`; call again to resume after a stop.

    A file that somebody put by hand where the error message says is checked and used like a fetched one, and moved
    aside as `<file>.wrong` if it is not the right one. Archives are deleted after unpacking unless `keep_archives`.

    Args:
        parallel: files at a time.
        attempts: with a url in a row; one that brings the file further is counted as the first again.
        pause: seconds before the second of these; doubled each time.
        on_bytes: called with a file, its bytes so far and its bytes in all, if known, by one thread at a time.

    Returns:
        What was done, in the order of `downloads`.

    Raises:
        ConfigError: `parallel` or `attempts` is below 1.
        DataError: some download failed; the message lists for each what was tried, what is kept, and what to do.
        KeyboardInterrupt: unfinished files are kept as `.part` and resumed by the next call.
    """
    downloads, root = tuple(downloads), os.path.expanduser(root)
    for name, value in (("parallel", parallel), ("attempts", attempts)):
        if value < 1:
            raise ConfigError(f"{name}={value}: use 1 or more")
    names = [item.file for item in downloads]
    if len(set(names)) < len(names):
        raise DataError(f"{max(names, key=names.count)} is listed twice among the files to fetch")
    work = _Work(root, keep_archives, attempts, pause, on_bytes or (lambda *_: None))
    try:
        if all(map(work.is_there, downloads)):
            return [work.there(item) for item in downloads]
        with _locked(os.path.join(root, FOLDER)):
            return work.run(downloads, parallel)
    except OSError as error:
        raise _disk_trouble(error, root) from None


class _Stopped(Exception):
    """Another thread failed, or the user pressed Ctrl-C."""


class _WrongFile(Exception):
    """A complete file differs from the published one."""


class _Work:
    """One call of `fetch`."""

    def __init__(self, root: str, keep_archives: bool, attempts: int, pause: float, on_bytes: OnBytes) -> None:
        self.root, self.keep_archives, self.attempts, self.pause = root, keep_archives, attempts, pause
        self.on_bytes = on_bytes
        self.stopped = threading.Event()
        self.one_at_a_time = threading.Lock()

    def run(self, downloads: tuple[Download, ...], parallel: int) -> list[Fetched]:
        """All of `downloads`, each in a thread: daemons, so that a stalled connection cannot hold up Ctrl-C."""
        turns = threading.Semaphore(parallel)
        outcomes: queue.SimpleQueue[tuple[str, Fetched | BaseException]] = queue.SimpleQueue()

        def work(item: Download) -> None:
            try:
                with turns:
                    self.keep_going()
                    outcomes.put((item.file, self.obtain(item)))
            except BaseException as error:
                outcomes.put((item.file, error))

        found: dict[str, Fetched | BaseException] = {}
        try:
            for item in downloads:
                threading.Thread(target=work, args=(item,), daemon=True).start()
            while len(found) < len(downloads):
                file, outcome = outcomes.get()
                found[file] = outcome
                if not isinstance(outcome, Fetched | DataError):  # of the disk, or a bug: others would meet it, too
                    raise outcome
        except BaseException:
            self.stopped.set()
            with contextlib.suppress(queue.Empty):  # the others end soon, unless their connections stall
                for _ in range(len(downloads) - len(found)):
                    outcomes.get(timeout=GRACE / len(downloads))
            raise
        results = [found[item.file] for item in downloads]
        done = [result for result in results if isinstance(result, Fetched)]
        problems = [str(result) for result in results if isinstance(result, DataError)]
        if problems:
            there = [f"There now: {', '.join(result.file for result in done)}"] if done else []
            raise DataError("\n\n".join(problems + there))
        return done

    def obtain(self, item: Download) -> Fetched:
        """One file: the existing one, else one put there by hand, else from the first url that has the right one."""
        if self.is_there(item):
            return self.there(item)
        reasons = []
        place = self.place(item)
        part = os.path.join(self.root, FOLDER, item.file + ".part")
        if os.path.isfile(place):
            try:
                return self.accept(item, place, None)
            except _WrongFile as error:
                os.replace(place, place + ".wrong")
                reasons.append(f"{place}, found there: {error}; moved to {place}.wrong")
        os.makedirs(os.path.dirname(part), exist_ok=True)
        for url in item.urls:
            try:
                transfer.receive(
                    url,
                    part,
                    size=item.size,
                    attempts=self.attempts,
                    pause=self.pause,
                    wait=self.wait,
                    on_bytes=partial(self.progress, item),
                )
                return self.accept(item, part, url)
            except (TransferError, _WrongFile) as error:
                reasons.append(f"{url}: {error}")
        raise DataError(_explanation(item, reasons, part, place))

    def accept(self, item: Download, path: str, url: str | None) -> Fetched:
        """Check the complete file `path`, give it its final name and unpack it.

        Raises:
            _WrongFile: it is another file; if it came from `url`, it is deleted.
        """
        place = self.place(item)
        try:
            checksum = self.check(item, path)
            if url is not None:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.replace(path, place)
                transfer.remove(path)
            if item.unpack is not None:
                unpack(place, os.path.join(self.root, item.unpack), top=item.top, keep_going=self.keep_going)
        except (_WrongFile, DamagedArchive) as error:
            if url is not None:
                transfer.remove(path)
                if os.path.exists(place):
                    os.unlink(place)
            raise _WrongFile(str(error)) from None
        size = os.path.getsize(place)
        if item.unpack is not None and not self.keep_archives:
            os.unlink(place)
        return Fetched(
            file=item.file,
            action="fetched" if url else "found",
            path=place if item.unpack is None else os.path.normpath(os.path.join(self.root, item.unpack)),
            url=url,
            size=size,
            checksum=checksum,
            checked=item.checksum is not None,
        )

    def check(self, item: Download, path: str) -> str:
        """The checksum of a file. Raises _WrongFile if it, or the size, is not the known one."""
        if item.size is not None and os.path.getsize(path) != item.size:
            raise _WrongFile(f"it has {os.path.getsize(path):,} bytes, the published one {item.size:,}")
        digest = hashlib.new((item.checksum or "sha256").split(":")[0], usedforsecurity=False)
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                self.keep_going()
                digest.update(chunk)
        checksum = f"{digest.name}:{digest.hexdigest()}"
        if item.checksum not in (None, checksum):
            raise _WrongFile(f"its {digest.name} is {digest.hexdigest()}, not {str(item.checksum).split(':')[1]}")
        return checksum

    def progress(self, item: Download, have: int, total: int | None) -> None:
        self.keep_going()
        with self.one_at_a_time:
            self.on_bytes(item.file, have, total)

    def wait(self, seconds: float) -> None:
        self.stopped.wait(seconds)
        self.keep_going()

    def keep_going(self) -> None:
        if self.stopped.is_set():
            raise _Stopped

    def place(self, item: Download) -> str:
        """The path of the complete file."""
        return os.path.join(self.root, *(() if item.unpack is None else (FOLDER,)), item.file)

    def is_there(self, item: Download) -> bool:
        """Whether all that `item` provides exists, and no unpacking of it was cut short."""
        if os.path.lexists(self.place(item) + UNFINISHED):
            return False
        return bool(item.provides) and all(_exists(self.root, entry) for entry in item.provides)

    def there(self, item: Download) -> Fetched:
        return Fetched(file=item.file, action="there", path=os.path.join(self.root, item.provides[0]))


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Create and lock `folder`, so that no other call appends to the same parts; remove it afterwards if empty."""
    os.makedirs(folder, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if os.name == "posix":
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            if not lock_file(handle, folder):
                raise DataError(f"{folder}: another download into it is running; wait for its end")
        yield
    with contextlib.suppress(OSError):  # something is in it
        os.rmdir(folder)


def _explanation(item: Download, reasons: list[str], part: str, place: str) -> str:
    tried = "".join(f"\n  {reason}" for reason in reasons) or " no url is known"
    kept = f"\nKept: {part}, {bytes_in(part):,} bytes; run the command again to resume." if bytes_in(part) else ""
    checked = f"checked ({item.checksum}) " if item.checksum else ""
    return (
        f"{item.file}: the download failed:{tried}{kept}\n"
        f"By hand: download it elsewhere, put it at {place} and run the command again; it is {checked}"
        f"{'and ' if checked else ''}{'used' if item.unpack is None else 'unpacked'} then."
    )


def _disk_trouble(error: OSError, root: str) -> DataError:
    advice = "nothing that was complete is lost: run the command again to resume"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free space, or choose another folder with root=DIR, and run the command again to resume"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "root=DIR must be a folder that you may write in"
    return DataError(f"{error.filename or root}: {error.strerror or error}; {advice}")


def _exists(root: str, entry: str) -> bool:
    found = glob.iglob(entry + "*" if entry.endswith("/") else entry, root_dir=root)
    return next(found, None) is not None
