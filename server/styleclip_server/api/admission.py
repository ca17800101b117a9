"""The bound on concurrent inference requests, over both protocols; more are refused.

A queue would only make every client wait: clients retry, and an immediate refusal tells a load
balancer to go elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from styleclip_server.api.refusals import busy


class Admission:
    """Admits requests while they have together at most `limit` rows.

    Attributes:
        running: rows that are running.
        admitted, refused: requests so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.admitted = 0
        self.refused = 0

    @contextmanager
    def enter(self, rows: int = 1) -> Iterator[None]:
        """Count a request of `rows` images as running during a `with` block.

        A request of more rows than `limit` is admitted when nothing else is running.

        Raises:
            Refused: the server is busy.
        """
        rows = max(1, min(rows, self.limit))
        if self.running + rows > self.limit:
            self.refused += 1
            raise busy()
        self.admitted += 1
        self.running += rows
        try:
            yield
        finally:
            self.running -= rows
