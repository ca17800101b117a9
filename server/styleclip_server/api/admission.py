"""The bound on concurrent inference requests, over both protocols; more are refused.

A queue would only make every client wait: clients retry, and an immediate refusal tells a load
balancer to go elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from styleclip_server.api.load import Load
from styleclip_server.api.refusals import busy

# p99 of the latency at the bound, as a multiple of the unloaded one. The goal over all requests,
# also of those at bounds that are tried, is 2.
TARGET = 1.5
MARGIN = 0.9  # of the target, above which the bound does not grow
WINDOW = 100  # requests during which others were refused, between two changes of the bound
EXCESS = 2  # requests above the target that show, before a window's end, that its p99 will be
CALIBRATION = 40  # requests that run alone where the unloaded latency is unknown
UNLOADED_SAMPLES = (10, 100)  # of a class of requests: at least, at most
UNLOADED_SECONDS = 600.0  # that a latency without load counts
GROWTH = 1.5  # at most, per window
PATIENCE = (20, 160)  # windows until a bound that was too high is tried again: at first, at most
CALM = 1  # requests refused between two that are admitted: up to it, a bound of 1 admits 2


@dataclass(frozen=True)
class RequestClass:
    """Requests that take about the same time without load: by what they call and their size."""

    call: str
    size: int

    @classmethod
    def of_size(cls, call: str, size: int) -> RequestClass:
        """Return the class of a request of `size` bytes; sizes within a factor of four share it."""
        return cls(call, size.bit_length() // 2)


class Admission:
    """Admits requests, from any thread, while they have together at most `limit` rows.

    Args:
        limit: the bound at the start.
        highest: the bound adapts to the measured latency, from 1 to this number; None: it is fixed.
        clock: returns seconds.
        load: shared with the other processes of the API server, which have the same bound and each
            adapt it; None: there are no others.
    """

    def __init__(
        self,
        limit: int,
        highest: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        load: Load | None = None,
    ) -> None:
        self.load = load or Load()
        if not self.load.limit:
            self.load.limit = limit
        self._latencies = None if highest is None else _Latencies(limit, highest, clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._full = 0  # the last request during which another was refused
        self._refused = (0, 0)  # between the last two admitted requests, and since the last

    @property
    def limit(self) -> int:
        """The present bound."""
        return self.load.limit

    def refuse_if_full(self) -> None:
        """Refuse a request that `enter` would refuse, before time is spent on reading it.

        Raises:
            Refused: the server is busy.
        """
        with self._lock:
            if self.load.running >= self._places():
                self._refuse()

    @contextmanager
    def enter(self, rows: int = 1, request_class: RequestClass | None = None) -> Iterator[None]:
        """Count a request of `rows` images as running during a `with` block.

        A request of more rows than `limit` is admitted when nothing else is running.

        Args:
            request_class: None: its latency does not count, as that of a failed request.

        Raises:
            Refused: the server is busy.
        """
        with self._lock:
            rows = max(1, min(rows, self.limit))
            is_alone = not self.load.running
            if self.load.running + rows > self._places():
                self._refuse()
            self._refused = (self._refused[1], 0)
            self.load.admit(rows)
            number, start = self.load.admitted, self._clock()
        try:
            yield
        except BaseException:
            request_class = None
            raise
        finally:
            with self._lock:
                self.load.end(rows)
                self._record(request_class, number, is_alone, self._clock() - start)

    def _places(self) -> int:
        """Return the bound, or 2 in place of 1 while few are refused, so that two users fit."""
        latencies, is_calm = self._latencies, max(self._refused) <= CALM
        is_raised = is_calm and latencies is not None and not latencies.is_calibrating
        return 2 if self.limit == 1 and is_raised else self.limit

    def _refuse(self) -> NoReturn:
        self.load.refuse()
        self._refused = (self._refused[0], self._refused[1] + 1)
        self._full = self.load.admitted
        raise busy()

    def _record(
        self, request_class: RequestClass | None, number: int, is_alone: bool, seconds: float
    ) -> None:
        """Take the latency of an ended request into account, and adapt the bound."""
        if self._latencies is None:
            return
        if is_alone and number == self.load.admitted:
            self._latencies.record_unloaded(request_class, seconds)
        is_counted = number <= self._full or self._latencies.is_calibrating
        if number > self.load.changed and is_counted:
            limit = self._latencies.next_limit(self.limit, request_class, seconds)
            if limit != self.limit:
                self.load.limit = limit


@dataclass
class _Ceiling:
    """The lowest bound that was too high, and when it is tried again.

    Attributes:
        limit: that bound; at first the one above the start.
        windows: since it was too high.
        patience: windows until it is tried again.
    """

    limit: int
    windows: int = 0
    patience: int = PATIENCE[0]

    def refuse(self, limit: int) -> None:
        """Put the ceiling at a bound that was too high; a repeated one is tried again later."""
        is_repeated = limit == self.limit
        self.patience = min(2 * self.patience, PATIENCE[1]) if is_repeated else PATIENCE[0]
        self.limit, self.windows = limit, 0

    def highest_allowed(self) -> int:
        return self.limit if self.windows >= self.patience else self.limit - 1


class _Latencies:
    """Chooses the bound at which p99 of the latency is TARGET times that without load.

    1. WINDOW requests during which others were refused are a window. Its ratio is p99 of their
       latencies, each divided by p99 of the requests of its class that ran alone in the last
       UNLOADED_SECONDS.
    2. Where that divisor is unknown for half of a window, the bound is 1 for CALIBRATION requests.
    3. A ratio above TARGET: the bound is divided by ratio / TARGET, since latency under load grows
       at most in proportion to the bound. The bound that was too high is the ceiling.
    4. A ratio below MARGIN * TARGET: the bound grows likewise, GROWTH-fold at most, up to below the
       ceiling.
    5. The first ceiling is one above the start. After PATIENCE windows the ceiling is tried, until
       EXCESS requests are above TARGET: it is lifted, or the next try is twice as late.
    """

    def __init__(self, start: int, highest: int, clock: Callable[[], float]) -> None:
        self._highest = highest
        self._clock = clock
        self._unloaded: dict[RequestClass, deque[tuple[float, float]]] = {}
        self._ratios: list[float | None] = []
        self._ceiling = _Ceiling(start + 1)
        self._calibration = 0  # requests until its end
        self._calibrated_limit = 0  # the bound after it

    @property
    def is_calibrating(self) -> bool:
        """Whether requests have to run alone."""
        return self._calibration > 0

    def record_unloaded(self, request_class: RequestClass | None, seconds: float) -> None:
        """Take the latency of a request that ran alone into account."""
        if request_class is None:
            return
        samples = self._unloaded.setdefault(request_class, deque(maxlen=UNLOADED_SAMPLES[1]))
        samples.append((self._clock(), seconds))

    def next_limit(self, limit: int, request_class: RequestClass | None, seconds: float) -> int:
        """Take the latency of a request at the bound into account; return the next bound."""
        if self._calibration:
            self._calibration -= 1
            return limit if self._calibration else self._calibrated_limit
        if request_class is None:
            return limit
        unloaded = self._unloaded_p99(request_class)
        self._ratios.append(None if unloaded is None else seconds / unloaded)
        ratios = [ratio for ratio in self._ratios if ratio is not None]
        has_failed = sum(ratio > TARGET for ratio in ratios) >= EXCESS
        if has_failed and limit >= self._ceiling.limit:
            self._ratios.clear()
            return self._limit_after_window(limit, _p99(ratios))
        if len(self._ratios) < WINDOW:
            return limit
        self._ratios.clear()
        if len(ratios) < WINDOW / 2:
            self._calibration, self._calibrated_limit = CALIBRATION, limit
            return 1
        return self._limit_after_window(limit, _p99(ratios))

    def _limit_after_window(self, limit: int, ratio: float) -> int:
        if ratio > TARGET:
            if limit > 1:
                self._ceiling.refuse(limit)
            return max(1, min(limit - 1, int(limit * TARGET / ratio)))
        self._ceiling.windows += 1
        if limit == self._ceiling.limit:
            self._ceiling.limit = self._highest + 1
        if ratio > MARGIN * TARGET:
            return limit
        grown = max(limit + 1, int(limit * min(GROWTH, TARGET / ratio)))
        return max(limit, min(grown, self._highest, self._ceiling.highest_allowed()))

    def _unloaded_p99(self, request_class: RequestClass) -> float | None:
        samples = self._unloaded.get(request_class, ())
        since = self._clock() - UNLOADED_SECONDS
        recent = [seconds for time, seconds in samples if time > since]
        return _p99(recent) if len(recent) >= UNLOADED_SAMPLES[0] else None


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1) + 0.5)]
