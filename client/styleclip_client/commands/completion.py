"""`styleclip completion`: a script that completes commands, options and presets in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from styleclip_client.commands.options import EXIT_STATUS

_SHELLS = ("bash", "zsh", "fish")


@click.command(epilog=EXIT_STATUS)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash: echo 'eval "$(styleclip completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(styleclip completion zsh)"' >> ~/.zshrc
    fish: styleclip completion fish > ~/.config/fish/completions/styleclip.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "styleclip", "_STYLECLIP_COMPLETE").source())
