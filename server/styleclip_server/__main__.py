"""`python -m styleclip_server`, which is what `make serve` runs: serves until Ctrl-C."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

from styleclip_server.engines.engine import ENGINES
from styleclip_server.serving.configs import QUEUE_LENGTH
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options, default_repository
from styleclip_server.serving.request_log import SELECTIONS
from styleclip_server.serving.server_log import FORMATS, JsonFormatter
from styleclip_server.serving.supervisor import CANARY_SECONDS, SupervisedServer

_PORT = click.IntRange(0, 65535)


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "auto_envvar_prefix": "STYLECLIP",
        "max_content_width": 100,
    }
)
# What is served.
@click.option("--domain", default=Options.domain, help="The domain to serve, by its folder's name.")
@click.option("--repository", type=click.Path(path_type=Path), metavar="FOLDER",
              default=default_repository, show_default="./model_repository",
              help="The model repository.")  # fmt: skip
@click.option("--domains", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="The folder of the domains, if not the repository.")  # fmt: skip
@click.option("--networks", type=click.Choice(("auto", *ENGINES)), default=Options.networks,
              help="What runs the networks: torch (PyTorch on a GPU, the fastest), gpu or cpu "
              "(ONNX Runtime), openvino (on a CPU); auto: the fastest here.")  # fmt: skip
# Where.
@click.option("--host", default=Options.host, help="Address to listen on; 0.0.0.0: all.")
@click.option("--http-port", type=_PORT, default=8000,
              help="The web API, and KServe v2 over HTTP; 0: any free.")  # fmt: skip
@click.option("--grpc-port", type=_PORT, default=8001, help="KServe v2 over gRPC; 0: any free.")
@click.option("--metrics-port", type=_PORT, default=8002, help="Prometheus; 0: any free.")
# Who may call, and how much.
@click.option("--token", help="What clients show as “Authorization: Bearer TOKEN”. Prefer the "
              "variable or a file: other users can read a command line.")  # fmt: skip
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="One token per line, and a name after it; or the gateway's file.")  # fmt: skip
@click.option("--no-token", is_flag=True,
              help="Serve off loopback without a token, where something else keeps others "
              "out.")  # fmt: skip
@click.option("--rate-limit", type=click.FloatRange(0), default=Options.rate_limit, metavar="N",
              help="Calls per second and client (its token, or its address); 0: any.")  # fmt: skip
@click.option("--body-limit", type=click.IntRange(1, 1024), default=Options.body_limit,
              metavar="MIB", help="Largest request.")  # fmt: skip
@click.option("--allow-shared-memory", is_flag=True,
              help="Let clients on this machine pass tensors in shared memory.")  # fmt: skip
@click.option("--queue-length", type=click.IntRange(1), metavar="N",
              help="Requests that wait for each model; more are refused. [default: "
              f"{QUEUE_LENGTH['gpu']} on a GPU, {QUEUE_LENGTH['cpu']} on a CPU]")  # fmt: skip
@click.option("--max-concurrent", "--inside", type=click.IntRange(0), metavar="N",
              default=Options.max_concurrent,
              envvar=["STYLECLIP_INSIDE", "STYLECLIP_MAX_CONCURRENT"],  # an overlay's old name wins
              help="Inference requests that run concurrently; more are refused. 0: as many as "
              "keep p99 of the latency within twice that of one alone, as measured.")  # fmt: skip
@click.option("--api-processes", type=click.IntRange(0, 64), default=Options.api_processes,
              metavar="N", help="Processes of the API server. 0: one on a CPU, and beside a GPU "
              "one for four cores, up to 8; always one with --rate-limit.")  # fmt: skip
@click.option("--connection-age", type=click.IntRange(0), default=Options.connection_age,
              metavar="SECONDS",
              help="Ask clients to connect again after this time; 0: never.")  # fmt: skip
# How it is watched and stopped.
@click.option("--canary", type=click.FloatRange(0), default=CANARY_SECONDS, metavar="SECONDS",
              help="Time between two edits of a small image that check the server; 0: "
              "none.")  # fmt: skip
@click.option("--exit-timeout", type=click.IntRange(1), default=Options.exit_timeout,
              metavar="SECONDS",
              help="Time for requests under way when it is stopped.")  # fmt: skip
# What it reports.
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
              default=Options.log, help="Triton's output; moved to FILE.old at 10 MiB; -: "
              "standard error.")  # fmt: skip
@click.option("--log-format", type=click.Choice(FORMATS), default=Options.log_format)
@click.option("--log-requests", type=click.Choice(SELECTIONS), default=Options.log_requests,
              help="Requests that get a line of JSON in the log, with their ids.")  # fmt: skip
@click.option("--log-texts", is_flag=True, help="Put the texts of the edits into these lines.")
@click.option("--trace-to", metavar="URL", help="Send the spans of requests to an OpenTelemetry "
              "collector, as http://localhost:4318/v1/traces.")  # fmt: skip
@click.option("--trace-every", type=click.IntRange(1), default=Options.trace_every, metavar="N",
              help="Trace one in N requests.")  # fmt: skip
def command(canary: float, log: Path, **options: Any) -> None:
    """Serve a domain on Triton until Ctrl-C, restarting it when a part of it fails.

    Each option may be given in the environment: STYLECLIP_GRPC_PORT for --grpc-port.
    """
    console = Console(stderr=True)
    report = _log_to(console, options["log_format"])
    stop_requested = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_requested.set())
    server = SupervisedServer(Options(log=None if str(log) == "-" else log, **options), canary)
    try:
        with console.status("starting Triton ..."):
            server.start()
        report(
            f"Serving {server.options.domain}: gRPC {server.grpc_url}, HTTP {server.http_url}; "
            f"log {server.options.log_name}; Ctrl-C stops it"
        )
        while not stop_requested.wait(1):
            if server.failure:  # the process manager that started us may start us again
                raise server.failure
        report("stopping ...")
    except ServerStartFailed as error:
        print(f"styleclip-server: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        server.stop()


def _log_to(console: Console, format: str) -> Callable[[str], None]:
    """Send log messages to `console`; return a function that prints a message there."""
    handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False)
    if format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each liveness check
    if format == "json":
        return logging.getLogger("styleclip_server").info
    return partial(console.print, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    command(prog_name="styleclip-server")
