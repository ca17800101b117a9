"""Requests at a steady rate, whether or not earlier ones were answered, and their outcomes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from styleclip_client import AsyncClient, Client, Edit
from styleclip_contract.errors import StyleclipError
from tools.chaos.prepared_client import PreparedClient

PHOTOS = sorted((Path(__file__).resolve().parents[2] / "demo" / "samples").glob("*.png"))
ANSWERED = "answered"


@dataclass(frozen=True)
class Outcome:
    """One request: start (monotonic clock) and duration in seconds, `ANSWERED` or an error name."""

    start: float
    seconds: float
    kind: str
    message: str = ""

    @property
    def end(self) -> float:
        return self.start + self.seconds


class Load:
    """Sends `rate` photo edits per second from a thread of its own, within a `with` block.

    Args:
        server: address.
        rate: requests per second; they start on time even when earlier ones are still running.
        retries: of the client; 0 shows every failure of the server.
        timeout: seconds for a request with its retries.
        prepared: send by `PreparedClient`, which takes less CPU time; without retries.
        access: client options for a gateway: token and ca.
    """

    def __init__(
        self,
        server: str,
        rate: float,
        *,
        retries: int = 0,
        timeout: float = 30,
        prepared: bool = False,
        **access: Any,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._server, self._rate, self._access = server, rate, access
        self._retries, self._timeout, self._prepared = retries, timeout, prepared
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        with Client(self._server, **self._access) as client:
            self._edits = [preset.edit for preset in client.domain().presets]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Outcome]:
        """Send no more requests, wait for the running ones, and return all outcomes."""
        self._stopping.set()
        self._thread.join()
        return self.outcomes

    async def _run(self) -> None:
        photos = [path.read_bytes() for path in PHOTOS]
        tasks: set[asyncio.Task[None]] = set()
        async with self._client() as client:
            if isinstance(client, AsyncClient):
                with suppress(StyleclipError):
                    await client.domain()  # opens the connection
            due = time.monotonic()
            for photo, edit in zip(cycle(photos), cycle(self._edits), strict=False):
                if self._stopping.is_set():
                    break
                task = asyncio.create_task(self._send(client, photo, edit))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += 1 / self._rate
                await asyncio.sleep(max(0, due - time.monotonic()))
            await asyncio.gather(*tasks)

    def _client(self) -> AsyncClient | PreparedClient:
        if self._prepared:
            return PreparedClient(self._server, self._timeout, **self._access)
        return AsyncClient(
            self._server, self._timeout, retries=self._retries, name="chaos", **self._access
        )

    async def _send(self, client: AsyncClient | PreparedClient, photo: bytes, edit: Edit) -> None:
        start, kind, message = time.monotonic(), ANSWERED, ""
        try:
            await client.edit_photo(photo, edit)
        except StyleclipError as error:
            kind, message = type(error).__name__, str(error)
        except Exception as error:  # an error without a name of ours is what we look for
            kind, message = f"untyped {type(error).__name__}", str(error)
        self.outcomes.append(Outcome(start, time.monotonic() - start, kind, message))


def count_outcomes(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the number of outcomes of each kind, the most frequent first."""
    return dict(Counter(outcome.kind for outcome in outcomes).most_common())


def percentile(outcomes: Sequence[Outcome], percent: float, kind: str = ANSWERED) -> float | None:
    """Return a percentile of the seconds of outcomes of one kind; None if there are none."""
    times = sorted(outcome.seconds for outcome in outcomes if outcome.kind == kind)
    return times[min(int(len(times) * percent / 100), len(times) - 1)] if times else None
