"""`styleclip sample`: random latents, as they are or edited."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image

from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.edit_options import EditOptions, optional_edit_options
from styleclip_client.commands.options import EXIT_STATUS, LATENT
from styleclip_client.results import Edited, Inverted
from styleclip_contract import limits
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit


@click.command(epilog=EXIT_STATUS)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=click.IntRange(0, limits.SEED),
    default=(0,),
    show_default="0",
    help="Which random image. Repeatable: one file each.",
)
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1),
    default=limits.DEFAULT_TRUNCATION,
    show_default=True,
    help="ψ: lower is more average, 1 the most varied.",
)
@optional_edit_options
@options.out_options("Where to write: .jpg, .png or .webp, or .npz for the latent itself.")
@options.json_option
@options.server_option
def sample(
    client: Client,
    seeds: Sequence[int],
    truncation: float,
    edit_options: EditOptions,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Draw random images of the domain, edited if edits are given, and write OUT.

    A seed gives the same image each time. Several seeds write files of their own, OUT with -SEED in
    its name. An .npz file has the latent, which `styleclip edit` takes in place of a photo.

    \b
    Examples:
      styleclip sample --seed 3 -o face.jpg
      styleclip sample --seed 3 --target "a smiling face" -o smiling.jpg
      styleclip sample --seed 3 --seed 4 --truncation 0.5 -o latents.npz
    """
    if out.suffix == LATENT and edit_options.has_edits:
        raise click.UsageError(f"{out.name} is to be a latent: edit it with `styleclip edit`")
    if out.suffix != LATENT:
        options.image_format(out, LATENT)
    paths = {seed: _numbered(out, seed) if len(seeds) > 1 else out for seed in seeds}
    for path in paths.values():
        options.check_out(path, overwrite)
    files, lines = [], []
    with options.spinner("drawing"):
        domain = client.domain()
        edits = edit_options.resolve(domain) if edit_options.has_edits else []
        for seed, path in paths.items():
            start = time.perf_counter()
            text = _write(client, domain, seed, truncation, edits, path, overwrite)
            milliseconds = round(1000 * (time.perf_counter() - start))
            files.append({"out": path, "seed": seed, "milliseconds": milliseconds})
            lines.append(f"{path}: seed {seed}, {text}, {milliseconds} ms")
    options.print_result(as_json, {"files": files, "truncation": truncation}, "\n".join(lines))


def _write(
    client: Client,
    domain: Domain,
    seed: int,
    truncation: float,
    edits: list[Edit],
    path: Path,
    overwrite: bool,
) -> str:
    """Write the latent or the image of a seed; returns its description."""
    w_plus = client.sample(seed, truncation)
    if path.suffix == LATENT:
        height, width = domain.image_size
        corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], np.float32)
        Inverted(w_plus, corners).save(path, overwrite=overwrite)
        return f"W+ of {w_plus.shape[0]} x {w_plus.shape[1]}"
    format = options.image_format(path)
    if edits:
        edited = client.edit(w_plus, edits, format=format)
    else:
        edited = Edited(_encode(client.draw(w_plus), format), [])
    edited.save(path, overwrite=overwrite)
    image = edited.image()
    return f"{image.width} x {image.height} {image.format}"


def _encode(pixels: np.ndarray, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, quality=limits.DEFAULT_QUALITY)
    return buffer.getvalue()


def _numbered(out: Path, seed: int) -> Path:
    return out.with_name(f"{out.stem}-{seed}{out.suffix}")
