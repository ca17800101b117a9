"""Edit a sample image on a real Triton server: `make demo`.

Starts the embedded server on free ports of loopback, edits one sample with the domain's first
presets over gRPC, writes the images and a contact sheet to out/demo, prints what each edit did and
how long it took, and stops the server. In a photo of a person the face is found and aligned first,
and the edited face is pasted back.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from styleclip_client import Client, Edit, Edited, Inverted, StyleclipError
from styleclip_client.images import write_file
from styleclip_contract.domain import Domain
from styleclip_server.serving.domain_folder import DEFAULT_DOMAIN

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "demo" / "samples"
OUT = ROOT / "out" / "demo"
EDITS = 4  # presets on the contact sheet
TILE, MARGIN, CAPTION_HEIGHT = 256, 16, 64  # pixels of the contact sheet


@dataclass(frozen=True)
class Result:
    """One edit of the demo; `pasted` is the photo with the edited face, where one was found."""

    edit: Edit
    edited: Edited
    pasted: Edited | None
    milliseconds: float
    path: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = _parse_options(arguments)
    console = Console()
    start = time.perf_counter()
    try:
        with (
            _run_server(options.server, options.domain, console) as address,
            Client(address) as client,
        ):
            domain = client.domain()
            console.print(f"Domain {domain.name}: {domain.title}", highlight=False)
            photo = options.photo or _find_sample(domain)
            results = _apply_presets(client, domain, photo)
            _print_results(results, console)
            face = _print_latent_edit(client, photo, results[0].edit, console)
            image = _read_photo(photo)
            if domain.align:
                sheet = draw_photo_sheet(image, face, client.draw(face), results)
            else:
                sheet = draw_row([("before", "", image), *_edited_tiles(results)])
    except StyleclipError as error:
        print(f"make demo: {error.to_wire()}", file=sys.stderr)
        return 1
    path = OUT / "demo.jpg"
    sheet.save(path, quality=88)
    console.print(
        f"\nBefore and after: {_relative(path)} "
        f"({time.perf_counter() - start:.1f} s in all"
        f"{', the server is stopped' if options.server is None else ''})",
        highlight=False,
    )
    return 0


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo/run_demo.py", description=__doc__)
    parser.add_argument("--photo", type=Path, help="default: a sample that fits the domain")
    parser.add_argument("--domain", default=DEFAULT_DOMAIN, help="what the server serves")
    parser.add_argument("--server", help="use this running server (host:port), start none")
    options = parser.parse_args(arguments)
    if options.photo and not options.photo.is_file():
        parser.error(f"there is no image {options.photo}")
    return options


def _find_sample(domain: Domain) -> Path:
    """Return the first photo, or the first face crop for a domain that aligns nothing."""
    return min(SAMPLES.glob("p*.jpg" if domain.align else "avatar-*.png"))


@contextmanager
def _run_server(address: str | None, domain: str, console: Console) -> Iterator[str]:
    """Yield the gRPC address of the given server, or of one started for this block."""
    if address:
        yield address
        return
    from styleclip_server.serving.options import Options
    from styleclip_server.serving.supervisor import running_server

    start = time.perf_counter()
    with console.status("starting Triton"), running_server(Options(domain=domain)) as server:
        console.print(
            f"Triton is ready at {server.grpc_url} after {time.perf_counter() - start:.1f} s",
            highlight=False,
        )
        yield server.grpc_url


def _apply_presets(client: Client, domain: Domain, photo: Path) -> list[Result]:
    """Edit `photo` with each of the domain's first presets and write the images."""
    OUT.mkdir(parents=True, exist_ok=True)
    for old in (*OUT.glob("*.png"), *OUT.glob("*.jpg")):
        old.unlink()
    _write_png(_read_photo(photo), OUT / "original.png")
    results = []
    for preset in domain.presets[:EDITS]:
        start = time.perf_counter()
        edited = client.edit_photo(photo, preset.edit, format="PNG")
        milliseconds = (time.perf_counter() - start) * 1000
        name = re.sub(r"\W+", "-", preset.title.casefold()).strip("-")
        path = OUT / f"edited-{name}.png"
        edited.save(path, overwrite=True)
        pasted = None
        if domain.align:
            pasted = client.edit_photo(photo, preset.edit, paste=True, format="PNG")
            pasted.save(OUT / f"pasted-{name}.png", overwrite=True)
        results.append(Result(preset.edit, edited, pasted, milliseconds, path))
    if not results:
        raise SystemExit(f"make demo: domain {domain.name} has no presets to show")
    return results


def _print_results(results: Sequence[Result], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("neutral", "target"):
        table.add_column(name)
    for name in ("α", "β", "channels", "ms"):
        table.add_column(name, justify="right")
    table.add_column("file", no_wrap=True)
    for result in results:
        table.add_row(
            result.edit.neutral,
            result.edit.target,
            f"{result.edit.strength:g}",
            f"{result.edit.threshold:g}",
            str(sum(result.edited.channels)),
            f"{result.milliseconds:.0f}",
            _relative(result.path),
        )
    console.print(table)


def _print_latent_edit(client: Client, photo: Path, edit: Edit, console: Console) -> Inverted:
    """Print the time of an edit whose latent is known, as when a slider moves; return the face."""
    face = client.invert(photo)
    start = time.perf_counter()
    client.edit(face, edit)
    milliseconds = (time.perf_counter() - start) * 1000
    console.print(
        f"The first edit again on the kept latent: {milliseconds:.0f} ms", highlight=False
    )
    return face


def draw_photo_sheet(
    photo: Image.Image, face: Inverted, inversion: NDArray[np.uint8], results: Sequence[Result]
) -> Image.Image:
    """Draw the photo and the pasted one above the face before and after each edit: RGB.

    Args:
        face: where the face is in the photo.
        inversion: its image without edits, uint8 [H, W, 3].
    """
    corners = [tuple(corner) for corner in face.quad]
    side = TILE, TILE
    coordinates = [float(value) for corner in face.quad for value in corner]
    crop = photo.transform(side, Image.Transform.QUAD, coordinates, Image.Resampling.BICUBIC)
    row = draw_row(
        [
            ("the face, found and aligned", "", crop),
            ("its inversion", "", Image.fromarray(inversion)),
            *_edited_tiles(results),
        ]
    )
    framed = photo.copy()
    ImageDraw.Draw(framed).polygon(corners, outline="white", width=max(2, photo.width // 300))
    photos = [framed, *(result.pasted.image() for result in results if result.pasted)][:2]
    width = (row.width - (len(photos) + 1) * MARGIN) // len(photos)
    height = round(width * photo.height / photo.width)
    sheet = Image.new("RGB", (row.width, height + MARGIN + row.height), "white")
    for index, image in enumerate(photos):
        large = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(large, (MARGIN + index * (width + MARGIN), MARGIN))
    sheet.paste(row, (0, height + MARGIN))
    return sheet


def _edited_tiles(results: Sequence[Result]) -> list[tuple[str, str, Image.Image]]:
    return [
        (
            result.edit.target,
            f"strength {result.edit.strength:g}, threshold {result.edit.threshold:g}, "
            f"{sum(result.edited.channels)} channels",
            result.edited.image().convert("RGB"),
        )
        for result in results
    ]


def draw_row(tiles: Sequence[tuple[str, str, Image.Image]]) -> Image.Image:
    """Draw images with two captions each, text and numbers: RGB, one row of tiles."""
    width = MARGIN + len(tiles) * (TILE + MARGIN)
    sheet = Image.new("RGB", (width, 2 * MARGIN + TILE + CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    text_font, number_font = ImageFont.load_default(16), ImageFont.load_default(13)
    for index, (text, numbers, image) in enumerate(tiles):
        left = MARGIN + index * (TILE + MARGIN)
        sheet.paste(image.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, MARGIN))
        draw.rectangle((left, MARGIN, left + TILE - 1, MARGIN + TILE - 1), outline="#cccccc")
        top = MARGIN + TILE + 8
        for line in textwrap.wrap(text, 30)[:2]:
            draw.text((left, top), line, "black", text_font)
            top += 20
        draw.text((left, top), numbers, "#666666", number_font)
    return sheet


def _read_photo(photo: Path) -> Image.Image:
    return Image.open(photo).convert("RGB")


def _write_png(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    write_file(path, buffer.getvalue(), overwrite=True)


def _relative(path: Path) -> str:
    """Return `path` relative to the project's root, where `make demo` runs."""
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
