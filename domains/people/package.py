"""Write the served domain: from trained networks to model_repository/people.

python -m domains.people.package
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from domains.people.compact_landmarks import compact
from domains.people.crops import HEADS_FOLDER
from domains.people.models import load_generator
from domains.people.presets import DESCRIPTION
from domains.people.shards import read_shards
from domains.training.networks import build_encoder
from domains.training.packaging import Trained, face_factory, write_domain
from domains.training.setup import Setup
from styleclip_server.pipeline.landmarks import LANDMARK_MODEL

CALIBRATION_CROPS = 64


def read_crops(data: Path) -> list[np.ndarray]:
    """Read some of the crops that training rendered."""
    folder = next(path for path in sorted((data / HEADS_FOLDER).iterdir()) if path.is_dir())
    heads = zip(range(CALIBRATION_CROPS), read_shards(folder), strict=False)
    return [np.asarray(Image.open(io.BytesIO(jpeg))) for _, (jpeg, _) in heads]


@click.command(context_settings={"show_default": True})
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/people"))
@click.option("--data", type=click.Path(path_type=Path), default=Path("build/people"))
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option(
    "--landmarks",
    type=click.Path(path_type=Path, exists=True),
    help="The predictor of `train_landmarks`, which the domain then uses.",
)
@click.option("--only-features", is_flag=True, help="Leave the networks without features as is.")
@click.option("--tiny", is_flag=True, help="The networks are those of `train --tiny`.")
def main(
    runs: Path,
    data: Path,
    repository: Path,
    landmarks: Path | None,
    only_features: bool,
    tiny: bool,
) -> None:
    """Write the people domain to the model repository, replacing version 1."""
    setup = Setup(data, runs, torch.device("cpu"), 1, {}, tiny=tiny)
    generator = load_generator(setup)
    trained = Trained(generator, build_encoder(generator.num_latents), runs, data, tiny)
    if landmarks:
        own = repository / DESCRIPTION["name"] / LANDMARK_MODEL
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(landmarks, own)
        compact(own)
    draw_faces = None if only_features else face_factory(read_crops(data))
    write_domain(trained, DESCRIPTION, repository, draw_faces)


if __name__ == "__main__":
    main()
