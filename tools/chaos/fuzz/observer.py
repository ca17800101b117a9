"""What requests do to the server: processes that end, requests of others that are lost, memory."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from styleclip_client import Client
from styleclip_contract.errors import StyleclipError
from tools.chaos.load import PHOTOS
from tools.chaos.server import Server

PERIOD = 0.5  # seconds between two looks
_ROLES = {"api": "styleclip_server.api", "triton": "bin/tritonserver"}


@dataclass
class Bystander:
    """A client whose requests must be answered meanwhile; it retries as ours do by default."""

    address: str
    answered: int = 0
    slowest: float = 0.0  # seconds
    lost: Counter[str] = field(default_factory=Counter)

    def run(self, stopping: threading.Event) -> None:
        """Edit an image again and again until `stopping` is set."""
        with Client(self.address, timeout=60) as client:
            edits = [preset.edit for preset in client.domain().presets]
            latent = client.invert(PHOTOS[0]).w_plus
            while not stopping.wait(0.2):
                start = time.monotonic()
                try:
                    client.edit(latent, edits[self.answered % len(edits)])
                    self.answered += 1
                except StyleclipError as error:
                    self.lost[f"{type(error).__name__}: {error}"[:200]] += 1
                self.slowest = max(self.slowest, time.monotonic() - start)


class Observer:
    """Watches a server within a `with` block.

    Attributes:
        bystanders: one on each protocol.
        ends: processes that ended, with the time since the start.
        curve: seconds, and the memory (MB) and file descriptors of each part at that time.
    """

    def __init__(self, server: Server) -> None:
        self.bystanders = [Bystander(server.grpc), Bystander(f"http://{server.http}")]
        self.ends: list[str] = []
        self.curve: list[dict[str, float]] = []
        self._server = server
        self._start = time.monotonic()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=bystander.run, args=(self._stopping,), daemon=True)
            for bystander in self.bystanders
        ]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))

    def __enter__(self) -> Observer:
        self._known = self._list_processes()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _list_processes(self) -> dict[int, str]:
        """The processes by their ids, named by their part."""
        found = {}
        for process in self._server.list_processes():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                part = next((role for role, word in _ROLES.items() if word in words), "steps")
                found[process.pid] = "launcher" if process.pid == self._server.process.pid else part
        return found

    def _watch(self) -> None:
        while not self._stopping.wait(PERIOD):
            present = self._list_processes()
            for pid, part in self._known.items():
                if pid not in present:
                    self.ends.append(f"{part} after {time.monotonic() - self._start:.0f} s")
            self._known = present
            self.curve.append(self._look(present))

    def _look(self, processes: dict[int, str]) -> dict[str, float]:
        entry: dict[str, float] = {"seconds": round(time.monotonic() - self._start, 1)}
        for pid, part in processes.items():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                entry[f"{part} MB"] = round(
                    entry.get(f"{part} MB", 0) + process.memory_info().rss / 1e6, 1
                )
                entry[f"{part} files"] = entry.get(f"{part} files", 0) + process.num_fds()
        return entry

    def summarize_curve(self) -> dict[str, list[float]]:
        """Return the first, the largest and the last value of each series."""
        series: dict[str, list[float]] = {}
        for entry in self.curve:
            for name, value in entry.items():
                if name != "seconds":
                    series.setdefault(name, []).append(value)
        return {name: [values[0], max(values), values[-1]] for name, values in series.items()}
