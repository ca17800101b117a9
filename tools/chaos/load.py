"""Requests at a steady rate, whether or not they are answered, and what came of each."""

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

from styleclip_client import AsyncClient, Client
from styleclip_contract.errors import StyleclipError

PHOTOS = sorted((Path(__file__).resolve().parents[2] / "demo" / "samples").glob("*.png"))
ANSWERED = "answered"


@dataclass(frozen=True)
class Outcome:
    """One request: when it began and how long it took (seconds), `what` came of it."""

    began: float
    seconds: float
    what: str
    message: str = ""

    @property
    def ended(self) -> float:
        return self.began + self.seconds


class Load:
    """A crowd of clients in a thread of its own: `rate` edits of photos a second, until `stop`.

    Requests begin on time even when earlier ones are still under way, as those of many people
    do. `retries` are the client's own; 0 shows each failure of the server as it is. `access` are
    options of the client for a gateway: token and ca.
    """

    def __init__(
        self, server: str, rate: float, *, retries: int = 0, timeout: float = 30, **access: Any
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._server, self._rate, self._access = server, rate, access
        self._retries, self._timeout = retries, timeout
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        with Client(self._server, **self._access) as client:
            self._edits = [preset.edit for preset in client.domain().presets]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Outcome]:
        """Sends nothing more, waits for what is under way, and tells what came of all."""
        self._end.set()
        self._thread.join()
        return self.outcomes

    async def _run(self) -> None:
        photos = [path.read_bytes() for path in PHOTOS]
        tasks = set()
        async with AsyncClient(
            self._server, self._timeout, retries=self._retries, name="chaos", **self._access
        ) as client:
            with suppress(StyleclipError):
                await client.domain()  # so that no request waits for the connection
            due = time.monotonic()
            for photo, edit in zip(cycle(photos), cycle(self._edits), strict=False):
                if self._end.is_set():
                    break
                task = asyncio.create_task(self._one(client, photo, edit))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += 1 / self._rate
                await asyncio.sleep(max(0, due - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _one(self, client: AsyncClient, photo, edit) -> None:
        began, what, message = time.monotonic(), ANSWERED, ""
        try:
            await client.edit_photo(photo, edit)
        except StyleclipError as error:
            what, message = type(error).__name__, str(error)
        except Exception as error:  # a failure without a name is what we look for
            what, message = f"untyped {type(error).__name__}", str(error)
        self.outcomes.append(Outcome(began, time.monotonic() - began, what, message))


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each thing came of a request, the most frequent first."""
    return dict(Counter(outcome.what for outcome in outcomes).most_common())


def percentile(outcomes: Sequence[Outcome], percent: float, what: str = ANSWERED) -> float | None:
    """The seconds within which so many percent of the requests with that outcome ended."""
    times = sorted(outcome.seconds for outcome in outcomes if outcome.what == what)
    return times[min(int(len(times) * percent / 100), len(times) - 1)] if times else None
