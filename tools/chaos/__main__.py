"""What `make chaos` runs: every fault, one after the other, on a server of its own under load.

For each fault it reports the outcomes of clients that send each request once (so that no failure is
hidden by a retry) and of clients that retry, the time to recovery, and the server's memory. Writes
out/chaos/<time>.json and prints a table. Exits with 1 when a target is missed: healed within 10 s,
only typed errors, no failure for clients that retry, and, in an overload at the gateway, a p99 of
accepted requests of at most twice the unloaded one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from styleclip_server.serving.configs import QUEUE_LENGTH
from tools.chaos import clock, faults
from tools.chaos.experiment import (
    LOAD_SHARE,
    SIGTERM,
    SKIPPED,
    Result,
    measure_capacity,
    run_fault,
    run_sigterm,
)
from tools.chaos.overload import GATEWAY, GRPC, HTTP, TRITON, run_overload, run_overload_at_gateway
from tools.chaos.server import Server

OUT = Path("out/chaos")


def run(only: str, concurrency: int, report: Callable[[Result], None]) -> list[Result]:
    """Inject all faults whose name contains `only`; `report` gets each result at once."""
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        report(result)

    server = Server()
    try:
        capacity = measure_capacity(server)
        for fault in [*faults.KILLS, *faults.FULL_FILE_SYSTEMS, *faults.BAD_CLIENTS]:
            if only not in fault.name:
                continue
            if fault in faults.FULL_FILE_SYSTEMS and not server.has_own_mounts:
                add(Result(fault.name, note=f"{SKIPPED}: only root can mount a small file system"))
                continue
            add(run_fault(server, fault, LOAD_SHARE * capacity))
        for name, address in {
            GRPC: server.grpc,
            HTTP: f"http://{server.http}",
            TRITON: server.triton_grpc(),
        }.items():
            if only in name:
                add(run_overload(server, capacity, name, address, [{}]))
        if only in GATEWAY:
            add(run_overload_at_gateway(server, capacity, concurrency))
        if only in SIGTERM:
            add(run_sigterm(server, capacity))
    finally:
        if server.process.poll() is None:
            server.stop()
    if only in clock.CLOCK_JUMP.name:
        add(clock.run_clock_jump())
    return results


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--only", default="", help="Only faults with this text in their name.")
@click.option("--inside", "concurrency", help="Requests that the gateway admits at a time.",
              default=max(1, min((os.cpu_count() or 1) // 2, QUEUE_LENGTH["cpu"] - 1)))  # fmt: skip
def main(only: str, concurrency: int) -> None:
    """Inject faults into a server under load and report what its clients saw."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    console = Console(width=200 if not sys.stdout.isatty() else None)

    def report(result: Result) -> None:
        console.print(" | ".join((*_cells(result), *result.messages)), highlight=False)

    results = run(only, concurrency, report)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    machine = {"cores": os.cpu_count(), "load average": os.getloadavg()}
    path.write_text(
        json.dumps(machine | {"results": [asdict(result) for result in results]}, indent=1)
    )
    table = Table(box=None)
    for name in ("fault", "clients without retries", "clients with retries", "healed s", "MB", ""):
        table.add_column(name)
    for result in results:
        table.add_row(*_cells(result), "" if result.passed else "missed")
    console.print(table)
    console.print(f"written: {path}", highlight=False)
    sys.exit(not all(result.passed for result in results))


def _cells(result: Result) -> tuple[str, ...]:
    def join(counts: dict[str, int]) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in counts.items())

    return (
        result.name,
        "; ".join(filter(None, (join(result.single), result.note))),
        join(result.retrying),
        "no" if result.healed is None else f"{result.healed:.1f}",
        "{:.0f} → {:.0f}".format(*result.memory),
    )


if __name__ == "__main__":
    main()
