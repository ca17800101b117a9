"""Train the avatars domain stage by stage, each for a given time.

    python -m domains.avatars.train                # all stages
    python -m domains.avatars.train clip encoder

A stage that finds its own checkpoint continues from it. README.md describes the stages.
"""

from __future__ import annotations

from domains.avatars import (
    train_classifier,
    train_clip,
    train_encoder,
    train_features,
    train_generator,
)
from domains.avatars.captions import GRAMMAR, PAIR_NOUNS
from domains.avatars.models import load_generator
from domains.avatars.renders import LAYERS_FILE, build_layers
from domains.training.caption_data import build_captions, read_vocabulary_size
from domains.training.checkpoints import require_weights
from domains.training.command import Stage, build_command
from domains.training.compute_statistics import compute_statistics
from domains.training.contrastive import encode_with
from domains.training.networks import build_clip
from domains.training.setup import Setup


def prepare_layers(setup: Setup) -> None:
    """Run the stage `layers`."""
    path = setup.data / LAYERS_FILE
    if not path.exists():
        build_layers(path)


def prepare_captions(setup: Setup) -> None:
    """Run the stage `captions`."""
    if not setup.captions.exists():
        build_captions(setup.captions, GRAMMAR, PAIR_NOUNS)


def run_statistics(setup: Setup) -> bool:
    """Run the stage `statistics`."""
    clip = build_clip(read_vocabulary_size(setup.captions))
    require_weights(clip, setup.out / "clip.pt")
    encode_image = encode_with(clip.to(setup.device).eval())
    return compute_statistics(setup, load_generator(setup.out), encode_image)


STAGES: dict[str, Stage] = {
    "layers": prepare_layers,
    "captions": prepare_captions,
    "mapping": train_generator.run_mapping,
    "generator": train_generator.run_synthesis,
    "clip": train_clip.run,
    "encoder": train_encoder.run,
    "classifier": train_classifier.run,
    "statistics": run_statistics,
    "inverter": train_features.run_inverter,
    "features": train_features.run_editor,
}
SECONDS = {
    "mapping": 40.0,
    "generator": 360.0,
    "clip": 120.0,
    "encoder": 120.0,
    "classifier": 40.0,
    "inverter": 75.0,
    "features": 75.0,
}
main = build_command("avatars", STAGES, SECONDS)

if __name__ == "__main__":
    main()
