"""`styleclip-export configs`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="configs")
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    help="The folder with `steps` and the domains.",
)
def command(repository: Path) -> None:
    """Write every config.pbtxt of the steps and of each domain from the wire contract."""
    from styleclip_server.serving import configs as triton

    for domain in (None, *triton.domains(repository)):
        triton.write_configs(repository, domain)
        click.echo(f"{repository / (domain or 'steps')}: configs written")
