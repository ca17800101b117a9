"""`styleclip-export directions`: add, fit, list, remove."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from styleclip_export.commands.options import repository_option

if TYPE_CHECKING:
    from styleclip_contract.domain import Direction
    from styleclip_export.directions.store import DirectionStore

_PATH = click.Path(path_type=Path)
_RESTART = "restart the server to serve it"
_range_option = click.option(
    "--range",
    "bounds",
    type=(float, float),
    metavar="LOW HIGH",
    help="Lowest and highest strength. [default: -5 5; a component -20 20, a mapper -1 2]",
)


@click.group(name="directions")
def command() -> None:
    """Named directions of a domain: edits without texts, such as age or smile.

    They come from files (InterFaceGAN, GANSpace, StyleCLIP's latent mappers, arrays of your own) or
    are fitted to labeled latents.
    """


def _parse_layers(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """Parse "FIRST:END"."""
    if text is None:
        return None
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise click.BadParameter("FIRST:END is expected, such as 7:9 for rows 7 and 8 of W+")
    return int(first), int(end)


@command.command()
@click.argument("domain")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=_PATH)
@click.option("--name", help="What edits call it. [default: the file's name]")
@click.option("--title", help="For people. [default: from the name]")
@_range_option
@click.option(
    "--layers", callback=_parse_layers, metavar="FIRST:END", help="Move only these rows of W+."
)
@click.option("--component", type=int, help="Which of GANSpace's components, from 0.")
@click.option("--scale", type=float, default=1.0, help="Multiplies it; negative: the opposite way.")
@click.option("--replace", is_flag=True, help="Replace directions of the same name.")
@click.option("--weights", type=_PATH, help="[default: weights/DOMAIN]")
@repository_option
def add(
    domain: str,
    files: tuple[Path, ...],
    name: str | None,
    title: str | None,
    bounds: tuple[float, float] | None,
    layers: tuple[int, int] | None,
    component: int | None,
    scale: float,
    replace: bool,
    weights: Path | None,
    repository: Path,
) -> None:
    """Add each FILE to DOMAIN as a named direction; without FILE the published ones in --weights.

    A file is .npy, .npz, .pt or .safetensors: a direction of shape (512,), (1, 512), (L, 512) or of
    StyleSpace, GANSpace's components, or a latent mapper of StyleCLIP.

    \b
    Examples:
      styleclip-export directions add ffhq age.pt smile.pt pose.pt
      styleclip-export directions add ffhq ffhq_pca.pt --component 54 --layers 7:8 \\
          --name eye_openness
      styleclip-export directions add ffhq mohawk.pt
    """
    from styleclip_export.directions import files as direction_files
    from styleclip_export.directions.published import add_published
    from styleclip_export.directions.store import DirectionOptions, DirectionStore

    store = DirectionStore(repository / domain)
    described = DirectionOptions(name or "", title, bounds, layers, component, scale)
    if not files and described != DirectionOptions(""):
        raise click.UsageError("these options describe a FILE: give one")
    if len(files) > 1 and dataclasses.replace(
        described, range=None, layers=None
    ) != DirectionOptions(""):
        raise click.UsageError("--name, --title, --component and --scale describe one FILE")
    folder = weights or Path("weights") / domain
    if not files and not add_published(store, folder, replace=replace, report=click.echo):
        raise click.UsageError(f"{folder} has no published direction to add: give a FILE")
    contents = [(path, direction_files.read(path)) for path in files]  # all, before one is added
    for path, content in contents:
        options = described if name else dataclasses.replace(described, name=_name_of(path))
        click.echo(f"{path.name}: {_describe(store.add(content, options, replace=replace))}")
    click.echo(_RESTART)


def _name_of(path: Path) -> str:
    return path.stem.lower().replace(" ", "_")


@command.command()
@click.argument("domain")
@click.argument("latents", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="What edits call it.")
@click.option("--title", help="For people. [default: from the name]")
@click.option(
    "--towards",
    required=True,
    metavar="CLASS",
    help="What the direction adds: a subfolder of LATENTS, or a column of --labels.",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with a header: the column `file` names a latent, another has its label or score.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.2,
    show_default=True,
    help="Of scores: the part at each end that is used.",
)
@click.option(
    "--classifier",
    type=click.Choice(["svm", "logistic"]),
    default="svm",
    show_default=True,
    help="Linear SVM or logistic regression.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0.05, 0.5),
    default=0.2,
    show_default=True,
    help="The part of the latents that only measures the accuracy.",
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of the held-out part.")
@_range_option
@click.option("--replace", is_flag=True, help="Replace a direction of the same name.")
@repository_option
def fit(
    domain: str,
    latents: Path,
    name: str,
    title: str | None,
    towards: str,
    labels: Path | None,
    share: float,
    classifier: Any,
    held_out: float,
    seed: int,
    bounds: tuple[float, float] | None,
    replace: bool,
    repository: Path,
) -> None:
    """Fit a direction to labeled LATENTS and add it to DOMAIN, as InterFaceGAN does.

    LATENTS is a folder with two subfolders of latents, one for each class; or with --labels a
    folder, or one file of all latents. `styleclip invert` writes latents (.npz); .npy, .pt and
    .safetensors are read too. Strength 1 is the latents' standard deviation along the direction.

    \b
    Examples:
      styleclip-export directions fit ffhq latents/ --towards glasses --name glasses
      styleclip-export directions fit ffhq latents/ --labels scores.csv --towards age --name age
    """
    from styleclip_export.directions import boundary
    from styleclip_export.directions.store import DirectionOptions, DirectionStore

    store = DirectionStore(repository / domain)
    if labels:
        data = boundary.read_table(latents, labels, towards, share)
    elif latents.is_dir():
        data = boundary.read_folders(latents, towards)
    else:
        raise click.UsageError("LATENTS is one file: --labels is needed")
    count = len(data.labels)
    click.echo(f"{count} latents, {int(data.labels.sum())} of them {towards}")
    fitted = boundary.fit(data, classifier, held_out, seed)
    direction = store.add(fitted.direction, DirectionOptions(name, title, bounds), replace=replace)
    click.echo(
        f"{_describe(direction)}; fitted to {fitted.training} latents, accuracy "
        f"{fitted.accuracy:.1%} on {fitted.held_out} held out"
    )
    click.echo(_RESTART)


@command.command(name="list")
@click.argument("domain")
@repository_option
def list_directions(domain: str, repository: Path) -> None:
    """List the directions of DOMAIN."""
    for direction in _store(repository, domain).domain.directions:
        click.echo(_describe(direction))


@command.command()
@click.argument("domain")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@repository_option
def remove(domain: str, names: tuple[str, ...], repository: Path) -> None:
    """Remove directions of DOMAIN."""
    store = _store(repository, domain)
    for name in names:
        store.remove(name)
        click.echo(f"{name}: removed")


def _store(repository: Path, domain: str) -> DirectionStore:
    from styleclip_export.directions.store import DirectionStore

    return DirectionStore(repository / domain)


def _describe(direction: Direction) -> str:
    kind = "mapper" if direction.follows_face else "direction"
    return f"{kind} {direction.name} ({direction.title}), {direction.low:g} to {direction.high:g}"
