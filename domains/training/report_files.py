"""The quality report for readers: a section of a model card, and a grid of edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from domains.training.served_networks import Images

LABEL_WIDTH = 250  # pixels
END = "<!-- end of quality -->"


def section_begin(domain: str) -> str:
    """Return the line before what the report writes into a model card."""
    return f"<!-- quality: written by domains/{domain}/quality.py -->"


def write_section(card: Path, domain: str, tables: str) -> None:
    """Replace the quality section of a model card."""
    before, rest = card.read_text("utf-8").split(section_begin(domain))
    after = rest.split(END)[1]
    card.write_text(f"{before}{section_begin(domain)}\n{tables}{END}{after}", "utf-8")


def save_rows(rows: Sequence[tuple[str, Images]], tile: int, path: Path) -> None:
    """Save labeled rows of images, each `tile` pixels wide, as a JPEG."""
    columns = len(rows[0][1])
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * tile, len(rows) * tile), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for y, (label, tiles) in enumerate(rows):
        draw.text((8, y * tile + tile // 2 - 8), label, "black", font)
        for x, pixels in enumerate(tiles):
            small = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(small, (LABEL_WIDTH + x * tile, y * tile))
    path.parent.mkdir(exist_ok=True)
    sheet.save(path, quality=88)


def format_goal(text: str, reached: bool) -> str:
    """Return a figure, in bold where it misses its goal."""
    return text if reached else f"**{text}**"
