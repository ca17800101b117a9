"""The metrics of the Python steps, on Triton's own Prometheus port beside Triton's metrics.

Labels are bounded: a domain, a step, the name of an error, a format, a cache. Nothing of a photo
or a text goes in. Every process of a step registers the same families; Triton adds them up.

Imported by the `model.py` files, inside Triton only.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, Protocol

import triton_python_backend_utils as triton

from styleclip_contract.edits import Edit
from styleclip_contract.errors import InvalidInput, ServerError, StyleclipError
from styleclip_contract.wire import CANARY

SEND_SECONDS = 0.25  # between what is sent to Triton

FACES = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)
STRENGTHS = (-10.0, -5.0, -2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0)
THRESHOLDS = (0.0, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.5)


class CacheInfo(Protocol):
    """What a cache counts: that of `functools.lru_cache`, for example."""

    @property
    def hits(self) -> int: ...

    @property
    def misses(self) -> int: ...


class Metrics:
    """The counters and histograms of one step, for the domain that is served."""

    def __init__(self, step: str, domain: str) -> None:
        self._step, self._domain = step, domain
        self._request = threading.local()
        self._previous: dict[str, CacheInfo] = {}
        # Registered at 0: Prometheus cannot compute a rate over the first event of a new series.
        for error in (*InvalidInput.__subclasses__(), ServerError):
            self._count_error(error.__name__, 0)

    def begin_request(self, request_id: str) -> None:
        """Start a request: later counts of this thread belong to it; a canary's are dropped."""
        self._request.counts = not request_id.startswith(CANARY)

    @property
    def _counts(self) -> bool:
        return getattr(self._request, "counts", True)

    def count_faces(self, faces: int) -> None:
        """Count the faces detected in a photo."""
        if self._counts:
            _observe(
                faces,
                "styleclip_faces_found",
                "Faces found in a photo; those beside the largest only as far as it took to find",
                FACES,
                domain=self._domain,
            )

    def count_edits(self, edits: Iterable[Edit]) -> None:
        """Count edits whose direction was computed."""
        if not self._counts:
            return
        for edit in edits:
            _count(1, "styleclip_edits_total", "Edits requested", domain=self._domain)
            if edit.direction:  # in a unit of its own, without a threshold
                continue
            _observe(
                edit.strength,
                "styleclip_strength",
                "Strength α of edits",
                STRENGTHS,
                domain=self._domain,
            )
            _observe(
                round(edit.threshold, 4),  # it came as float32
                "styleclip_threshold",
                "Threshold β of edits",
                THRESHOLDS,
                domain=self._domain,
            )

    def count_lookups(self, caches: Mapping[str, CacheInfo]) -> None:
        """Count the look-ups since the last call, from the `cache_info()` of each cache."""
        for name, info in caches.items():
            before = self._previous.get(name)
            self._previous[name] = info
            for result, now, then in (
                ("hit", info.hits, before.hits if before else 0),
                ("miss", info.misses, before.misses if before else 0),
            ):
                if self._counts and now > then:
                    _count(
                        now - then,
                        "styleclip_cache_requests_total",
                        "Look-ups in the caches of texts, offsets and features",
                        cache=name,
                        result=result,
                    )

    def count_image(self, format: str) -> None:
        """Count an encoded image."""
        if self._counts:
            _count(
                1,
                "styleclip_pictures_total",
                "Images encoded",
                domain=self._domain,
                format=format.upper(),
            )

    def count_error(self, error: BaseException) -> None:
        """Count a request that was refused or failed."""
        if self._counts:
            named = error if isinstance(error, StyleclipError) else ServerError()
            self._count_error(type(named).__name__, 1)

    def _count_error(self, error: str, by: int) -> None:
        _count(
            by,
            "styleclip_refusals_total",
            "Requests refused or failed in a Python step, by the name of the error",
            step=self._step,
            error=error,
        )


class _Outbox:
    """Sends what is counted to Triton, in a thread of its own.

    Triton answers each message, in 0.1 ms and more: no request waits for that. And a metric keeps
    its message in itself, so that two threads which send one at once would end the server.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[_Series, float] = {}
        self._observed: list[tuple[_Series, float]] = []
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, series: _Series, value: float) -> None:
        """Add to a counter, or observe a value in a histogram."""
        with self._lock:
            if series.buckets:
                self._observed.append((series, value))
            else:
                self._sums[series] = self._sums.get(series, 0) + value
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
                self._thread.start()
                atexit.register(self._stop)  # before Python ends under a thread that waits

    def _run(self) -> None:
        while not self._stopped.wait(SEND_SECONDS):
            with self._lock:
                sums, self._sums = self._sums, {}
                observed, self._observed = self._observed, []
            for series, value in sums.items():
                self._send(series, "increment", value)
            for series, value in observed:
                self._send(series, "observe", value)

    def _send(self, series: _Series, method: str, value: float) -> None:
        if not self._stopped.is_set():
            with suppress(Exception):  # a count is no reason to end the thread
                getattr(_metric(series), method)(value)

    def _stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join(1)


class _Series(NamedTuple):
    """A metric with its labels; a histogram has buckets, a counter none."""

    name: str
    description: str
    labels: tuple[tuple[str, str], ...]
    buckets: tuple[float, ...] = ()


_outbox = _Outbox()


def _count(by: float, name: str, description: str, **labels: str) -> None:
    _outbox.add(_Series(name, description, tuple(labels.items())), by)


def _observe(
    value: float, name: str, description: str, buckets: tuple[float, ...], **labels: str
) -> None:
    _outbox.add(_Series(name, description, tuple(labels.items()), buckets), value)


# Families and metrics are created once a process: each is a message to Triton.
@cache
def _metric(series: _Series) -> Any:
    labels = dict(series.labels)
    if not series.buckets:
        family = _family(series.name, series.description, triton.MetricFamily.COUNTER)
        return family.Metric(labels=labels)
    family = _family(series.name, series.description, triton.MetricFamily.HISTOGRAM)
    return family.Metric(labels=labels, buckets=list(series.buckets))


@cache
def _family(name: str, description: str, kind: Any) -> Any:
    return triton.MetricFamily(name=name, description=description, kind=kind)
