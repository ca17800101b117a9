"""The quality report for people: a table in the model card, and a grid of edits as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from quality import Chain, Pair

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "model_repository" / "avatars" / "MODEL_CARD.md"
GRID = ROOT / "docs" / "avatars-edits.jpg"
BEGIN, END = "<!-- quality: written by domains/avatars/quality.py -->", "<!-- end of quality -->"
GOALS = {"hit": 0.85, "kept": 0.90}
TILE, LABEL = 112, 250  # pixels


def write_card(report: dict[str, Any]) -> None:
    """Replaces the quality section of the model card."""
    text = CARD.read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    CARD.write_text(before + BEGIN + "\n" + table(report) + END + after, "utf-8")


def table(report: dict[str, Any]) -> str:
    """The report in Markdown; a figure that misses its goal is bold."""
    inversion, pairs = report["inversion"], report["pairs"]
    lines = [
        f"{report['avatars']} held-out avatars, α = {report['strength']:g}, "
        f"β = {report['threshold']:g} (chosen on other avatars).",
        "",
        f"**Inversion** keeps {inversion['kept']:.1%} of the attributes that can be seen "
        f"({', '.join(f'{k} {v:.1%}' for k, v in inversion['by_attribute'].items())}); "
        f"PSNR to the photo: median {inversion['psnr']['median']:.1f} dB, "
        f"10th percentile {inversion['psnr']['10%']:.1f} dB.",
        "",
        "**Edits.** *hit*: the target is there afterwards (goal 85%); *others kept*: mean of the "
        "other attributes (goal 90%), and the worst of them; *clean*: median PSNR to the nearest "
        f"true render (the inversions alone: {inversion['clean']:.1f} dB); *removed*: with -α, the "
        "share of avatars that had the attribute and lose it.",
        "",
        "| target | hit | others kept | worst | clean | 10% | removed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for p in pairs:
        mark = "" if p["in_captions"] else " ¹"
        cells = [
            _bold(p["hit"], GOALS["hit"]),
            _bold(p["kept"], GOALS["kept"]),
            f"{p['worst']:.0%}",
            f"{p['clean']:.1f} dB",
            f"{p['clean10']:.1f} dB",
            f"{p['removed']:.0%}",
        ]
        lines.append(f"| {p['target']}{mark} | {' | '.join(cells)} |")
    reached = sum(all(p[name] >= goal for name, goal in GOALS.items()) for p in pairs)
    lines += [
        "",
        f"{reached} of {len(pairs)} text pairs reach both goals. "
        "¹ a wording that no training caption has.",
        "",
    ]
    return "\n".join(lines)


def _bold(value: float, goal: float) -> str:
    return f"{value:.1%}" if value >= goal else f"**{value:.1%}**"


def write_grids(
    chain: Chain,
    pictures: np.ndarray,
    latents: np.ndarray,
    pairs: Sequence[Pair],
    strength: float,
    threshold: float,
    columns: int = 8,
) -> None:
    """A row of photos, a row of inversions, and a row for each text pair."""
    chosen, latents = pictures[:columns], latents[:columns]
    rows: list[tuple[str, np.ndarray]] = [
        ("photo", chosen),
        ("inversion", chain.edit(latents, None, 0, 0)),
    ]
    rows += [(pair.target, chain.edit(latents, pair, strength, threshold)) for pair in pairs]
    sheet = Image.new("RGB", (LABEL + columns * TILE, len(rows) * TILE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for y, (label, tiles) in enumerate(rows):
        draw.text((8, y * TILE + TILE // 2 - 8), label, "black", font)
        for x, tile in enumerate(tiles):
            small = Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(small, (LABEL + x * TILE, y * TILE))
    GRID.parent.mkdir(exist_ok=True)
    sheet.save(GRID, quality=88)
