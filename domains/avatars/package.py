"""Write the served domain: from trained networks to model_repository/avatars.

python -m domains.avatars.package
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image

from domains.avatars.models import build_encoder, load_generator
from domains.avatars.presets import LICENSE, PRESETS, STRENGTH, THRESHOLD
from domains.training.packaging import Trained, face_factory, write_domain

NAME = "avatars"
DESCRIPTION = {
    "name": NAME,
    "title": "cartoon avatars, 256 x 256",
    "align": False,
    "defaults": {"neutral": "a face", "strength": STRENGTH, "threshold": THRESHOLD},
    "presets": PRESETS,
    "license": LICENSE,
}
SAMPLES = sorted((Path(__file__).resolve().parents[2] / "demo/samples").glob("avatar-*.png"))


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/avatars"))
@click.option("--data", type=click.Path(path_type=Path), default=Path("build/avatars"))
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--only-domain", is_flag=True, help="Write domain.json and the configs, no network.")
@click.option("--only-features", is_flag=True, help="Leave the networks without features as is.")
def main(runs: Path, data: Path, repository: Path, only_domain: bool, only_features: bool) -> None:
    """Write the avatars domain to the model repository, replacing version 1."""
    faces = [np.asarray(Image.open(path).convert("RGB")) for path in SAMPLES]
    trained = Trained(load_generator(runs), build_encoder(), runs, data)
    draw_faces = None if only_domain or only_features else face_factory(faces)
    write_domain(trained, DESCRIPTION, repository, draw_faces, with_features=not only_domain)


if __name__ == "__main__":
    main()
