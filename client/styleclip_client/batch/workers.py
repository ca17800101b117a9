"""Workers: each edits photos on one server, here with threads of this process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from styleclip_client import faces
from styleclip_client.batch.job import Job, Task
from styleclip_client.batch.stores import Store
from styleclip_client.client import Client
from styleclip_client.connection_options import ConnectionOptions
from styleclip_client.results import Edited, Face
from styleclip_contract import limits
from styleclip_contract.errors import (
    AccessRefused,
    InvalidInput,
    LandmarksMissing,
    ServerBusy,
    ServerUnavailable,
    StyleclipError,
)


class ServerFault(Enum):
    """Why a task failed that may succeed later, or on another server."""

    FAILED = "failed"
    UNREACHABLE = "unreachable"
    BUSY = "busy"


@dataclass(frozen=True)
class TaskResult:
    """What became of a task.

    Attributes:
        task: the task.
        server: address of the server.
        milliseconds: time for the task.
        channels: number of StyleSpace channels that each edit moved.
        unclear: faces that `faces.ALL` left out, by their index.
        error: named error in one line; empty when the image was written.
        fault: the server's fault, if the error is one; None if it would be the same everywhere.
    """

    task: Task
    server: str
    milliseconds: int = 0
    channels: tuple[int, ...] = ()
    unclear: Mapping[int, Face] = field(default_factory=dict)
    error: str = ""
    fault: ServerFault | None = None


class Worker(Protocol):
    """Edits photos on the server at `url`, several at once."""

    url: str

    def submit(self, task: Task) -> Future[TaskResult]:
        """Start a task."""

    def close(self) -> None:
        """Abandon running tasks: their images are not written."""


@dataclass(frozen=True)
class PhotoEditor:
    """Does the tasks of `job`; can be sent to another process.

    Attributes:
        job: settings of the batch.
        source: where photos are read.
        out: where images are written.
        replace: files of `out` may be replaced.
    """

    job: Job
    source: Store
    out: Store
    replace: bool

    def edit(self, client: Client, task: Task) -> TaskResult:
        """Edit one photo and write its image; failures are returned, not raised."""
        start = time.perf_counter()
        error, fault = "", None
        channels: list[int] = []
        unclear: dict[int, Face] = {}
        try:
            photo = self.source.read(task.photo, limits.PHOTO_BYTES + 1)
            edited = self._edit(client, photo, task.format, unclear)
            self.out.write(task.out, edited.picture, overwrite=self.replace)
            channels = edited.channels
        except StyleclipError as failure:
            error, fault = failure.to_wire(), _server_fault(failure)
        except OSError as failure:
            error = f"{type(failure).__name__}: {failure}"
        milliseconds = round(1000 * (time.perf_counter() - start))
        return TaskResult(task, client.url, milliseconds, tuple(channels), unclear, error, fault)

    def _edit(self, client: Client, photo: bytes, format: str, unclear: dict[int, Face]) -> Edited:
        """Edit one photo; faces that are left out are put into `unclear`."""
        job = self.job
        settings: dict[str, Any] = {
            "align": job.align,
            "format": format,
            "quality": job.quality,
            "mark": job.mark,
            "keep_gps": job.keep_gps,
            "fidelity": job.fidelity,
        }
        if job.face == faces.ALL:
            return faces.edit_together(
                client, photo, job.edits, report_unclear=unclear.__setitem__, **settings
            )
        return client.edit_photo(photo, job.edits, face=job.face, paste=job.paste, **settings)


def _server_fault(failure: StyleclipError) -> ServerFault | None:
    if isinstance(failure, (InvalidInput, AccessRefused, LandmarksMissing)):
        return None
    if isinstance(failure, ServerBusy):
        return ServerFault.BUSY
    if isinstance(failure, ServerUnavailable):
        return ServerFault.UNREACHABLE
    return ServerFault.FAILED


class ThreadWorker:
    """Edits photos with threads of this process."""

    def __init__(
        self, url: str, connection: ConnectionOptions, editor: PhotoEditor, concurrency: int
    ) -> None:
        self.url = url
        self._editor = editor
        self._client = connection.client(url)
        self._pool = ThreadPoolExecutor(concurrency, "styleclip-batch")

    def submit(self, task: Task) -> Future[TaskResult]:
        """Start a task."""
        return self._pool.submit(self._editor.edit, self._client, task)

    def close(self) -> None:
        """Abandon running tasks: their images are not written."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()  # running calls fail at once
