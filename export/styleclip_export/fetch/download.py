"""Downloads one file over HTTP, and resumes after any interruption (RFC 9110, section 14).

Bytes in a part file are only joined with later ones where that is safe: they are from the same
address with the same strong validator (If-Range), or the file's SHA-256 is known, which proves the
result.
"""

from __future__ import annotations

import re
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from styleclip_export.errors import FetchError
from styleclip_export.fetch.manifest import File
from styleclip_export.fetch.part_file import PartFile, open_part
from styleclip_export.file_kinds import HEAD_BYTES, is_kind, looks_like, sha256_of
from styleclip_export.progress import ReportBytes

# For each connection and each broken body, waiting 0, 2, 4, 8 and 16 s.
RETRIES = Retry(
    total=5,
    backoff_factor=1.0,
    backoff_max=30,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    raise_on_status=False,
    redirect=10,
)
CONNECTION_RETRIES = 1  # until an address has answered once; without a network none does
TIMEOUT = urllib3.Timeout(connect=10, read=30)
_HEADERS = {"User-Agent": "styleclip-export", "Accept-Encoding": "identity"}
_BLOCK_BYTES = 1 << 18
_MAX_RENEWALS = 100  # of the retries, because new bytes arrived


class NoAnswer(FetchError):
    """Nothing answers at an address."""


class Cancelled(Exception):
    """The user interrupted; what has arrived stays in the part file."""


class _Incomplete(Exception):
    """The body ended early; the rest can be requested."""


@dataclass(frozen=True)
class Downloader:
    """How to download.

    Attributes:
        cancel: stops downloads at their next block.
        retries: for each address.
    """

    cancel: threading.Event
    retries: Retry = RETRIES
    timeout: urllib3.Timeout = TIMEOUT

    @property
    def first_retries(self) -> Retry:
        """The retries until an address has answered once."""
        return self.retries.new(connect=CONNECTION_RETRIES)

    def check_reachable(self, url: str) -> None:
        """Raise FetchError if nothing answers at an address."""
        with _connection_pool(url, self.timeout) as pool:
            try:
                pool.request("HEAD", url, redirect=False, retries=CONNECTION_RETRIES)
            except HTTPError as error:
                raise _no_answer(url, error) from None

    def download(self, file: File, url: str, part_path: Path, progress: ReportBytes) -> str:
        """Download a file into a part file; return its SHA-256.

        If a resumed part turns out wrong, it is downloaded once more from its beginning.

        Raises:
            FetchError: this address does not give the file.
            Cancelled: the user interrupted. The part file is kept.
        """
        with open_part(part_path) as part, _connection_pool(url, self.timeout) as pool:
            transfer = _Transfer(self, pool, file, url, part, progress)
            resumed = part.size > 0
            sha256 = transfer.complete()
            if resumed and file.sha256 not in (None, sha256):
                part.clear()
                sha256 = transfer.complete()
            if file.sha256 not in (None, sha256):
                look = looks_like(part.head(HEAD_BYTES))
                part.clear()
                raise FetchError(
                    f"{url} gave a wrong file: its SHA-256 is {sha256}, expected {file.sha256}; "
                    f"it looks like {look}"
                )
            return sha256


@dataclass(frozen=True)
class _Transfer:
    """A download of one file from one address."""

    options: Downloader
    pool: urllib3.PoolManager
    file: File
    url: str
    part: PartFile
    progress: ReportBytes

    def complete(self) -> str:
        """Request bytes until the part is complete; return its SHA-256.

        The retries are renewed as long as bytes arrive.
        """
        retries, renewals = self.options.retries, _MAX_RENEWALS
        request_retries = self.options.first_retries
        while True:
            size_before = self.part.size
            try:
                self._request_rest(request_retries)
                return sha256_of(self.part.path)
            except MaxRetryError as error:
                raise _no_answer(self.url, error) from None
            except (_Incomplete, HTTPError, ssl.SSLError) as error:
                request_retries = self.options.retries
                if self.file.sha256 and sha256_of(self.part.path) == self.file.sha256:
                    return self.file.sha256  # complete, although the server announced more
                if self.part.size > size_before and renewals:
                    retries, renewals = self.options.retries, renewals - 1
                retries = self._next_retry(retries, error)
                if self.options.cancel.wait(retries.get_backoff_time()):
                    raise Cancelled from None

    def _next_retry(self, retries: Retry, error: Exception) -> Retry:
        try:
            return retries.increment("GET", self.url, error=ProtocolError(str(error)))
        except HTTPError:
            raise FetchError(
                f"{self.url} keeps breaking off, now at byte {self.part.size:,}: {_cause(error)}; "
                "run the command again to resume there"
            ) from None

    def _request_rest(self, retries: Retry) -> None:
        """Request the missing bytes, or all if they could not be joined safely."""
        start, range_headers = self._range()
        response = self.pool.request(
            "GET",
            self.url,
            headers=_HEADERS | range_headers,
            preload_content=False,
            retries=retries,
        )
        with closing(response):
            if start and response.status == 416:  # Range Not Satisfiable
                if _complete_size(response) != start:
                    self.part.clear()
                    raise _Incomplete("the server does not have the missing bytes")
                return
            self._check(response, start)
            if response.status == 200:  # the complete file, even if a range was requested
                self.part.clear()
                start = 0
            if start == 0:
                self.part.set_origin(self.url, _strong_validator(response))
            self._save_body(response, start)

    def _range(self) -> tuple[int, dict[str, str]]:
        """Return the first byte to request, and the headers that request a range."""
        start, validator = self.part.size, self.part.validator(self.url)
        if start and not (validator or self.file.sha256):
            self.part.clear()
            start = 0
        if start == 0:
            return 0, {}
        headers = {"Range": f"bytes={start}-"}
        return start, headers | {"If-Range": validator} if validator else headers

    def _check(self, response: BaseHTTPResponse, start: int) -> None:
        """Raise FetchError unless the response's head is that of the requested bytes."""
        if response.status not in (200, 206):
            raise FetchError(f"{self.url} answers {response.status} {response.reason}")
        if urlsplit(self.url).scheme == "https" and _left_https(response):
            raise FetchError(f"{self.url} redirects to an address without encryption")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError(f"{self.url} answers with an encoding that was not requested")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise FetchError(f"{self.url} answers with a web page, not with the file")
        if response.status == 206:
            content_range = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if content_range is None or int(content_range[1]) != start:
                raise FetchError(f"{self.url} answers with other bytes than those requested")

    def _save_body(self, response: BaseHTTPResponse, size: int) -> None:
        """Append the body to the part, which has `size` bytes."""
        total = _complete_size(response)
        self.progress(size, total)
        if size == 0:
            head = response.read(HEAD_BYTES, decode_content=False)
            if head and not is_kind(head, self.file.kind):
                raise FetchError(
                    f"{self.url} answers with {looks_like(head)}, not with {self.file.name}"
                )
            self.part.append(head)
            size = len(head)
        while block := response.read1(_BLOCK_BYTES, decode_content=False):
            if self.options.cancel.is_set():
                raise Cancelled
            self.part.append(block)
            size += len(block)
            self.progress(size, total)
        if total is not None and size < total:
            raise _Incomplete(f"{size:,} of {total:,} bytes arrived")


def _complete_size(response: BaseHTTPResponse) -> int | None:
    """Return the size of the complete file, where the response gives it."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    match = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _left_https(response: BaseHTTPResponse) -> bool:
    """Return whether a redirect led to an address without encryption."""
    redirects = response.retries.history if response.retries else ()
    return any((hop.redirect_location or "").startswith("http:") for hop in redirects)


def _strong_validator(response: BaseHTTPResponse) -> str | None:
    """Return what identifies the file's version; only a strong validator promises the same bytes
    (RFC 9110, section 13.1.5): a strong ETag, or a Last-Modified at least a second before the
    response's Date (section 8.8.2.2)."""
    etag = response.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        return etag
    date, modified = (response.headers.get(name, "") for name in ("Date", "Last-Modified"))
    try:
        age = parsedate_to_datetime(date) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):  # one is missing or malformed
        return None
    return modified if age >= timedelta(seconds=1) else None


@contextmanager
def _connection_pool(url: str, timeout: urllib3.Timeout) -> Iterator[urllib3.PoolManager]:
    """Open connections, through the proxy that the environment names for this address."""
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


def _no_answer(url: str, error: Exception) -> NoAnswer:
    return NoAnswer(f"{url} does not answer: {_cause(error)}")


def _cause(error: Exception) -> str:
    """Return the innermost message of urllib3's nested errors."""
    reason = getattr(error, "reason", None) or error
    place = r"^(.*object at 0x[0-9a-f]+>|HTTPS?Connection\([^)]*\)): "
    return re.sub(place, "", str(reason)).split("\n")[0][:200]
