"""What the API server adds to a request: latency and throughput beside Triton's private ports.

    python -m tools.bench.api_server

Starts the server and sends the same requests in turn to Triton and to the API server, over both
protocols, so that a busy machine slows both alike. Needs idle cores to say anything in ms.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import psutil

from styleclip_client import Client
from styleclip_server.serving.options import Options
from styleclip_server.serving.supervisor import running_server
from tools.private_ports import triton_port

PHOTO = Path(__file__).resolve().parents[2] / "demo" / "samples" / "avatar-1.png"

Call = Callable[[], object]


def _milliseconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def measure_in_turn(direct: Call, through: Call, count: int) -> tuple[float, float, float]:
    """Call both in turn, each as often first as second.

    Returns:
        The medians in ms of the first, the second and of their differences.
    """
    pairs = []
    for _ in range(count // 2 + 3):
        pairs.append((_milliseconds(direct), _milliseconds(through)))
        other = _milliseconds(through)
        pairs.append((_milliseconds(direct), other))
    pairs = pairs[6:]
    ones, others = zip(*pairs, strict=True)
    return (
        statistics.median(ones),
        statistics.median(others),
        statistics.median(other - one for one, other in pairs),
    )


def measure_throughput(call: Call, threads_count: int, seconds: float) -> float:
    """Return the calls per second of several threads."""
    end, counts = time.monotonic() + seconds, [0] * threads_count

    def run(number: int) -> None:
        while time.monotonic() < end:
            call()
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


@click.command(context_settings={"show_default": True})
@click.option("--count", default=300, help="Pairs of requests; a third of them for edits.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=20,
    help="Rounds of throughput on `edit`, 2 s each way.",
)
@click.option("--clients", default=2, help="Threads of throughput.")
def main(count: int, rounds: int, clients: int) -> None:
    """Print two tables: latency, and edits per second, of Triton and through the API server."""
    logging.disable(logging.WARNING)
    rates: list[tuple[str, float, float]] = []
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory()), "log")
        options = Options(domain="avatars", log=log, max_concurrent=64)
        server = stack.enter_context(running_server(options, canary=0))
        click.echo("| request | Triton, ms | API server, ms | difference of pairs, ms |")
        click.echo("| --- | --- | --- | --- |")
        for protocol, scheme, address in (
            ("grpc", "", server.grpc_url),
            ("http", "http://", server.http_url),
        ):
            private = f"127.0.0.1:{triton_port(psutil.Process(server.pid), protocol)}"
            direct = stack.enter_context(Client(scheme + private))
            through = stack.enter_context(Client(scheme + address))
            latent = direct.invert(PHOTO).w_plus
            edit = direct.domain().edit("a sad face")
            for request, method, arguments, pairs in (
                ("cached `direction`", "direction", (edit,), count),
                ("`edit` of a latent", "edit", (latent, edit), count // 3),
                ("`edit_photo`", "edit_photo", (PHOTO, edit), count // 3),
            ):
                calls = [partial(getattr(each, method), *arguments) for each in (direct, through)]
                numbers = " | ".join(
                    f"{ms:.2f}" for ms in measure_in_turn(calls[0], calls[1], pairs)
                )
                click.echo(f"| {protocol}: {request} | {numbers} |")
            edits = [partial(each.edit, latent, edit) for each in (direct, through)]
            for number in range(rounds):
                order = (0, 1) if number % 2 else (1, 0)
                measured = {i: measure_throughput(edits[i], clients, 2) for i in order}
                rates.append((protocol, measured[0], measured[1]))
    click.echo("\n| `edit` per second | Triton | API server | ratio |\n| --- | --- | --- | --- |")
    for protocol, direct_rate, rate in rates:
        click.echo(f"| {protocol} | {direct_rate:.2f} | {rate:.2f} | {rate / direct_rate:.3f} |")
    for protocol in ("grpc", "http"):
        ratios = [rate / direct_rate for name, direct_rate, rate in rates if name == protocol]
        click.echo(f"{protocol}: median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
