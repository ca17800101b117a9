"""`styleclip status`: what the server serves."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.domain import print_domain
from styleclip_client.commands.options import DONE, EXIT_STATUS, SERVER_FAILED
from styleclip_client.results import Status


@click.command(epilog=EXIT_STATUS)
@options.json_option
@options.server_option
def status(client: Client, as_json: bool) -> int:
    """Show whether the server is ready, its models, defaults, presets and directions.

    Exit status 0 when it can edit photos, 1 when it cannot.
    """
    server_status = client.status()
    if as_json:
        options.print_result(True, asdict(server_status), "")
    else:
        _print_status(server_status)
    return DONE if server_status.ready else SERVER_FAILED


def _print_status(status: Status) -> None:
    console = Console()
    ready = "[green]ready[/]" if status.ready else "[red]not ready[/]"
    console.print(f"{status.url}: Triton {status.version}, {ready}", highlight=False)
    table = Table("model", "version", "state", "reason", box=None, pad_edge=False)
    for model in status.models:
        table.add_row(model.name, model.version, model.state, model.reason)
    console.print(table)
    if status.domain is None:
        return
    console.print()
    print_domain(status.domain, console)
