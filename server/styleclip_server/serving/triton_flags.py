"""What Triton is told on its command line beside folders and ports: closed doors, traces, time."""

from __future__ import annotations

import secrets

# Calls that trace others' requests, write the log elsewhere, or map this machine's shared memory.
_CLOSED = ("trace", "logging")
_SHARED_MEMORY = "shared-memory"


def closed_doors(shared_memory: bool) -> list[str]:
    """Nobody knows the key's value, another at each start: these calls are refused to all."""
    names = ",".join(_CLOSED if shared_memory else (*_CLOSED, _SHARED_MEMORY))
    key = f"closed={secrets.token_hex(32)}"
    return [
        "--model-control-mode=none",
        f"--http-restricted-api={names}:{key}",
        f"--grpc-restricted-protocol={names}:{key}",
    ]


def connections(age: int) -> list[str]:
    """A gRPC client that vanished is noticed within a minute, in place of two hours; clients may
    look as often whether the server is there; after `age` seconds (0: never) they connect anew."""
    return [
        "--grpc-keepalive-time=30000",
        "--grpc-keepalive-timeout=20000",
        "--grpc-keepalive-permit-without-calls=1",
        # Clients look every 20 s whether the server is still there, longer edits or not.
        "--grpc-http2-min-recv-ping-interval-without-data=10000",
        *([f"--grpc-max-connection-age={age * 1000}"] if age else ()),
    ]


def traces(url: str | None, every: int) -> list[str]:
    """Spans of one in `every` requests, by OpenTelemetry's protocol over HTTP, to `url`."""
    if not url:
        return []
    return [
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=rate={every}",
        f"--trace-config=opentelemetry,url={url}",
        "--trace-config=opentelemetry,resource=service.name=styleclip",
    ]
