"""`styleclip sweep`: one edit at many strengths, as one image or as a GIF."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from PIL import Image
from rich.console import Console
from rich.progress import track

from styleclip_client import sweeps
from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.edit_options import EditOptions, edit_options
from styleclip_client.commands.options import EXIT_STATUS, LATENT
from styleclip_client.images import write_file
from styleclip_client.results import Inverted
from styleclip_contract import limits
from styleclip_contract.edits import Edit

_STRENGTH = click.FloatRange(-limits.STRENGTH, limits.STRENGTH)
_GIF = ".gif"


class _Thresholds(click.ParamType):
    """Numbers from 0 to 1, separated by commas."""

    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        most = limits.SWEEP_THRESHOLDS
        if not 1 <= len(numbers) <= most or not all(0 <= number <= 1 for number in numbers):
            self.fail(f"{value!r} is not a list of 1 to {most} numbers from 0 to 1: 0.1,0.15,0.2")
        return numbers


@click.command(epilog=EXIT_STATUS)
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@edit_options
@click.option("--from", "low", type=_STRENGTH, metavar="A", help="α of the first image.")
@click.option("--to", "high", type=_STRENGTH, metavar="A", help="α of the last one.")
@click.option(
    "--steps", type=click.IntRange(*limits.SWEEP_STEPS),
    help="Number of images, with first and last. [default: 7, of a GIF 13]",
)  # fmt: skip
@click.option(
    "--thresholds", type=_Thresholds(), metavar="B,B,…", help="A row for each β: an α × β grid."
)
@click.option(
    "--size", type=click.IntRange(*limits.SWEEP_SIDE), metavar="PIXELS",
    help="Side of each image. [default: 256, of a GIF 384]",
)  # fmt: skip
@click.option(
    "--delay",
    type=click.IntRange(*limits.GIF_MILLISECONDS),
    default=limits.DEFAULT_GIF_MILLISECONDS,
    metavar="MS",
    show_default=True,
    help="Between the images of a GIF.",
)
@options.face_options
@options.fidelity_option
@options.out_options("Where to write: .png, .jpg or .webp, or .gif to see it move.")
@options.json_option
@options.server_option
def sweep(
    client: Client,
    photo: Path,
    edit_options: EditOptions,
    low: float | None,
    high: float | None,
    steps: int | None,
    thresholds: tuple[float, ...] | None,
    size: int | None,
    delay: int,
    align: bool | None,
    face: int,
    fidelity: str | None,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Show an edit of the face in PHOTO at many strengths.

    OUT is a strip from left to right, a grid with --thresholds, or a .gif that plays it forth and
    back. PHOTO may be a latent (.npz). The edits are given as for `styleclip edit`; of several the
    last one is swept, the others stay as they are. Without --from and --to it goes from the
    opposite of the edit to twice its strength, and over a direction's range.

    \b
    Examples:
      styleclip sweep me.jpg --target "a smiling face" -o smile.png
      styleclip sweep me.jpg --preset smile --from 0 --to 8 -o smile.gif
      styleclip sweep me.jpg --preset beard --thresholds 0.1,0.15,0.2 -o grid.jpg
    """
    is_gif = out.suffix.lower() == _GIF
    format = "GIF" if is_gif else options.image_format(out, _GIF)
    if is_gif and thresholds:
        raise click.UsageError("a GIF has no rows: --thresholds needs .png, .jpg or .webp")
    options.check_latent(photo, align=align, face=face)
    options.check_out(out, overwrite)
    defaults = sweeps.GIF_DEFAULTS if is_gif else sweeps.SHEET_DEFAULTS
    with options.spinner(f"inverting {photo.name}"):
        domain = client.domain()
        edits = edit_options.resolve(domain)
        steps, size = steps or defaults.steps, size or defaults.size
        grid = sweeps.Grid.for_edit(edits[-1], low, high, steps, thresholds, domain)
        grid.check(size, format)
        start = time.perf_counter()
        inverted = _inverted(client, photo, align, face, fidelity)
    images = _draw(client, inverted, edits, grid.values, fidelity)
    data = _encode_gif(images, delay, size) if is_gif else grid.encode(images, size, format)
    write_file(out, data, overwrite=overwrite)
    milliseconds = round(1000 * (time.perf_counter() - start))
    content = {
        "out": out,
        "strengths": grid.strengths,
        "thresholds": grid.thresholds,
        "nothing_left": [v for v, image in zip(grid.values, images, strict=True) if image is None],
        "milliseconds": milliseconds,
    }
    text = (
        f"{out}: {len(images)} images, α {grid.strengths[0]:g} to {grid.strengths[-1]:g}, "
        f"{milliseconds} ms"
    )
    options.print_result(as_json, content, text)


def _inverted(
    client: Client, photo: Path, align: bool | None, face: int, fidelity: str | None
) -> Inverted:
    if photo.suffix == LATENT:
        return Inverted.load(photo)
    return client.invert(photo, align=align, face=face, fidelity=fidelity)


def _draw(
    client: Client,
    inverted: Inverted,
    edits: list[Edit],
    values: Sequence[tuple[float, float]],
    fidelity: str | None,
) -> list[Image.Image | None]:
    """Draw the last edit at each (α, β), with a progress bar on a terminal."""
    return list(
        track(
            sweeps.draw(client, inverted, edits, values, fidelity=fidelity),
            "drawing",
            len(values),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
    )


def _encode_gif(images: Sequence[Image.Image | None], delay: int, size: int) -> bytes:
    frames = [image for image in images if image is not None]
    if not frames:
        raise click.UsageError("this threshold leaves nothing to change: give a lower one")
    return sweeps.encode_gif(frames, delay, size)
