"""What the API server serves and allows; the launcher writes it for the API server's process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from styleclip_contract import limits


@dataclass(frozen=True)
class Settings:
    """The settings of one API server.

    Attributes:
        host: address to listen on.
        http_port, grpc_port, metrics_port: ports to listen on.
        triton_http, triton_grpc, triton_metrics: Triton's private addresses, "host:port".
        cancelled_calls: the folder of `CancelledCalls`.
        processes: how many serve the same ports; the kernel gives each connection to one of them.
        shared_load: the file of their `Load`.
        liveness_socket: the path, to which a process adds its number, where it alone responds.
        tokens: the client's name of each token; none: clients need no token.
        rate_limit: calls per second and client; 0: any number.
        body_limit: bytes of a request's body.
        log_requests: which requests get a line in the log, one of `request_log.SELECTIONS`.
        max_concurrent: inference requests that run concurrently; more are refused.
        highest_concurrent: up to what `max_concurrent` adapts to the measured latency; None: it is
            fixed.
        allow_shared_memory: clients of this machine may pass tensors in shared memory.
        connection_age: seconds after which gRPC's clients are asked to connect again; 0: never.
        exit_timeout: seconds that requests under way have left when the API server is stopped.
    """

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    triton_http: str
    triton_grpc: str
    triton_metrics: str
    cancelled_calls: str
    shared_load: str
    liveness_socket: str
    max_concurrent: int
    processes: int = 1
    highest_concurrent: int | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    rate_limit: float = 0
    allow_shared_memory: bool = False
    connection_age: int = 0
    body_limit: int = limits.PHOTO_BYTES + 2**20
    log_requests: str = "failures"
    exit_timeout: int = 10

    def save(self, path: Path) -> None:
        """Write the settings for `load`, readable by this user only."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))
