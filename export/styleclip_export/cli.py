"""The command `styleclip-export`: from published checkpoints to a domain that Triton serves.

Exit status: 0 success, 1 failure (one line on standard error says why), 2 wrong command line,
130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from styleclip_export.errors import ExportError

# Sub-command → its line in `--help`; the code is `styleclip_export.commands.<name>.command`.
COMMANDS = {
    "fetch": "Fetch the published checkpoints of a domain, each checked.",
    "convert": "Convert checkpoints to ONNX and put them into the model repository.",
    "stats": "Compute StyleSpace statistics: mean and deviation of S, and fs3.",
    "directions": "Add, fit, list or remove named directions of a domain (age, smile, mappers).",
    "verify": "Compare the project with numbers of the official code (a golden folder).",
    "configs": "Write every config.pbtxt from the wire contract.",
}


class LazyGroup(click.Group):
    """Imports a sub-command only when it is called, so that `--help` needs no torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"styleclip_export.commands.{name}")
        return module.command  # type: ignore[no-any-return]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    help="From published checkpoints to a domain that Triton serves.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="styleclip-triton")
def command() -> None:
    """The group itself does nothing."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status; wrong input gives one line, no stack trace."""
    try:
        status = command.main(arguments, "styleclip-export", standalone_mode=False)
        return int(status or 0)
    except click.exceptions.Abort:
        print("styleclip-export: interrupted", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ExportError as error:
        print(f"styleclip-export: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"styleclip-export: {error}", file=sys.stderr)
        return 1


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(run())
