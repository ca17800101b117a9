"""Train the people domain stage by stage; README.md describes the stages.

python -m domains.people.train --seconds 540    # continue for nine minutes
python -m domains.people.train clip encoder
"""

from __future__ import annotations

from domains.people import (
    crops,
    train_adversarial,
    train_clip,
    train_encoder,
    train_features,
    train_generator,
    train_image_tower,
    train_perceptor,
)
from domains.people.captions import GRAMMAR, PAIR_NOUNS
from domains.people.crops import load_crops
from domains.people.latents import CombinedMapping, load_latents
from domains.people.models import load_generator, sparse_affine
from domains.training.caption_data import build_captions
from domains.training.command import Stage, build_command
from domains.training.compute_statistics import Effort, compute_statistics
from domains.training.setup import Setup

TINY_CAPTIONS = 2000
TINY_EFFORT = Effort(images=2, latents=1000, channels=20)


def prepare_captions(setup: Setup) -> None:
    """Run the stage `captions`."""
    if setup.captions.exists():
        return
    if setup.tiny:
        build_captions(setup.captions, GRAMMAR, PAIR_NOUNS, TINY_CAPTIONS, TINY_CAPTIONS)
    else:
        build_captions(setup.captions, GRAMMAR, PAIR_NOUNS)


def run_statistics(setup: Setup) -> bool:
    """Run the stage `statistics`."""
    tower = train_image_tower.load_image_tower(setup)
    generator = load_generator(setup).to(setup.device)
    crops, _ = load_crops(setup)
    generator.style = CombinedMapping(load_latents(setup, crops, num_latents=1))
    effort = TINY_EFFORT if setup.tiny else None
    # The other channels depend on the scene: CLIP takes a changed face for an expression or an age.
    editable = sparse_affine(generator).editable_channels()
    return compute_statistics(setup, generator, tower, effort, editable)


STAGES: dict[str, Stage] = {
    "heads": crops.run,
    "captions": prepare_captions,
    "perceptor": train_perceptor.run_perceptor,
    "generator": train_generator.run_synthesis,
    "mapping": train_generator.run_mapping,
    "adversarial": train_adversarial.run,
    "clip": train_clip.run,
    "image_tower": train_image_tower.run,
    "latents": train_encoder.run_latents,
    "encoder": train_encoder.run,
    "statistics": run_statistics,
    "classifier": train_perceptor.run_classifier,
    "inverter": train_features.run_inverter,
    "features": train_features.run_editor,
}
SECONDS = {
    "heads": 420.0,
    "perceptor": 60.0,
    "generator": 300.0,
    "mapping": 40.0,
    "adversarial": 1260.0,
    "clip": 180.0,
    "image_tower": 200.0,
    "latents": 90.0,
    "encoder": 240.0,
    "classifier": 60.0,
    "inverter": 150.0,
    "features": 150.0,
}
main = build_command("people", STAGES, SECONDS)

if __name__ == "__main__":
    main()
