"""Triton's command line and environment."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from styleclip_server.cancelled_calls import FOLDER_VARIABLE
from styleclip_server.engines.engine import CPU_ENGINES, Engine
from styleclip_server.serving import model_repository, request_log
from styleclip_server.serving.domain_folder import DOMAIN_VARIABLE, DOMAINS_VARIABLE
from styleclip_server.serving.installation import Installation, fastest_engine, find_installation
from styleclip_server.serving.options import Options
from styleclip_server.serving.ports import TRITON_HOST, Ports

# Protocols that trace others' requests, redirect the log, or map this machine's shared memory.
_RESTRICTED = ("trace", "logging")
_SHARED_MEMORY = "shared-memory"

# Images are copied in blocks that glibc keeps for the next ones: each block that goes back to the
# kernel costs as many page faults as it has pages, 1.1 ms of `compose` for a file of 0.5 MB. Blocks
# below the first number are kept, up to the second number in each process.
_MALLOC_GPU = {"MALLOC_MMAP_THRESHOLD_": str(2**24), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
_MALLOC_CPU = {"MALLOC_MMAP_THRESHOLD_": str(2**22), "MALLOC_TRIM_THRESHOLD_": str(2**24)}

# The steps multiply small matrices. OpenBLAS's other threads would spin for some 30 ms after each
# product, on cores that the networks need.
_NUMPY_THREADS = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class ServerSetup:
    """The Triton installation, the engine and the prepared folders of one server."""

    installation: Installation
    engine: Engine
    models: Path
    backends: Path
    cancelled_calls: Path


def prepare_setup(options: Options, folder: Path) -> ServerSetup:
    """Prepare the models and backends that Triton loads in `folder`.

    Done once per server: a restart must not depend on free disk space.
    """
    installation = find_installation()
    assert installation, "preflight.check finds one"
    engine = options.networks
    if engine == "auto":
        engine = fastest_engine(options.domain_folder)
    models = folder / "models"
    model_repository.link_models(
        models,
        options.repository / "steps",
        options.domain_folder,
        engine,
        options.queue_length,
    )
    return ServerSetup(
        installation,
        engine,
        models,
        installation.prepare_backends(folder / "backends"),
        cancelled_calls(folder),
    )


def cancelled_calls(folder: Path) -> Path:
    """Return the folder of `CancelledCalls` in a server's folder."""
    return folder / "cancelled"


def command_line(
    options: Options, ports: Ports, setup: ServerSetup, shared_memory_prefix: str
) -> list[str]:
    """Return Triton's command line."""
    return [
        str(setup.installation.binary),
        f"--model-repository={setup.models}",
        f"--backend-directory={setup.backends}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={options.exit_timeout}",
        "--log-verbose=0",
        f"--http-address={TRITON_HOST}",
        f"--grpc-address={TRITON_HOST}",
        f"--metrics-address={TRITON_HOST}",
        f"--http-port={ports.triton_http}",
        f"--grpc-port={ports.triton_grpc}",
        f"--metrics-port={ports.triton_metrics}",
        "--metrics-config=summary_latencies=true",
        *_restrictions(options.allow_shared_memory),
        *_tracing(options.trace_to, options.trace_every),
    ]


def environment(options: Options, setup: ServerSetup) -> dict[str, str]:
    """Return the environment of Triton and its steps."""
    # The stub embeds an isolated interpreter: it heeds no PYTHONPATH, but finds its packages
    # (those of a virtual environment too) by the first `python3` on PATH.
    interpreter = Path(sys.executable).parent
    return {
        **(_MALLOC_CPU if setup.engine in CPU_ENGINES else _MALLOC_GPU),
        **_NUMPY_THREADS,
        **os.environ,
        "LD_LIBRARY_PATH": _search_path(
            *setup.installation.libraries, os.environ.get("LD_LIBRARY_PATH")
        ),
        "PATH": _search_path(interpreter, os.environ.get("PATH")),
        DOMAIN_VARIABLE: options.domain,
        DOMAINS_VARIABLE: str(options.domains_folder.resolve()),
        request_log.SELECTION_VARIABLE: options.log_requests,
        request_log.TEXTS_VARIABLE: "1" if options.log_texts else "0",
        FOLDER_VARIABLE: str(setup.cancelled_calls),
    }


def _search_path(*folders: object) -> str:
    return os.pathsep.join(str(folder) for folder in folders if folder)


def _restrictions(allow_shared_memory: bool) -> list[str]:
    """Restrict calls to holders of a random key that is stored nowhere, so no client has it."""
    names = ",".join(_RESTRICTED if allow_shared_memory else (*_RESTRICTED, _SHARED_MEMORY))
    key = f"restricted={secrets.token_hex(32)}"
    return [
        "--model-control-mode=none",
        f"--http-restricted-api={names}:{key}",
        f"--grpc-restricted-protocol={names}:{key}",
    ]


def _tracing(url: str | None, every: int) -> list[str]:
    """Send the spans of one in `every` requests to `url`, by OpenTelemetry's protocol over HTTP."""
    if not url:
        return []
    return [
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=rate={every}",
        f"--trace-config=opentelemetry,url={url}",
        "--trace-config=opentelemetry,resource=service.name=styleclip",
    ]
