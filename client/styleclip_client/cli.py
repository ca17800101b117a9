"""The command `styleclip`: edit, invert, faces, sample, sweep, batch, status, domain, bench and
completion.

A failure is one line on standard error and an exit status, see `commands.options.EXIT_STATUS`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from styleclip_client.commands.batch import batch
from styleclip_client.commands.bench import bench
from styleclip_client.commands.completion import completion
from styleclip_client.commands.domain import domain
from styleclip_client.commands.options import (
    BAD_INPUT,
    DONE,
    EXIT_STATUS,
    INTERRUPTED,
    SERVER_FAILED,
    WRONG_USAGE,
)
from styleclip_client.commands.photo import edit, invert, list_faces
from styleclip_client.commands.sample import sample
from styleclip_client.commands.status import status
from styleclip_client.commands.sweep import sweep
from styleclip_contract.errors import InvalidInput, StyleclipError


@click.group(
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_STATUS,
)
@click.version_option(package_name="styleclip-triton")
def cli() -> None:
    """Edit faces by text on a StyleCLIP server."""


for _command in (edit, invert, list_faces, sample, sweep, batch, status, domain, bench, completion):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; a failure is printed as one line."""
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="styleclip",
            standalone_mode=False,
        )
        return result if isinstance(result, int) else DONE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "styleclip"
        return _fail(f"{error.format_message()} (see `{path} --help`)", WRONG_USAGE)
    except InvalidInput as error:
        return _fail(error.to_wire(), BAD_INPUT)
    except StyleclipError as error:
        return _fail(error.to_wire(), SERVER_FAILED)
    except OSError as error:
        return _fail(str(error), SERVER_FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int) -> int:
    """Print `message` as one line on standard error; returns the exit status `code`."""
    click.echo(f"styleclip: {' '.join(message.split())}", err=True)
    return code


def main() -> None:
    """Run the command."""
    # gRPC's own lines about threads and sockets: the command reports errors itself.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(run())
