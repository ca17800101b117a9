"""Invert and edit photos of another kind than training drew, by latent and by features.

python -m domains.people.portraits                # scikit-image's astronaut, public domain
python -m domains.people.portraits photo.jpg ...
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image

from domains.people.evaluation import describe_persons
from domains.people.quality import DOMAIN, ROOT
from domains.people.text_pairs import TEXT_PAIRS
from domains.training.fidelity_quality import psnr_of, save_comparison
from domains.training.served_networks import ServedNetworks
from styleclip_contract.limits import FEATURES, LATENT
from styleclip_server.pipeline.alignment import Aligner
from styleclip_server.serving.domain_folder import load_domain

_Path = click.Path(path_type=Path)


def read_photos(paths: tuple[Path, ...]) -> dict[str, Image.Image]:
    """Read photos by name; without paths, the astronaut."""
    if paths:
        return {path.stem: Image.open(path).convert("RGB") for path in paths}
    from skimage import data  # in the group `dev`

    return {"astronaut": Image.fromarray(data.astronaut())}


@click.command(context_settings={"show_default": True})
@click.argument("paths", metavar="[PHOTO]...", nargs=-1, type=_Path)
@click.option("--domain", "folder", type=_Path, default=DOMAIN)
@click.option("--grid", type=_Path, default=ROOT / "docs/people-portraits.jpg")
def main(paths: tuple[Path, ...], folder: Path, grid: Path) -> None:
    """Save a grid of PHOTOs, and print how far their inversions are from them."""
    networks, domain, aligner = ServedNetworks(folder), load_domain(folder), Aligner(folder)
    photos = read_photos(paths)
    images = np.stack([aligner.align(photo)[0] for photo in photos.values()])
    w_plus, persons = networks.invert(images), describe_persons(images)
    inversions = {
        LATENT: networks.reconstruct(w_plus),
        FEATURES: networks.generate_features(images, w_plus, networks.no_offset),
    }
    for fidelity, results in inversions.items():
        distances = np.linalg.norm(describe_persons(results) - persons, axis=1)
        for name, psnr, distance in zip(photos, psnr_of(results, images), distances, strict=True):
            print(f"{name}, {fidelity}: PSNR {psnr:.1f} dB, distance {distance:.2f}", flush=True)
    save_comparison(networks, images, w_plus, TEXT_PAIRS, domain, grid)


if __name__ == "__main__":
    main()
