"""The features of faces that were edited, so that the next edit does not invert them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar


class HasBytes(Protocol):
    """What a cache keeps: tensors of a face, in the memory of a CPU or a GPU."""

    @property
    def nbytes(self) -> int: ...


Entry = TypeVar("Entry", bound=HasBytes)


class CacheInfo(NamedTuple):
    """Look-ups of a `FeatureCache`, and the bytes that it has."""

    hits: int
    misses: int
    nbytes: int


class FeatureCache(Generic[Entry]):
    """Features by key, at most `max_bytes`: the least recently used are evicted.

    For one thread: its process answers one request after another, so a request for features that
    are being computed waits, and then finds them.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._hits = self._misses = self._nbytes = 0

    def get(self, key: bytes, compute: Callable[[], Entry]) -> Entry:
        """Return the features of `key`, by `compute` if they are missing; errors are not cached."""
        if key in self._entries:
            self._hits += 1
            self._entries.move_to_end(key)
            return self._entries[key]
        self._misses += 1
        features = self._entries[key] = compute()
        self._nbytes += features.nbytes
        while self._nbytes > self._max_bytes:
            _, evicted = self._entries.popitem(last=False)
            self._nbytes -= evicted.nbytes
        return features

    def cache_info(self) -> CacheInfo:
        """Return the number of look-ups, and of bytes."""
        return CacheInfo(self._hits, self._misses, self._nbytes)
