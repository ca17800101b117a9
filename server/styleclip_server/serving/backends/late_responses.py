"""Responses that are sent after `execute` has returned, so that Triton gives the next batch while
the end of this one (encoding, copies, hand-over) is still computed.

Triton's Python backend permits this for models with one response per request, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as triton

MAX_UNFINISHED = 2  # batches; the next `respond` waits


class LateResponses:
    """Computes and sends responses in a thread of its own, batch by batch.

    Args:
        prepare: called in that thread once, before anything else.
    """

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        self._thread = ThreadPoolExecutor(1, "late-responses", prepare)
        self._free = threading.Semaphore(MAX_UNFINISHED)

    def respond(self, requests: Sequence[Any], compute: Callable[[], Sequence[Any]]) -> None:
        """Send what `compute` returns, which does not raise: a response for each request.

        `execute` returns None after this.
        """
        senders = [request.get_response_sender() for request in requests]
        self._free.acquire()
        self._thread.submit(self._send, senders, compute)

    def _send(self, senders: Sequence[Any], compute: Callable[[], Sequence[Any]]) -> None:
        try:
            for sender, response in zip(senders, compute(), strict=True):
                sender.send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self._free.release()

    def close(self) -> None:
        """Return when everything is sent."""
        self._thread.shutdown()
