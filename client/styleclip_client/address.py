"""A server's address, and the settings of a connection to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

Compression: TypeAlias = Literal["gzip", "deflate"]

# Triton's own ports; with TLS a gateway answers, and gateways use the web's.
_PORTS = {"grpc": 8001, "http": 8000, "grpcs": 443, "https": 443}
DEFAULT_URL = "localhost:8001"
_EXAMPLES = f"give host:port, such as {DEFAULT_URL}, or http://host:port"


@dataclass(frozen=True)
class Address:
    """A server's address. `scheme` is grpc, grpcs, http or https; `path` a gateway's prefix."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read "host", "host:port" (gRPC) or "scheme://host:port".

        Raises:
            ValueError: `url` is not such an address.
        """
        scheme, separator, rest = url.rpartition("://")
        scheme = scheme.lower() if separator else "grpc"
        if scheme not in _PORTS:
            raise ValueError(
                f"{url!r} is not a server address: {scheme!r} is not one of {', '.join(_PORTS)}"
            )
        host, port, path = _split(url, rest)
        if path and not scheme.startswith("http"):
            raise ValueError(f"{url!r} is not a gRPC address, which has no path: {_EXAMPLES}")
        return cls(scheme, f"[{host}]" if ":" in host else host, port or _PORTS[scheme], path)

    @property
    def grpc(self) -> bool:
        """Whether the protocol is gRPC; otherwise it is HTTP."""
        return self.scheme.startswith("grpc")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme.endswith("s")

    @property
    def loopback(self) -> bool:
        """Whether it is this machine, which no proxy of the environment can reach."""
        return self.host in ("localhost", "[::1]") or self.host.startswith("127.")

    @property
    def target(self) -> str:
        """The address as gRPC takes it, "host:port"."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if self.scheme == "grpc":
            return self.target
        return f"{self.scheme}://{self.target}{self.path}"


@dataclass(frozen=True)
class Connection:
    """The settings of a connection.

    Attributes:
        address: where the server is.
        headers: sent with each request (gRPC: metadata).
        ca: PEM file with the authorities to trust in place of the system's.
        certificate, key: PEM files that prove who the client is.
        compression: of requests, and of responses where the server agrees.
        name: prefix of request ids.
    """

    address: Address
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    compression: Compression | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.address.tls and (self.ca or self.certificate or self.key):
            raise ValueError(
                f"{self.address} has no TLS, so certificates have no use: take grpcs:// or https://"
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate and its key are given together")
        if self.compression not in (None, "gzip", "deflate"):
            raise ValueError(f"compression is {self.compression!r}; gzip and deflate are known")

    def request_id(self, id: str) -> str:
        """Return the id that the server gets for the request `id`."""
        return f"{self.name}-{id}" if self.name else id


def _split(url: str, rest: str) -> tuple[str, int | None, str]:
    """Return host, port and path of `rest`, the part of `url` after the scheme."""
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a server address: {_EXAMPLES}") from error
    if not host or port == 0 or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not a server address: {_EXAMPLES}")
    return host, port, parts.path.rstrip("/")
