"""The launcher's options: what a server serves, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from styleclip_contract import limits
from styleclip_server.engines.engine import Engine
from styleclip_server.serving import request_log, server_log
from styleclip_server.serving.domain_folder import DEFAULT_DOMAIN

_SOURCE_TREE = Path(__file__).resolve().parents[3]


def default_repository() -> Path:
    """Return the model repository of the current folder, else of the source tree."""
    here = Path("model_repository").resolve()
    return here if here.is_dir() else _SOURCE_TREE / "model_repository"


@dataclass(frozen=True)
class Options:
    """The options of `python -m styleclip_server`, by the same names.

    Attributes:
        repository: the model repository; of its folders `steps` is used, and the domain's.
        domain: the domain to serve.
        domains: the folder of the domains; None: `repository`.
        host: address to listen on.
        http_port, grpc_port, metrics_port: 0 means any free one.
        log: the file that Triton's output is written to; None: standard error.
        exit_timeout: seconds that requests under way have left when the server is stopped.
        queue_length: requests that wait for each model, more are refused; None: as the engine
            needs.
        connection_age: seconds after which clients are asked to connect again, so that they find
            servers that were added; 0: never.
        log_format: one of `server_log.FORMATS`.
        log_requests: one of `request_log.SELECTIONS`.
        log_texts: include edit texts in request log lines.
        trace_to: an OpenTelemetry collector's URL.
        trace_every: trace one in N requests.
        allow_shared_memory: clients of this machine may pass tensors in shared memory.
        token: what clients show as `Authorization: Bearer TOKEN`.
        token_file: a file with one token per line, and the client's name after it.
        no_token: clients need no token, even where others than this machine can reach the server.
        rate_limit: calls per second and client; 0: any number.
        body_limit: MiB of a request.
        max_concurrent: inference requests that run concurrently; more are refused. 0: as many as
            keep p99 of the latency within twice that of one request alone, as measured.
        api_processes: of the API server; 0: one on a CPU, more beside a GPU.
        networks: how the networks are run; "auto": the fastest that this machine can run.
    """

    repository: Path = field(default_factory=default_repository)
    domain: str = DEFAULT_DOMAIN
    domains: Path | None = None
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    log: Path | None = Path("out/server.log")
    exit_timeout: int = 10
    queue_length: int | None = None
    connection_age: int = 0
    log_format: str = server_log.FORMATS[0]
    log_requests: str = request_log.SELECTIONS[0]
    log_texts: bool = False
    trace_to: str | None = None
    trace_every: int = 1
    allow_shared_memory: bool = False
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    no_token: bool = False
    rate_limit: float = 0
    body_limit: int = limits.PHOTO_BYTES // 2**20 + 1
    max_concurrent: int = 0
    api_processes: int = 0
    networks: Engine | Literal["auto"] = "auto"

    @property
    def domains_folder(self) -> Path:
        return self.domains or self.repository

    @property
    def domain_folder(self) -> Path:
        """The folder of the domain that is served."""
        return self.domains_folder / self.domain

    @property
    def log_name(self) -> str:
        """Where to read Triton's output, for people."""
        return "standard error" if self.log is None else str(self.log)

    def address(self, port: int) -> str:
        """Return the "host:port" by which this machine reaches a port of the server."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
