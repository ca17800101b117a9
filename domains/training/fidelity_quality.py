"""How well a domain's photos are inverted and edited by latent and by features, side by side.

Images are uint8 (N, r, r, 3), RGB. An edit by features is also searched for two faults. A ghost is
what it leaves of what the edit by latent removes; a halo is what it changes around that region.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from domains.training.classifier import Classifier
from domains.training.feature_editor import MARGIN, edited_region
from domains.training.images import resize
from domains.training.served_networks import BATCH, Images, ServedNetworks
from domains.training.text_pairs import TextPair, find_edit
from styleclip_contract.domain import Domain
from styleclip_contract.errors import NoChannelLeft
from styleclip_contract.limits import FEATURES, FIDELITIES, LATENT
from styleclip_contract.wire import FACE_SIZE

TILE, LABEL_HEIGHT = 128, 18  # pixels of the grid
GRID_PHOTOS, GRID_PAIRS = 6, 4


@dataclass(frozen=True)
class FidelityTest:
    """Held-out photos, and how a domain judges images of them.

    Attributes:
        images: photos.
        w_plus: (N, L, 512), of e4e.
        classifier: the one of the report.
        find_rows: pair → the photos that it is applied to, bool (N,).
        judge_edit: pair, those photos, their edited images → `hit`, `kept`, and others.
        judge_inversion: images of all photos → `kept`, and others.
    """

    images: Images
    w_plus: NDArray[np.float32]
    classifier: Classifier
    find_rows: Callable[[TextPair], Tensor]
    judge_edit: Callable[[TextPair, Tensor, Images], Mapping[str, float]]
    judge_inversion: Callable[[Images], Mapping[str, float]]


def compare_fidelities(
    networks: ServedNetworks,
    test: FidelityTest,
    pairs: Sequence[TextPair],
    domain: Domain,
) -> dict[str, Any]:
    """Measure inversions and edits by latent and by features.

    Returns:
        The number of photos; by fidelity the measures of inversion and the means over all pairs;
        and the measures of each pair.
    """
    inversions = invert(networks, test)
    result: dict[str, Any] = {"photos": len(test.images)}
    for fidelity, images in inversions.items():
        psnr = psnr_of(images, test.images)
        result[fidelity] = {
            "psnr": float(np.median(psnr)),
            "psnr10": float(np.quantile(psnr, 0.1)),
            "perceptual": float(perceptual_distance(test.classifier, images, test.images).mean()),
            **test.judge_inversion(images),
        }
        print(f"{fidelity}: {_format(result[fidelity])}", flush=True)
    result["pairs"] = []
    for pair in pairs:
        rows = test.find_rows(pair)
        if rows.any():
            measured = compare_edits(networks, test, inversions, pair, rows, domain)
            result["pairs"].append({"target": pair.target, **measured})
            figures = "; ".join(f"{k}: {_format(v)}" for k, v in measured.items())
            print(f"{pair.target:40s} {figures}", flush=True)
    for fidelity in FIDELITIES:
        measures = [pair[fidelity] for pair in result["pairs"]]
        result[fidelity]["edits"] = {
            name: float(np.mean([measure[name] for measure in measures]))
            for name in (measures[0] if measures else ())
        }
    return result


def write_comparison(
    networks: ServedNetworks,
    test: FidelityTest,
    pairs: Sequence[TextPair],
    domain: Domain,
    grid: Path,
) -> dict[str, Any]:
    """Compare the fidelities by the presets or the defaults, save the grid, print the table."""
    result = compare_fidelities(networks, test, pairs, domain)
    images, w_plus = test.images[:GRID_PHOTOS], test.w_plus[:GRID_PHOTOS]
    save_comparison(networks, images, w_plus, pairs, domain, grid)
    print(format_table(result), flush=True)
    return result


def invert(networks: ServedNetworks, test: FidelityTest) -> dict[str, Images]:
    """Return the unedited images by fidelity."""
    return {
        LATENT: networks.reconstruct(test.w_plus),
        FEATURES: networks.generate_features(test.images, test.w_plus, networks.no_offset),
    }


def edit(
    networks: ServedNetworks,
    images: Images,
    w_plus: NDArray[np.float32],
    pair: TextPair,
    domain: Domain,
) -> dict[str, Images]:
    """Return images edited by a pair, by fidelity; unchanged where no channel is left."""
    settings = find_edit(domain, pair)
    try:
        delta = networks.offset(pair, settings.strength, settings.threshold)
    except NoChannelLeft:
        delta = networks.no_offset
    return {
        LATENT: networks.generate(w_plus, delta),
        FEATURES: networks.generate_features(images, w_plus, delta),
    }


def compare_edits(
    networks: ServedNetworks,
    test: FidelityTest,
    inversions: Mapping[str, Images],
    pair: TextPair,
    rows: Tensor,
    domain: Domain,
) -> dict[str, dict[str, float]]:
    """Measure the edits of the photos `rows` by fidelity.

    Beside what the domain judges: `outside`, the mean absolute difference from the photo outside of
    the edited region, in levels; `ghost`, `halo`: see `find_ghosts`.
    """
    index = rows.numpy()
    photos = _to_tensor(test.images[index])
    edited = edit(networks, test.images[index], test.w_plus[index], pair, domain)
    before, after = _to_tensor(inversions[LATENT][index]), _to_tensor(edited[LATENT])
    region = edited_region(before, after)
    unedited = {LATENT: before, FEATURES: _to_tensor(inversions[FEATURES][index])}
    measured = {}
    for fidelity, images in edited.items():
        result = _to_tensor(images)
        ghost, halo = find_ghosts(unedited[fidelity], result, (before, after), region)
        error = (result - resize(photos, result.shape[-1])).abs().mean(1, keepdim=True)
        measured[fidelity] = {
            **test.judge_edit(pair, rows, images),
            "outside": float((error * (1 - region)).sum() / (1 - region).sum().clamp(min=1))
            * 127.5,
            "ghost": ghost,
            "halo": halo,
        }
    return measured


def find_ghosts(
    before: Tensor, after: Tensor, latents: tuple[Tensor, Tensor], region: Tensor
) -> tuple[float, float]:
    """Measure ghost and halo of edited images (N, 3, r, r) in [-1, 1].

    Args:
        before, after: unedited and edited, by one fidelity.
        latents: the same by latent.
        region: (N, 1, r, r), where an edit by latent changes an image.

    Returns:
        The share of what the edit by latent removes that is still there: 0 where `after` is as
        expected, 1 where nothing was edited. The mean absolute change in a margin around the
        region, in levels.
    """
    removed = (latents[0] - latents[1]) * (region > 0.99).float()
    ghost = (removed * (after - latents[1])).sum() / removed.square().sum().clamp(min=1e-9)
    size = 2 * MARGIN + 1
    around = F.max_pool2d(region, size, stride=1, padding=MARGIN).ceil() * (region == 0).float()
    change = (after - before).abs().mean(1, keepdim=True)
    halo = (change * around).sum() / around.sum().clamp(min=1)
    return float(ghost), float(halo) * 127.5


def psnr_of(images: Images, photos: Images) -> NDArray[np.float64]:
    """Return the PSNR (N,) in dB of images to photos, at the images' size."""
    targets = resize(_to_tensor(photos), images.shape[1])
    error = (_to_tensor(images) - targets).square().mean((1, 2, 3)).clamp(min=1e-9)
    return (10 * (4 / error.double()).log10()).numpy()


@torch.no_grad()
def perceptual_distance(
    classifier: Classifier, images: Images, photos: Images
) -> NDArray[np.float32]:
    """Return the mean absolute differences (N,) of the classifier's features of all levels."""
    distances = []
    pairs = zip(_to_tensor(images).split(BATCH), _to_tensor(photos).split(BATCH), strict=True)
    for batch in pairs:
        ours, theirs = (classifier.features(resize(x, FACE_SIZE)) for x in batch)
        levels = [(x - y).abs().mean((1, 2, 3)) for x, y in zip(ours, theirs, strict=True)]
        distances.append(torch.stack(levels).mean(0))
    return torch.cat(distances).numpy()


def format_table(result: Mapping[str, Any]) -> str:
    """Format a result of `compare_fidelities` as a Markdown table."""
    names = {
        "psnr": ("PSNR, median (dB)", "{:.1f}"),
        "psnr10": ("PSNR, 10th percentile (dB)", "{:.1f}"),
        "perceptual": ("perceptual distance", "{:.3f}"),
        "distance": ("distance of face descriptors", "{:.3f}"),
        "kept": ("attributes kept", "{:.1%}"),
        "hit": ("target appears", "{:.1%}"),
        "outside": ("difference outside of the edit (levels)", "{:.1f}"),
        "ghost": ("ghost of what was there", "{:.1%}"),
        "halo": ("halo around the edit (levels)", "{:.1f}"),
    }
    lines = ["| | latent | features |", "| --- | ---: | ---: |"]
    for prefix, key in (("", None), ("edits: ", "edits")):
        latent, features = (result[f][key] if key else result[f] for f in (LATENT, FEATURES))
        for name, (text, number) in names.items():
            if name in latent:
                cells = number.format(latent[name]), number.format(features[name])
                lines.append(f"| {prefix}{text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def save_comparison(
    networks: ServedNetworks,
    images: Images,
    w_plus: NDArray[np.float32],
    pairs: Sequence[TextPair],
    domain: Domain,
    path: Path,
) -> None:
    """Save a grid: each photo, its inversions, and some edits, by latent and by features."""
    columns: list[tuple[str, Images]] = [
        ("photo", images),
        ("latent", networks.reconstruct(w_plus)),
        ("features", networks.generate_features(images, w_plus, networks.no_offset)),
    ]
    for pair in pairs[:: max(1, len(pairs) // GRID_PAIRS)][:GRID_PAIRS]:
        edited = edit(networks, images, w_plus, pair, domain)
        title = pair.target.removeprefix("a face with ").removeprefix("a ")
        columns += [
            (f"{title}, {fidelity[0].upper()}", edited[fidelity]) for fidelity in FIDELITIES
        ]
    sheet = Image.new("RGB", (len(columns) * TILE, LABEL_HEIGHT + len(images) * TILE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for x, (title, tiles) in enumerate(columns):
        draw.text((x * TILE + 3, 2), title, "black", font)
        for y, tile in enumerate(tiles):
            small = Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(small, (x * TILE, LABEL_HEIGHT + y * TILE))
    path.parent.mkdir(exist_ok=True)
    sheet.save(path, quality=88)


def _to_tensor(images: Images) -> Tensor:
    """Convert images to float32 (N, 3, r, r) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _format(measures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in measures.items())
