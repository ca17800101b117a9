"""The settings that commands and batches use to connect to any number of servers."""

from __future__ import annotations

from dataclasses import dataclass, field

from styleclip_client.client import Client


@dataclass(frozen=True)
class ConnectionOptions:
    """How to connect to any server; can be sent to another process."""

    timeout: float
    retries: int
    token: str | None = field(default=None, repr=False)
    ca: str | None = None

    def client(self, url: str) -> Client:
        """Return a client of the server at `url`."""
        return Client(url, self.timeout, retries=self.retries, token=self.token, ca=self.ca)
