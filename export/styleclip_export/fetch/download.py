"""One file over HTTP into a `.part` file, resumed after any interruption (RFC 9110, section 14).

`NAME.part` holds the bytes so far and `NAME.part.json` where they came from. They are joined with
later bytes only where that is safe: the same address with the same strong validator (If-Range), or
a file whose SHA-256 is known, since the end result is then proven.
"""

from __future__ import annotations

import fcntl
import json
import re
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import urllib3
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, MaxRetryError

from styleclip_export.errors import FetchError
from styleclip_export.fetch.manifest import File
from styleclip_export.file_kinds import HEAD_BYTES, is_kind, looks_like, sha256_of

BLOCK = 1 << 18
AGENT = {"User-Agent": "styleclip-export", "Accept-Encoding": "identity"}
# Several tries for each connection and each broken body, waiting 0, 2, 4, 8, 16 s between them.
RETRIES = Retry(
    total=5,
    backoff_factor=1.0,
    backoff_max=30,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    raise_on_status=False,
    redirect=10,
)
TIMEOUT = urllib3.Timeout(connect=15, read=30)

Moved = Callable[[int, int | None], None]  # bytes so far, bytes in all where known


class Cancelled(Exception):
    """The user interrupted; what has arrived stays in the part file."""


class _Broken(Exception):
    """The body ended early; the rest can be asked for."""


@dataclass(frozen=True)
class Downloader:
    """How to download. retries: patience for each address. cancel: stops at the next block."""

    cancel: threading.Event
    retries: Retry = RETRIES
    timeout: urllib3.Timeout = TIMEOUT

    def fetch(self, file: File, url: str, part: Path, moved: Moved) -> str:
        """Brings the whole of `file` from `url` into `part` and returns its SHA-256.

        A part that turns out wrong at its end is thrown away and asked for once more from its
        beginning, as the fault may lie in what was there before. Raises FetchError when this
        address is of no use, Cancelled when the user interrupts; the part file is kept.
        """
        with _alone(part) as stream:
            for last in (False, True):
                resumed = part.stat().st_size > 0
                self._fill(file, url, part, stream, moved)
                digest = sha256_of(part)
                if file.sha256 in (None, digest):
                    return digest
                with part.open("rb") as begun:
                    head = begun.read(HEAD_BYTES)
                _forget(part, stream)
                if last or not resumed:
                    break
        raise FetchError(
            f"{url} gave a wrong file: its SHA-256 is {digest}, expected {file.sha256}; "
            f"it looks like {looks_like(head)}"
        )

    def _fill(self, file: File, url: str, part: Path, stream: BinaryIO, moved: Moved) -> None:
        """Asks until the body is whole; bytes that arrived begin the patience anew."""
        retries, resets = self.retries, 100
        with _pool(url, self.timeout) as pool:
            while True:
                before = part.stat().st_size
                try:
                    return self._ask(pool, file, url, part, stream, moved)
                except MaxRetryError as error:
                    raise FetchError(f"{url} does not answer: {_short(error)}") from None
                except (_Broken, HTTPError, ssl.SSLError) as error:
                    if file.sha256 and sha256_of(part) == file.sha256:
                        return None  # whole, though the server announced more
                    if part.stat().st_size > before and resets:
                        retries, resets = self.retries, resets - 1
                    try:
                        retries = retries.increment(
                            "GET", url, error=urllib3.exceptions.ProtocolError(str(error))
                        )
                    except (MaxRetryError, HTTPError):
                        raise FetchError(
                            f"{url} broke off again and again at byte {part.stat().st_size:,}: "
                            f"{_short(error)}; run the command again to go on from there"
                        ) from None
                    if self.cancel.wait(retries.get_backoff_time()):
                        raise Cancelled from None

    def _ask(
        self,
        pool: urllib3.PoolManager,
        file: File,
        url: str,
        part: Path,
        stream: BinaryIO,
        moved: Moved,
    ) -> None:
        """One request: the bytes that are missing, or all where they cannot be joined."""
        origin, have = _origin(part), part.stat().st_size
        headers = dict(AGENT)
        validator = origin.get("validator") if origin.get("url") == url else None
        if have and not (validator or file.sha256):
            _forget(part, stream)
            have = 0
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
        response = pool.request(
            "GET", url, headers=headers, preload_content=False, retries=self.retries
        )
        try:
            if response.status == 416 and have:
                if _total(response) == have:
                    return  # the part is whole
                _forget(part, stream)
                raise _Broken("the server does not know the bytes that are missing")
            total = _begin(response, url, have)
            if response.status == 200:  # all of it: no range asked for, ignored, or a new version
                _forget(part, stream)
                have = 0
            if not have:
                _write_origin(part, url, response)
            self._copy(response, file, url, stream, have, total, moved)
        finally:
            response.close()

    def _copy(
        self,
        response: BaseHTTPResponse,
        file: File,
        url: str,
        stream: BinaryIO,
        have: int,
        total: int | None,
        moved: Moved,
    ) -> None:
        moved(have, total)
        if not have:
            head = response.read(HEAD_BYTES, decode_content=False)
            if head and not is_kind(head, file.kind):
                raise FetchError(f"{url} answers with {looks_like(head)}, not with {file.name}")
            stream.write(head)
            have = len(head)
        while block := response.read1(BLOCK, decode_content=False):
            if self.cancel.is_set():
                raise Cancelled
            stream.write(block)
            have += len(block)
            moved(have, total)
        if total is not None and have < total:
            raise _Broken(f"{have:,} of {total:,} bytes arrived")


def _begin(response: BaseHTTPResponse, url: str, have: int) -> int | None:
    """Checks the answer's head; the size of the whole file where it is told."""
    if response.status not in (200, 206):
        raise FetchError(f"{url} answers {response.status} {response.reason}")
    hops = (
        [hop.redirect_location or "" for hop in response.retries.history]
        if (response.retries)
        else []
    )
    if urlsplit(url).scheme == "https" and any(hop.startswith("http:") for hop in hops):
        raise FetchError(f"{url} leads to an address without encryption")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"{url} answers with an encoding that was not asked for")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise FetchError(f"{url} answers with a web page, not with the file")
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if begins is None or int(begins[1]) != have:
        raise FetchError(f"{url} answers with other bytes than those asked for")
    return _total(response)


def _total(response: BaseHTTPResponse) -> int | None:
    found = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


@contextmanager
def _pool(url: str, timeout: urllib3.Timeout) -> Iterator[urllib3.PoolManager]:
    """Connections, through the proxy that the environment names for this address."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        pool: urllib3.PoolManager = urllib3.ProxyManager(proxy, timeout=timeout)
    else:
        pool = urllib3.PoolManager(timeout=timeout)
    try:
        yield pool
    finally:
        pool.clear()


@contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """The part file, unbuffered so that a kill loses nothing, and no second process in it."""
    with part.open("ab", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{part} is being written by another process; wait for it") from None
        yield stream  # type: ignore[misc]  # FileIO is a BinaryIO to us


def origin_file(part: Path) -> Path:
    """Where the origin of a part file is noted."""
    return part.with_name(part.name + ".json")


def _origin(part: Path) -> dict[str, str]:
    try:
        origin = json.loads(origin_file(part).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return origin if isinstance(origin, dict) else {}


def _write_origin(part: Path, url: str, response: BaseHTTPResponse) -> None:
    """Only a strong validator promises the same bytes (RFC 9110, section 13.1.5)."""
    validator = response.headers.get("ETag")
    if validator is None or validator.startswith("W/"):
        validator = response.headers.get("Last-Modified")
    origin_file(part).write_text(json.dumps({"url": url, "validator": validator}), "utf-8")


def _forget(part: Path, stream: BinaryIO) -> None:
    stream.truncate(0)
    origin_file(part).unlink(missing_ok=True)


def _short(error: Exception) -> str:
    """The cause of urllib3's nested messages."""
    reason = getattr(error, "reason", None) or error
    return re.sub(r"^.*object at 0x[0-9a-f]+>: ", "", str(reason)).split("\n")[0][:200]


def fetch_by_gdown(
    url: str, folder: Path, file: File, cancel: threading.Event, moved: Moved
) -> Path:
    """Brings a file that Google Drive serves behind its confirmation page, and returns its path.

    gdown keeps and resumes its own part file (`NAME.driveXXXXXXXX.part`).
    """
    try:
        import gdown
    except ImportError:
        raise FetchError(
            f"{url} needs the package gdown, which is not installed: pip install gdown, or take "
            f"the file by hand and give its folder with --from"
        ) from None
    target = folder / f"{file.name}.drive"
    try:
        gdown.download(
            url=url,
            output=str(target),
            quiet=True,
            use_cookies=False,
            resume=True,
            retries=5,
            timeout=(15, 30),
            cancel=cancel,
            progress=moved,
        )
    except gdown.DownloadCancelled:
        raise Cancelled from None
    # gdown lets errors of requests through, which are OSErrors.
    except (gdown.DownloadError, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise FetchError(f"{url} cannot be fetched: {text[:300]}") from None
    return target
