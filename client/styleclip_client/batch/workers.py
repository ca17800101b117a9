"""A lane takes photos to one server: here by threads of this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from styleclip_client import faces
from styleclip_client.batch.job import Job, Task
from styleclip_client.batch.stores import Store
from styleclip_client.client import Client
from styleclip_client.results import Edited
from styleclip_contract import limits
from styleclip_contract.errors import (
    AccessRefused,
    InvalidInput,
    LandmarksMissing,
    ServerBusy,
    ServerUnavailable,
    StyleclipError,
)


@dataclass(frozen=True)
class Outcome:
    """What became of a photo. `error` is empty when its picture is there.

    `trouble` is there when another moment or another server may do it: the server "failed" at it,
    was "lost", or "busy".
    """

    task: Task
    server: str
    milliseconds: int = 0
    channels: tuple[int, ...] = ()
    error: str = ""
    trouble: str = ""


class Lane(Protocol):
    """A way to one server for several photos at once."""

    url: str

    def submit(self, task: Task) -> Future[Outcome]:
        """Begin with a photo."""

    def close(self) -> None:
        """End what is under way: those photos are left as they were."""


@dataclass(frozen=True)
class Reach:
    """How a server is reached, but for its address; it can be sent to another process."""

    timeout: float
    retries: int
    token: str | None = field(default=None, repr=False)
    ca: str | None = None

    def client(self, url: str) -> Client:
        return Client(url, self.timeout, retries=self.retries, token=self.token, ca=self.ca)


@dataclass(frozen=True)
class Work:
    """A job with its places."""

    job: Job
    source: Store
    out: Store
    replace: bool

    def done_by(self, client: Client, task: Task) -> Outcome:
        """Edit one photo and write its picture; every failure is told, not raised."""
        start = time.perf_counter()
        error = trouble = ""
        channels: list[int] = []
        try:
            photo = self.source.read(task.photo, limits.PHOTO_BYTES + 1)
            edited = self._edited(client, photo, task.format)
            self.out.write(task.out, edited.picture, overwrite=self.replace)
            channels = edited.channels
        except StyleclipError as failure:
            error = failure.to_wire()
            trouble = _trouble(failure)
        except OSError as failure:
            error = f"{type(failure).__name__}: {failure}"
        milliseconds = round(1000 * (time.perf_counter() - start))
        return Outcome(task, client.url, milliseconds, tuple(channels), error, trouble)

    def _edited(self, client: Client, photo: bytes, format: str) -> Edited:
        job = self.job
        settings: dict[str, Any] = {
            "align": job.align,
            "format": format,
            "quality": job.quality,
            "mark": job.mark,
            "keep_gps": job.keep_gps,
        }
        if job.face == faces.ALL:
            return faces.edit_together(client, photo, job.edits, **settings)
        return client.edit_photo(photo, job.edits, face=job.face, paste=job.paste, **settings)


def _trouble(failure: StyleclipError) -> str:
    if isinstance(failure, (InvalidInput, AccessRefused, LandmarksMissing)):
        return ""  # the same everywhere and at any time
    if isinstance(failure, ServerBusy):
        return "busy"
    return "lost" if isinstance(failure, ServerUnavailable) else "failed"


class Threads:
    """The lane of this process."""

    def __init__(self, url: str, reach: Reach, work: Work, concurrency: int) -> None:
        self.url = url
        self._client = reach.client(url)
        self._edit: Callable[[Client, Task], Outcome] = work.done_by
        self._pool = ThreadPoolExecutor(concurrency, "styleclip-batch")

    def submit(self, task: Task) -> Future[Outcome]:
        return self._pool.submit(self._edit, self._client, task)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()  # calls under way fail at once
