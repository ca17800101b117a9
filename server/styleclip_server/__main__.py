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

from styleclip_server.engines.flavours import FLAVOURS
from styleclip_server.serving.request_log import WHICH
from styleclip_server.serving.server_log import FORMATS, JsonFormatter
from styleclip_server.serving.supervisor import CANARY_SECONDS, default_repository, running_server
from styleclip_server.serving.triton_process import Options, ServerStartFailed

_PORT = click.IntRange(0, 65535)


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "auto_envvar_prefix": "STYLECLIP",
    }
)
@click.option("--domain", default="avatars", help="Which networks: a folder of that name.")
@click.option("--repository", type=click.Path(path_type=Path), help="The model repository.",
              default=default_repository, show_default="./model_repository")  # fmt: skip
@click.option("--domains", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Where the domains are, if not in the repository.")  # fmt: skip
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 opens to all.")
@click.option("--http-port", type=_PORT, default=8000, help="KServe v2 over HTTP; 0: any free.")
@click.option("--grpc-port", type=_PORT, default=8001, help="KServe v2 over gRPC; 0: any free.")
@click.option("--metrics-port", type=_PORT, default=8002, help="Prometheus; 0: any free.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
              default=Path("out/server.log"), help="What Triton says; -: stderr.")  # fmt: skip
@click.option("--exit-timeout", type=click.IntRange(1), default=10, metavar="SECONDS",
              help="How long requests under way may take when it is stopped.")  # fmt: skip
@click.option("--connection-age", type=click.IntRange(0), default=0, metavar="SECONDS",
              help="How long a gRPC connection lives; 0: as the client wants.")  # fmt: skip
@click.option("--canary", type=click.FloatRange(0), default=CANARY_SECONDS, metavar="SECONDS",
              help="Edit a small picture so often to see that all works; 0: never.")  # fmt: skip
@click.option("--log-format", type=click.Choice(FORMATS), default=FORMATS[0])
@click.option("--log-requests", type=click.Choice(WHICH), default=WHICH[0],
              help="Requests that get a line of JSON in the log, with their ids.")  # fmt: skip
@click.option("--log-texts", is_flag=True, help="Let these lines hold the texts of the edits.")
@click.option("--trace-to", metavar="URL", help="An OpenTelemetry collector, as "
              "http://localhost:4318/v1/traces, that gets the spans of requests.")  # fmt: skip
@click.option("--trace-every", type=click.IntRange(1), default=1, metavar="N",
              help="Trace one in so many requests.")  # fmt: skip
@click.option("--allow-shared-memory", is_flag=True,
              help="Let clients of this machine pass tensors in shared memory.")  # fmt: skip
@click.option("--networks", type=click.Choice(("auto", *FLAVOURS)), default="auto",
              help="What runs them: torch (PyTorch on a GPU, the fastest), gpu or cpu (ONNX "
              "Runtime), openvino (on a CPU); auto: the best that this machine has.")  # fmt: skip
def command(canary: float, log: Path, **options: Any) -> None:
    """Serve the model repository on Triton, and start it anew when a part of it dies.

    Each option may come from the environment instead: STYLECLIP_GRPC_PORT for --grpc-port.
    """
    console = Console(stderr=True)
    tell = _log_to(console, options["log_format"])
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    wanted = Options(log=None if str(log) == "-" else log, **options)
    try:
        with console.status("starting Triton ..."):
            server = running_server(wanted, canary=canary)
            running = server.__enter__()
    except ServerStartFailed as error:
        print(f"styleclip-server: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        tell(
            f"Serving {wanted.domain}: gRPC {running.grpc_url}, HTTP {running.http_url}; "
            f"log {wanted.told}; Ctrl-C stops it"
        )
        while not asked.wait(1):
            if running.failure:  # whoever started us may start us anew
                raise running.failure
        tell("stopping ...")
    finally:
        server.__exit__(None, None, None)


def _log_to(console: Console, format: str) -> Callable[[str], None]:
    """Sends log messages to `console`, and returns what to say things with."""
    handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False)
    if format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    if format == "json":
        return logging.getLogger("styleclip_server").info
    return partial(console.print, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    command(prog_name="styleclip-server")
