"""`styleclip-export configs`."""

from __future__ import annotations

from pathlib import Path

import click

from styleclip_server.engines.engine import OVERLAY_ENGINES


@click.command(name="configs")
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    help="The folder with `steps` and the domains.",
)
@click.option(
    "--flavour",
    "overlays",
    type=click.Choice(OVERLAY_ENGINES),
    multiple=True,
    help="Also write configs/FLAVOUR.pbtxt of each model, for `tritonserver "
    "--model-config-name=FLAVOUR`; may be given twice.",
)
def command(repository: Path, overlays: tuple[str, ...]) -> None:
    """Write each model's config.pbtxt, for a Triton that is started by hand.

    They run the networks in ONNX Runtime on a GPU. `python -m styleclip_server` does not read them:
    it builds its own.
    """
    from styleclip_server.serving import model_repository

    engines = [engine for engine in OVERLAY_ENGINES if engine in overlays]
    for domain in (None, *model_repository.domains(repository)):
        model_repository.write_configs(repository, domain, engines)
        click.echo(f"{repository / (domain or 'steps')}: configs written")
