"""The cache of one session: values by everything they depend on, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
_LIMIT_BYTES = 64 * 2**20


class SessionCache:
    """Least-recently-used values up to `_LIMIT_BYTES`.

    Safe for threads: downloads run in threads of their own.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # value and bytes
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def get_or_compute(
        self, key: Hashable, compute: Callable[[], T], size_in_bytes: Callable[[T], int]
    ) -> T:
        """Return the value of `key`, computed if it is missing; `size_in_bytes` measures it."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = compute()
        with self._lock:
            self._entries[key] = (value, size_in_bytes(value))
            while sum(size for _, size in self._entries.values()) > _LIMIT_BYTES:
                self._entries.popitem(last=False)
        return value

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
