"""`styleclip sweep`: one edit at many strengths in one picture, or moving."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from styleclip_client import sweeps
from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.edit_options import Wanted, edit_options
from styleclip_client.commands.options import EXIT_STATUS
from styleclip_client.images import write_file
from styleclip_client.results import Inverted
from styleclip_contract import limits

_STRENGTH = click.FloatRange(-limits.STRENGTH, limits.STRENGTH)
_STEPS = {".gif": 13}
_DEFAULT_STEPS = 7
_SIDES = {".gif": 384}
_DEFAULT_SIDE = 256


class _Thresholds(click.ParamType):
    """Numbers from 0 to 1 with commas between."""

    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not 1 <= len(numbers) <= 16 or not all(0 <= number <= 1 for number in numbers):
            self.fail(f"{value!r} is no list of 1 to 16 numbers from 0 to 1: 0.1,0.15,0.2")
        return numbers


@click.command(epilog=EXIT_STATUS)
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@edit_options
@click.option("--from", "low", type=_STRENGTH, metavar="A", help="α of the first picture.")
@click.option("--to", "high", type=_STRENGTH, metavar="A", help="α of the last one.")
@click.option(
    "--steps", type=click.IntRange(2, 100), help="Pictures between them, both included. "
    "[default: 7, of a GIF 13]"
)  # fmt: skip
@click.option(
    "--thresholds", type=_Thresholds(), metavar="B,B,…", help="A row for each β: an α × β grid."
)
@click.option(
    "--size", type=click.IntRange(16, 2048), metavar="PIXELS",
    help="Side of each picture. [default: 256, of a GIF 384]",
)  # fmt: skip
@click.option(
    "--delay",
    type=click.IntRange(20, 10_000),
    default=80,
    metavar="MS",
    show_default=True,
    help="Between the pictures of a GIF.",
)
@options.face_options()
@options.out_options("Where to write: .png, .jpg or .webp, or .gif to see it move.")
@options.json_option
@options.server_options
def sweep(
    client: Client,
    photo: Path,
    wanted: Wanted,
    low: float | None,
    high: float | None,
    steps: int | None,
    thresholds: tuple[float, ...] | None,
    size: int | None,
    delay: int,
    align: bool | None,
    face: int,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Show an edit of the face in PHOTO at many strengths.

    OUT is a strip from left to right, with --thresholds a grid, and as .gif the same moving
    forth and back. PHOTO may be a latent (.npz). The edits are given as for `styleclip edit`; of
    several the last is swept, the others stay as they are. Without --from and --to it goes from
    the edit's opposite to twice its strength.

    \b
    Examples:
      styleclip sweep me.jpg --target "a smiling face" -o smile.png
      styleclip sweep me.jpg --preset smile --from 0 --to 8 -o smile.gif
      styleclip sweep me.jpg --preset beard --thresholds 0.1,0.15,0.2 -o grid.jpg
    """
    suffix = out.suffix.lower()
    moving = suffix == ".gif"
    format = "GIF" if moving else options.format_of(out, ".gif")
    if moving and thresholds:
        raise click.UsageError("a GIF has no rows: --thresholds needs .png, .jpg or .webp")
    latent = photo.suffix == ".npz"
    if latent and (align is not None or face != -1):
        raise click.UsageError("--align and --face need the photo, not a latent")
    options.check_free(out, overwrite)
    with options.spinner(f"inverting {photo.name}"):
        edits = wanted.edits(client.domain())
        start = time.perf_counter()
        inverted = Inverted.load(photo) if latent else client.invert(photo, align=align, face=face)
    least, most = sweeps.bounds(edits[-1])
    strengths = sweeps.evenly(
        least if low is None else low,
        most if high is None else high,
        steps or _STEPS.get(suffix, _DEFAULT_STEPS),
    )
    rows = thresholds or (edits[-1].threshold,)
    values = [(strength, threshold) for threshold in rows for strength in strengths]
    pictures = list(
        track(
            sweeps.draw(client, inverted.w_plus, edits, values),
            "drawing",
            len(values),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
    )
    side = size or _SIDES.get(suffix, _DEFAULT_SIDE)
    if moving:
        frames = [picture for picture in pictures if picture is not None]
        if not frames:
            raise click.UsageError("this threshold leaves nothing to change: give a lower one")
        data = sweeps.animation(frames, delay, side)
    else:
        columns = [f"alpha {strength:g}" for strength in strengths]  # the font has no Greek
        names = [f"beta {threshold:g}" for threshold in rows] if thresholds else [""]
        data = sweeps.encode(sweeps.sheet(pictures, columns, names, side=side), format, 92)
    write_file(out, data, overwrite=overwrite)
    milliseconds = round(1000 * (time.perf_counter() - start))
    content = {
        "out": out,
        "strengths": strengths,
        "thresholds": list(rows),
        "nothing_left": [v for v, p in zip(values, pictures, strict=True) if p is None],
        "milliseconds": milliseconds,
    }
    words = f"{out}: {len(pictures)} pictures, α {strengths[0]:g} to {strengths[-1]:g}"
    options.tell(as_json, content, f"{words}, {milliseconds} ms")
