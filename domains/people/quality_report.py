"""The quality report for readers: tables in the model card, and a grid of edits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domains.people.evaluation import EvaluationSet, apply_edit
from domains.people.text_pairs import TEXT_PAIRS
from domains.training.fidelity_quality import format_table
from domains.training.report_files import format_goal, save_rows, write_section
from domains.training.served_networks import Images
from domains.training.server_networks import ServerNetworks
from domains.training.text_pairs import find_edit
from styleclip_contract.domain import Domain
from styleclip_contract.limits import DEFAULT_FIDELITY

CARD = "MODEL_CARD.md"
TILE, COLUMNS = 160, 8  # pixels; people of the grid
GRID_PAIRS = (
    "a smiling face",
    "a surprised face",
    "a face with sunglasses",
    "a face with a beard",
    "a face with red hair",
    "a face with curly hair",
    "an old face",
    "a face with a hat",
)
IDENTITY = ("age",)  # edits of these change who is shown
# Goals: the least of a rate, the most of a distance or a seam.
DETECTED, INVERTED, DISTANCE = 0.97, 0.92, 0.45
HIT, KEPT, EDIT_DISTANCE, SEAM = 0.85, 0.90, 0.50, 0.5
GROUP_LAG = 0.05  # that a group may be below the mean of all


def write_card(folder: Path, report: Mapping[str, Any]) -> None:
    """Replace the quality section of the model card, if there is one."""
    if (folder / CARD).exists():
        write_section(folder / CARD, "people", format_tables(report))


def format_tables(report: Mapping[str, Any]) -> str:
    """Format the report as Markdown, with figures that miss their goal in bold."""
    lines = [*_format_inversion(report), "", *_format_edits(report), "", *_format_groups(report)]
    if fidelity := report.get("fidelity"):
        lines += [
            "",
            f"**Latent and features** ({fidelity['photos']} of the photos, all text pairs). "
            "*ghost*: share of what an edit removes that is still there; *halo*: change around "
            "it.",
            "",
            format_table(fidelity).rstrip("\n"),
        ]
    return "\n".join(lines) + "\n"


def _format_inversion(report: Mapping[str, Any]) -> list[str]:
    inversion = report["inversion"]
    by_attribute = inversion["by_attribute"]
    detected = format_goal(f"{inversion['detected']:.1%}", inversion["detected"] >= DETECTED)
    kept = format_goal(f"{inversion['kept']:.1%}", inversion["kept"] >= INVERTED)
    distance = format_goal(f"{inversion['distance']:.2f}", inversion["distance"] <= DISTANCE)
    fidelity = report.get("default_fidelity", DEFAULT_FIDELITY)
    by = "" if fidelity == DEFAULT_FIDELITY else f" with fidelity `{fidelity}`"
    return [
        f"{report['photos']} held-out photos on the real server{by}, α = {report['strength']:g}, "
        f"β = {report['threshold']:g}; presets have their own. Bold: misses its goal.",
        "",
        f"**Detection and inversion.** dlib finds {detected} of the faces (goal 97%). Inversion "
        f"keeps {kept} of the visible attributes (goal 92%; visible are the "
        f"{inversion['visible']:.0%} of all labels that the classifier reads in the crops, of "
        "which most end above the clothes); the median distance of dlib's face "
        f"descriptors to the photo is {distance} (goal 0.45; below 0.6 counts as one person). "
        f"Fréchet distance of random samples: {report['frechet']:.3f} in the classifier's "
        "features.",
        "",
        f"| {' | '.join(name.replace('_', ' ') for name in by_attribute)} |",
        f"|{' ---: |' * len(by_attribute)}",
        f"| {' | '.join('–' if x is None else f'{x:.0%}' for x in by_attribute.values())} |",
    ]


def _format_edits(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "**Edits.** *hit*: the target is there (goal 85%). *kept*: mean of the other attributes "
        "(goal 90%). *worst*: the lowest of them. *distance*: of face descriptors, edited to photo "
        "(goal 0.5, except where age changes). *seam*: levels, pasted back (goal 0.5). *removed*: "
        "with -α, heads that lose the target.",
        "",
        "| target | hit | kept | worst | distance | seam | removed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    measured = [pair for pair in report["pairs"] if "hit" in pair]
    for pair in measured:
        reached = _goals_reached(pair)
        cells = [
            pair["target"] + ("" if pair["in_captions"] else " ¹"),
            format_goal(f"{pair['hit']:.1%}", reached["hit"]),
            format_goal(f"{pair['kept']:.1%}", reached["kept"]),
            f"{pair['worst']:.0%}",
            format_goal(f"{pair['distance']:.2f}", reached["distance"]),
            "–" if pair["seam"] is None else format_goal(f"{pair['seam']:.2f}", reached["seam"]),
            "–" if pair["removed"] is None else f"{pair['removed']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    count = sum(all(_goals_reached(pair).values()) for pair in measured)
    return [
        *lines,
        "",
        f"{count} of {len(measured)} text pairs reach all goals. ¹ not worded as in training.",
    ]


def _goals_reached(pair: Mapping[str, Any]) -> dict[str, bool]:
    return {
        "hit": pair["hit"] >= HIT,
        "kept": pair["kept"] >= KEPT,
        "distance": pair["attribute"] in IDENTITY or pair["distance"] <= EDIT_DISTANCE,
        "seam": (pair["seam"] or 0.0) <= SEAM,
    }


def _format_groups(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "**Groups**, all edits together. Bold: more than 5 points below the mean.",
        "",
        "| group | photos | detected | inversion keeps | distance | hit | kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for groups in report["groups"].values():
        total = sum(group["photos"] for group in groups.values())
        mean = {
            name: sum(group["photos"] * group[name] for group in groups.values()) / total
            for name in ("detected", "inverted", "hit", "kept")
        }
        for label, group in groups.items():
            rates = [
                format_goal(f"{group[name]:.1%}", group[name] >= value - GROUP_LAG)
                for name, value in mean.items()
            ]
            rates.insert(2, f"{group['distance']:.2f}")
            lines.append(f"| {label} | {group['photos']} | {' | '.join(rates)} |")
    return lines


def save_grid(networks: ServerNetworks, test: EvaluationSet, domain: Domain, path: Path) -> None:
    """Save a row of crops, a row of inversions, and a row for each of some edits."""
    images, faces = test.images[:COLUMNS], test.faces[:COLUMNS]
    rows: list[tuple[str, Images]] = [
        ("photo", images),
        ("inversion", networks.reconstruct(faces)),
    ]
    for pair in TEXT_PAIRS:
        if pair.target in GRID_PAIRS:
            edit = find_edit(domain, pair)
            edited = apply_edit(networks, faces, pair, edit.strength, edit.threshold)
            rows.append((pair.target, edited))
    save_rows(rows, TILE, path)
