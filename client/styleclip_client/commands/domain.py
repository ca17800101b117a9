"""`styleclip domain`: what the server's generator draws, and the edits that it knows."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.options import EXIT_STATUS
from styleclip_contract.domain import Domain


@click.command(epilog=EXIT_STATUS)
@options.json_option
@options.server_option
def domain(client: Client, as_json: bool) -> None:
    """List defaults, presets and named directions of the server's domain.

    `--preset NAME` and `--direction NAME=STRENGTH` of other commands take their names.
    """
    served = client.domain()
    if as_json:
        options.print_result(True, asdict(served), "")
    else:
        print_domain(served, Console())


def print_domain(domain: Domain, console: Console) -> None:
    """Print a domain for people."""
    console.print(
        f"domain {domain.name}: {domain.title}\n"
        f"defaults: neutral {domain.neutral!r}, strength {domain.strength:g}, "
        f"threshold {domain.threshold:g}",
        highlight=False,
        markup=False,
    )
    if len(domain.fidelities) > 1:
        names = ", ".join(domain.fidelities)
        console.print(f"fidelities: {names}; default {domain.default_fidelity}", highlight=False)
    if domain.presets:
        presets = Table("preset", "neutral", "target", "α", "β", box=None, pad_edge=False)
        for preset in domain.presets:
            edit = preset.edit
            presets.add_row(
                preset.title,
                edit.neutral,
                edit.target,
                f"{edit.strength:g}",
                f"{edit.threshold:g}",
            )
        console.print(presets)
    if domain.directions:
        directions = Table("direction", "title", "strength", "", box=None, pad_edge=False)
        for each in domain.directions:
            kind = "follows the face" if each.follows_face else ""
            directions.add_row(each.name, each.title, f"{each.low:g} to {each.high:g}", kind)
        console.print(directions)
