"""The bound on concurrent inference requests, over both protocols; more are refused.

A queue would only make every client wait: clients retry, and an immediate refusal tells a load
balancer to go elsewhere.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from styleclip_server.api.refusals import busy

TARGET = 2.0  # p99 of the latency at the bound, as a multiple of the unloaded one
MARGIN = 0.9  # of the target, above which the bound does not grow
WINDOW = 200  # requests that ran at the bound, between two changes of it
CALIBRATION = 40  # requests that run alone where the unloaded latency is unknown
UNLOADED_SAMPLES = (10, 100)  # of a class of requests: at least, at most
UNLOADED_SECONDS = 600.0  # that a latency without load counts
GROWTH = 1.5  # at most, per window
PATIENCE = (20, 160)  # windows until a bound that was too high is tried again: at first, at most


@dataclass(frozen=True)
class RequestClass:
    """Requests that take about the same time without load: by what they call and their size."""

    call: str
    size: int

    @classmethod
    def of_size(cls, call: str, size: int) -> RequestClass:
        """Return the class of requests of `size` bytes, and up to four times as many."""
        return cls(call, size.bit_length() // 2)


class Admission:
    """Admits requests while they have together at most `limit` rows.

    Args:
        limit: the bound at the start.
        highest: the bound adapts to the measured latency, from 1 to this number; None: it is fixed.
        clock: returns seconds.

    Attributes:
        running: rows that are running.
        admitted, refused: requests so far.
    """

    def __init__(
        self,
        limit: int,
        highest: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.running = 0
        self.admitted = 0
        self.refused = 0
        self._latencies = _Latencies(highest, clock)
        self._clock = clock
        self._full = 0  # the last request that reached the bound
        self._changed = 0  # the last request that was admitted at an earlier bound

    @contextmanager
    def enter(self, rows: int = 1, request_class: RequestClass | None = None) -> Iterator[None]:
        """Count a request of `rows` images as running during a `with` block.

        A request of more rows than `limit` is admitted when nothing else is running.

        Args:
            request_class: None: its latency does not count, as that of a failed request.

        Raises:
            Refused: the server is busy.
        """
        rows = max(1, min(rows, self.limit))
        if self.running + rows > self.limit:
            self.refused += 1
            raise busy()
        self.admitted += 1
        alone, number, start = self.running == 0, self.admitted, self._clock()
        self.running += rows
        if self.running >= self.limit:
            self._full = number
        try:
            yield
        except BaseException:
            request_class = None
            raise
        finally:
            self.running -= rows
            seconds = self._clock() - start
            if alone and number == self.admitted:
                self._latencies.record_unloaded(request_class, seconds)
            if self._changed < number <= self._full:
                limit = self._latencies.next_limit(self.limit, request_class, seconds)
                if limit != self.limit:
                    self.limit, self._changed = limit, self.admitted


class _Latencies:
    """Chooses the bound at which p99 of the latency is twice that without load.

    It is measured as users see it: each window of requests that ran at the bound shows p99 of
    their latency, as a multiple of p99 of requests of their class that ran alone. Under load the
    latency grows at most in proportion to the bound, which gives the next bound. Where no request
    has run alone for some minutes, the bound is 1 for a moment.
    """

    def __init__(self, highest: int | None, clock: Callable[[], float]) -> None:
        self._fixed = highest is None
        self._highest = highest or 0
        self._clock = clock
        self._unloaded: dict[RequestClass, deque[tuple[float, float]]] = {}
        self._ratios: list[float | None] = []
        self._calibrated: int | None = None  # the bound after the calibration under way
        # The lowest bound that was too high, and how many windows ago.
        self._too_high, self._windows, self._patience = self._highest + 1, 0, PATIENCE[0]

    def record_unloaded(self, request_class: RequestClass | None, seconds: float) -> None:
        """Take the latency of a request that ran alone into account."""
        if request_class is None or self._fixed:
            return
        samples = self._unloaded.setdefault(request_class, deque(maxlen=UNLOADED_SAMPLES[1]))
        samples.append((self._clock(), seconds))

    def next_limit(self, limit: int, request_class: RequestClass | None, seconds: float) -> int:
        """Take the latency of a request at the bound into account; return the next bound."""
        if self._fixed or (request_class is None and self._calibrated is None):
            return limit
        unloaded = None if request_class is None else self._unloaded_p99(request_class)
        self._ratios.append(None if unloaded is None else seconds / unloaded)
        if self._calibrated is not None:
            return self._calibrate(limit, self._calibrated)
        if len(self._ratios) < WINDOW:
            return limit
        ratios = [ratio for ratio in self._ratios if ratio is not None]
        self._ratios.clear()
        if len(ratios) < WINDOW / 2:
            self._calibrated = limit
            return 1
        return self._adapt(limit, _p99(ratios))

    def _calibrate(self, limit: int, after: int) -> int:
        if len(self._ratios) < CALIBRATION:
            return limit
        self._ratios.clear()
        self._calibrated = None
        return after

    def _adapt(self, limit: int, ratio: float) -> int:
        """Return the bound after a window with this ratio of p99."""
        self._windows += 1
        if ratio > TARGET:
            again = limit == self._too_high
            self._patience = min(2 * self._patience, PATIENCE[1]) if again else PATIENCE[0]
            self._too_high, self._windows = limit, 0
            return max(1, min(limit - 1, int(limit * TARGET / ratio)))
        if limit == self._too_high:
            self._too_high = self._highest + 1
        if ratio > MARGIN * TARGET:
            return limit
        grown = max(limit + 1, int(limit * min(GROWTH, TARGET / ratio)))
        most = self._too_high if self._windows >= self._patience else self._too_high - 1
        return max(limit, min(grown, self._highest, most))

    def _unloaded_p99(self, request_class: RequestClass) -> float | None:
        samples = self._unloaded.get(request_class, ())
        since = self._clock() - UNLOADED_SECONDS
        recent = [seconds for at, seconds in samples if at > since]
        return _p99(recent) if len(recent) >= UNLOADED_SAMPLES[0] else None


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1) + 0.5)]
