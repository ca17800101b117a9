"""Write checkpoints of a served domain's networks, where those of its training are gone.

    python -m domains.training.served_weights model_repository/avatars runs/avatars

The served ONNX files have the very weights in float16 (`packaging.py`): the synthesis, e4e, and
CLIP's text encoder, as the stages `inverter` and `features` need them, and what these have trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from domains.training.feature_editor import EDITOR_FILE, INVERTER_FILE
from styleclip_contract import wire
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sizes import encoder_sizes, generator_sizes
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines.model_files import (
    FACE_TO_FEATURES_FILE,
    FEATURES_TO_IMAGE_FILE,
    MODEL_FILE,
)
from styleclip_server.engines.weights import read_parameters
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE

State = dict[str, Tensor]


def _generator_defaults(state: State) -> State:
    sizes = generator_sizes({name: tensor.shape for name, tensor in state.items()})
    return Generator(**sizes, use_noise=False).state_dict()


def _encoder_defaults(state: State) -> State:
    sizes = encoder_sizes({name: tensor.shape for name, tensor in state.items()})
    return Encoder4Editing(**sizes).state_dict()


def _clip_defaults(state: State) -> State:
    return {"logit_scale": torch.zeros(())}


# Network → prefix of its weights, the checkpoint, and what an ONNX file leaves out: what has no
# effect (noise, counters of batches) or is constant (kernels).
NETWORKS: Mapping[str, tuple[str, str, Callable[[State], State]]] = {
    "stylegan2": ("generator.", "generator.pt", _generator_defaults),
    "e4e": ("encoder.", "encoder.pt", _encoder_defaults),
    "clip_text": ("clip.", "clip.pt", _clip_defaults),
}
# The same for the files of the model `features`.
FEATURES = {
    FACE_TO_FEATURES_FILE: ("inverter.", INVERTER_FILE),
    FEATURES_TO_IMAGE_FILE: ("editor.", EDITOR_FILE),
}
_Path = click.Path(path_type=Path)


def read_served_weights(file: Path, prefix: str) -> State:
    """Read the weights of a served network whose names have the prefix, in float16."""
    parameters = read_parameters(file, external=False)  # features share stylegan2's
    return {
        name.removeprefix(prefix): torch.from_numpy(np.array(array)).half()
        for name, array in parameters.items()
        if name.startswith(prefix) and not name.endswith("_half")
    }


@click.command()
@click.argument("folder", type=_Path)
@click.argument("runs", type=_Path)
def main(folder: Path, runs: Path) -> None:
    """Write the checkpoints of the served domain FOLDER into the folder RUNS."""
    runs.mkdir(parents=True, exist_ok=True)
    for name, (prefix, checkpoint, defaults) in NETWORKS.items():
        state = read_served_weights(folder / name / "1" / MODEL_FILE, prefix)
        torch.save({**defaults(state), **state}, runs / checkpoint)
    for name, (prefix, checkpoint) in FEATURES.items():
        file = folder / wire.FEATURES.name / "1" / name
        if file.exists():
            torch.save(read_served_weights(file, prefix), runs / checkpoint)
    shutil.copyfile(folder / STATISTICS_FILE, runs / STATISTICS_FILE)


if __name__ == "__main__":
    main()
