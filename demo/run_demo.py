"""Edit a sample image on a real Triton server: `make demo`.

Starts the embedded server on free ports of loopback, edits one sample with the domain's first
presets over gRPC, writes the images and a contact sheet to out/demo, prints what each edit did and
how long it took, and stops the server.
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

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from styleclip_client import Client, Edit, Edited, StyleclipError
from styleclip_client.images import write_file

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "demo" / "samples"
OUT = ROOT / "out" / "demo"
EDITS = 4  # presets on the contact sheet
TILE, MARGIN, CAPTION_HEIGHT = 256, 16, 64  # pixels of the contact sheet


@dataclass(frozen=True)
class Result:
    """One edit of the demo."""

    title: str
    edit: Edit
    edited: Edited
    milliseconds: float
    path: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = _parse_options(arguments)
    console = Console()
    start = time.perf_counter()
    try:
        with _run_server(options.server, console) as address, Client(address) as client:
            results = _apply_presets(client, options.photo, console)
            _print_results(results, console)
            _print_latent_edit(client, options.photo, results[0].edit, console)
    except StyleclipError as error:
        print(f"make demo: {error.to_wire()}", file=sys.stderr)
        return 1
    sheet = OUT / "demo.png"
    _write_png(draw_contact_sheet(_read_photo(options.photo), results), sheet)
    console.print(
        f"\nBefore and after: {_relative(sheet)} "
        f"({time.perf_counter() - start:.1f} s in all"
        f"{', the server is stopped' if options.server is None else ''})",
        highlight=False,
    )
    return 0


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo/run_demo.py", description=__doc__)
    samples = sorted(SAMPLES.glob("*.png"))
    parser.add_argument("--photo", type=Path, default=samples[0] if samples else None)
    parser.add_argument("--server", help="use this running server (host:port), start none")
    options = parser.parse_args(arguments)
    if options.photo is None or not options.photo.is_file():
        parser.error(f"there is no image {options.photo or SAMPLES / '*.png'}")
    return options


@contextmanager
def _run_server(address: str | None, console: Console) -> Iterator[str]:
    """Yield the gRPC address of the given server, or of one started for this block."""
    if address:
        yield address
        return
    from styleclip_server.serving.supervisor import running_server

    start = time.perf_counter()
    with console.status("starting Triton"), running_server() as server:
        console.print(
            f"Triton is ready at {server.grpc_url} after {time.perf_counter() - start:.1f} s",
            highlight=False,
        )
        yield server.grpc_url


def _apply_presets(client: Client, photo: Path, console: Console) -> list[Result]:
    """Edit `photo` with each of the domain's first presets and write the images."""
    domain = client.domain()
    console.print(f"Domain {domain.name}: {domain.title}", highlight=False)
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.png"):
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
        results.append(Result(preset.title, preset.edit, edited, milliseconds, path))
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


def _print_latent_edit(client: Client, photo: Path, edit: Edit, console: Console) -> None:
    """Print the time of an edit whose latent is known, as when a slider moves."""
    latent = client.invert(photo).w_plus
    start = time.perf_counter()
    client.edit(latent, edit)
    milliseconds = (time.perf_counter() - start) * 1000
    console.print(
        f"The first edit again on the kept latent: {milliseconds:.0f} ms", highlight=False
    )


def draw_contact_sheet(original: Image.Image, results: Sequence[Result]) -> Image.Image:
    """Draw the image before and after each edit with captions: RGB, one row of tiles."""
    tiles = [("before", "", original)]
    for result in results:
        numbers = (
            f"strength {result.edit.strength:g}, threshold {result.edit.threshold:g}, "
            f"{sum(result.edited.channels)} channels"
        )
        tiles.append((result.edit.target, numbers, result.edited.image().convert("RGB")))
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
