"""`python -m tools.chaos.fuzz`: looks for requests that end a process or cost others theirs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tools.chaos.fuzz.fuzzer import fuzz
from tools.chaos.fuzz.observer import Observer
from tools.chaos.server import Server

OUT = Path("out/chaos")
BYSTANDERS = 2


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--requests", "--count", "count", default=10_000, help="How many.")
@click.option("--seed", default=7, help="Draws the same requests again.")
@click.option("--concurrency", default=8, help="Requests at a time.")
def main(count: int, seed: int, concurrency: int) -> None:
    """Send malformed requests to a server that this command starts.

    Over KServe's protocol (HTTP and gRPC), the plain web API and bare sockets, beside two clients
    that must not notice. Exits with 1 when a process ended or a request of these clients was lost.
    Ctrl-C ends it early. out/chaos/fuzz-<time>.json gets curves of memory and file descriptors.
    """
    # A request that is refused since the server is busy would be neither parsed nor passed on.
    most = str(concurrency + BYSTANDERS)
    server, console = Server(None, "--max-concurrent", most), Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=count, note="")

            def report(sent: int, observer: Observer) -> None:
                lost = sum(sum(client.lost.values()) for client in observer.bystanders)
                answered = sum(client.answered for client in observer.bystanders)
                note = f"{len(observer.ends)} ends; bystanders: {answered} answered, {lost} lost"
                progress.update(task, completed=sent, note=note)
                if not console.is_terminal and sent % 5000 == 0:
                    console.print(f"{sent} of {count}: {note}")

            result = fuzz(server, count, seed, concurrency, report)
    finally:
        server.stop()
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"fuzz-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(result, indent=1))
    del result["curve"]
    click.echo(json.dumps(result, indent=1))
    console.print(f"written: {path}", highlight=False)
    sys.exit(bool(result["ends"] or any(client["lost"] for client in result["bystanders"])))


if __name__ == "__main__":
    main(prog_name="python -m tools.chaos.fuzz")
