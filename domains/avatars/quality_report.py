"""The quality report for readers: a table in the model card, and an image of all edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domains.avatars.evaluation import GOALS, EvaluationSet
from domains.avatars.text_pairs import TEXT_PAIRS
from domains.training.fidelity_quality import format_table
from domains.training.report_files import format_goal, save_rows, write_section
from domains.training.served_networks import Images, ServedNetworks

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "model_repository" / "avatars" / "MODEL_CARD.md"
GRID = ROOT / "docs" / "avatars-edits.jpg"
TILE = 112  # pixels
COLUMNS = 8  # avatars


def write_card(report: dict[str, Any]) -> None:
    """Replace the quality section of the model card."""
    write_section(CARD, "avatars", format_tables(report))


def format_tables(report: dict[str, Any]) -> str:
    """Format the report as Markdown, with figures that miss their goal in bold."""
    inversion, pairs = report["inversion"], report["pairs"]
    psnr = inversion["psnr"]
    lines = [
        f"{report['avatars']} test avatars, α = {report['strength']:g}, "
        f"β = {report['threshold']:g} (chosen on other avatars).",
        "",
        f"**Inversion** keeps {inversion['kept']:.1%} of the visible attributes; PSNR to the "
        f"image: median {psnr['median']:.1f} dB, 10th percentile {psnr['10%']:.1f} dB.",
        "",
        f"| {' | '.join(name.replace('_', ' ') for name in inversion['by_attribute'])} |",
        f"|{' ---: |' * len(inversion['by_attribute'])}",
        f"| {' | '.join(f'{kept:.1%}' for kept in inversion['by_attribute'].values())} |",
        "",
        "**Edits.** *hit*: the target is there (goal 85%). *kept*: mean of the other attributes "
        "(goal 90%). *worst*: the lowest of them. *clean*: PSNR to the nearest render, median and "
        f"10th percentile (median of the inversions: {inversion['clean']:.1f} dB). *removed*: with "
        "-α, avatars that lose the target.",
        "",
        "| target | hit | kept | worst | clean (dB) | 10% (dB) | removed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for pair in pairs:
        cells = [
            pair["target"] + ("" if pair["in_captions"] else " ¹"),
            *(format_goal(f"{pair[name]:.1%}", pair[name] >= goal) for name, goal in GOALS.items()),
            f"{pair['worst']:.0%}",
            f"{pair['clean']:.1f}",
            f"{pair['clean10']:.1f}",
            f"{pair['removed']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    reached = sum(all(pair[name] >= goal for name, goal in GOALS.items()) for pair in pairs)
    lines += [
        "",
        f"{reached} of {len(pairs)} text pairs reach both goals. ¹ not worded as in training.",
        "",
    ]
    if fidelity := report.get("fidelity"):
        lines += [
            f"**Latent and features** ({fidelity['photos']} of the avatars, all text pairs). "
            "*ghost*: share of what an edit removes that is still there; *halo*: change around "
            "it.",
            "",
            format_table(fidelity),
        ]
    return "\n".join(lines)


def save_grid(
    networks: ServedNetworks, test: EvaluationSet, strength: float, threshold: float
) -> None:
    """Save a row of images, a row of reconstructions, and a row for each text pair."""
    images, w_plus = test.images[:COLUMNS], test.w_plus[:COLUMNS]
    rows: list[tuple[str, Images]] = [
        ("photo", images),
        ("inversion", networks.reconstruct(w_plus)),
    ]
    rows += [(pair.target, networks.edit(w_plus, pair, strength, threshold)) for pair in TEXT_PAIRS]
    save_rows(rows, TILE, GRID)
