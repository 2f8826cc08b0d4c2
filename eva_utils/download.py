"""A large file, fetched whole or not at all, from whichever place has it."""

import contextlib
import errno
import hashlib
import http.client
import math
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from eva_utils.progress import Progress

CONNECT_OR_STALL = 20.0  # seconds without a connection, or without a byte
RATE_WINDOW = 10.0  # seconds over which the rate is judged
LEAST_RATE = 300_000  # bytes a second, as long as there are other places to try
LEAST_AT_ALL = 2_000  # bytes a second, when all others have failed
CHUNK = 1 << 16
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # what is wrong here, not there
RETRY_PAUSE = 0.2  # seconds before a connection that was cut is taken up again


class _RefusedError(OSError):
    """What a place sends is not the file."""


class _TooSlowError(OSError):
    """A place works, but slowly."""


def download(urls: Sequence[str], path: Path, *, size: int, md5: str, verbose: bool = True) -> None:
    """Bring the file of ``size`` bytes and that ``md5`` to ``path``, from the first of ``urls`` that gives it.

    What has arrived stays in ``path`` + ".part" and is gone on with, in another process or from another place too; the
    file gets its name only when size and checksum are right. A place that is silent for 20 seconds, or sends
    less than 300 kB a second, is left for the next one; if none is left, the slow ones are taken after
    all. Only one process downloads at a time, the others wait for it. Raises ConnectionError naming every
    place and what was wrong with it, and OSError where the disk is full or refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if is_whole(path, size=size, md5=md5):
            return
        problems, slow = {}, []
        for least_rate, places in ((LEAST_RATE, urls), (LEAST_AT_ALL, slow)):
            for url in places:
                try:
                    return _from(url, path, size, md5, least_rate, verbose)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    if _is_of_disk(error):
                        raise  # no other place would help
                    problems[url] = _reason(error)
                    if isinstance(error, _TooSlowError) and least_rate == LEAST_RATE:
                        slow.append(url)
    tried = "; ".join(f"{url}: {reason}" for url, reason in problems.items())
    raise ConnectionError(f"{path.name} could not be downloaded ({tried or 'there is no place to try'})")


def is_whole(path: Path, *, size: int, md5: str) -> bool:
    """Tell whether the file is there with this size and checksum."""
    return path.is_file() and path.stat().st_size == size and _md5(path) == md5


def _from(url: str, path: Path, size: int, md5: str, least_rate: int, verbose: bool) -> None:
    """Bring the file from one place; a connection that is cut is taken up again as long as enough arrives."""
    part = path.with_name(f"{path.name}.part")
    rate = _Rate(least_rate)
    all_from_here = not _size(part)
    while True:
        before = _size(part)
        if before < size:
            try:
                _receive(url, part, size, rate, verbose)
            except (_RefusedError, _TooSlowError):
                raise
            except (OSError, http.client.HTTPException) as error:
                if _size(part) <= before or _is_of_disk(error):
                    raise
        if _size(part) < size:  # cut, but it had come further
            rate.check()
            time.sleep(RETRY_PAUSE)
            continue
        if is_whole(part, size=size, md5=md5):
            part.replace(path)
            return
        part.unlink()
        if all_from_here:
            raise _RefusedError("it sends another file (its checksum differs)")
        all_from_here = True  # what was there before may have been what was wrong


class _Rate:
    """Counts what a place sends, over all its connections, and finds out where that is too little."""

    def __init__(self, least: int) -> None:
        self.least, self.window, self.since = least, 0, time.monotonic()

    def count(self, received: int) -> None:
        """Count so many bytes more."""
        self.window += received

    def check(self) -> None:
        """Raise _TooSlowError if less came in this window of time than has to; begin the next one at its end."""
        seconds = time.monotonic() - self.since
        if seconds < RATE_WINDOW:
            return
        if self.window < self.least * seconds:
            raise _TooSlowError(f"it sends {self.window / seconds / 1000:.0f} kB a second")
        self.window, self.since = 0, time.monotonic()


def _receive(url: str, part: Path, size: int, rate: _Rate, verbose: bool) -> None:
    """Append to ``part`` what is missing, or replace it by a longer piece where the place cannot go on."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise _RefusedError("expected an address that starts with http:// or https://")
    have = _size(part)
    pieces = _watched(_pieces(url, have, size), CONNECT_OR_STALL)
    with contextlib.closing(pieces):
        start = next(pieces)
        target = part if start == have else part.with_name(f"{part.name}.anew")
        chunks = _chunks(pieces, size - start, rate)
        label = f"downloading {part.stem} from {urlsplit(url).netloc}"
        try:
            with target.open("ab" if start else "wb") as file:
                for chunk in Progress(enabled=verbose).track(
                    chunks, label, total=math.ceil((size - start) / CHUNK), unit=(CHUNK / 1e6, "MB")
                ):
                    file.write(chunk)
        finally:
            if _size(target) > _size(part):
                target.replace(part)
            elif target != part:
                target.unlink(missing_ok=True)


def _pieces(url: str, have: int, size: int) -> Iterator[int | bytes]:
    """Give the place in the file that the answer starts at, 0 or ``have``, and then its bytes as they come."""
    headers = {"User-Agent": "eva_utils"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=CONNECT_OR_STALL) as response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed and response.status != 200:
            raise _RefusedError(f"it answers with status {response.status}")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        if length is not None and start + int(length) != size:
            raise _RefusedError(f"its file has {start + int(length):,} bytes, not {size:,}")
        yield start
        while data := response.read1(CHUNK):
            yield data


def _watched(pieces: Iterator[int | bytes], seconds: float) -> Iterator[int | bytes]:
    """Give the pieces, made in a thread of its own; raise TimeoutError where none comes for so long.

    A socket's own time-out starts anew with each byte, though it be one of a header without end.
    """
    arrived: queue.Queue = queue.Queue(maxsize=4)
    left = threading.Event()

    def make() -> None:
        with contextlib.closing(pieces):
            try:
                for piece in pieces:
                    arrived.put((piece, None))
                    if left.is_set():
                        return
                arrived.put((None, None))
            except BaseException as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()  # it is the answer as well
                arrived.put((None, error))

    threading.Thread(target=make, daemon=True).start()
    try:
        while True:
            try:
                piece, error = arrived.get(timeout=seconds)
            except queue.Empty:
                raise TimeoutError from None
            if error is not None:
                raise error
            if piece is None:
                return
            yield piece
    finally:
        left.set()
        while not arrived.empty():  # so that the thread comes to see it
            arrived.get_nowait()


def _chunks(pieces: Iterator[bytes], size: int, rate: _Rate) -> Iterator[bytes]:
    """Give ``size`` bytes in pieces of ``CHUNK``; raise where they come too slowly, too many or too few."""
    left, waiting = size, b""
    while left:
        data = next(pieces, b"")
        if not data:
            if waiting:
                yield waiting
            raise http.client.IncompleteRead(b"", left)
        if len(data) > left:
            raise _RefusedError(f"it sends more than the {size:,} bytes expected")
        waiting, left = waiting + data, left - len(data)
        rate.count(len(data))
        while len(waiting) >= CHUNK or (waiting and not left):
            yield waiting[:CHUNK]
            waiting = waiting[CHUNK:]
        try:
            rate.check()
        except _TooSlowError:
            if waiting:
                yield waiting
            raise
    if next(pieces, b""):
        raise _RefusedError(f"it sends more than the {size:,} bytes expected")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_of_disk(error: Exception) -> bool:
    return getattr(error, "errno", None) in DISK


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    if isinstance(error, TimeoutError):
        return f"silent for {CONNECT_OR_STALL:g} seconds"
    return str(error) or type(error).__name__
