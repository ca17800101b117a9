"""How close the generator's images are to the crops: the loss, and the report of a stage.

As in `latent_codes.py`, `p` are amplitudes (N, L, values) and `u` is the basis (values, W_DIM).
"""

from __future__ import annotations

import torch
from torch import Tensor

from domains.people.attributes import TABLE
from domains.people.codes import CODES, SceneEncoder, add_scene
from domains.people.crops import Crops
from domains.people.models import Perceptor
from domains.training.images import resize
from domains.training.regression import image_loss
from domains.training.sample_grids import format_psnr, save_grid
from domains.training.setup import Setup
from styleclip_contract.wire import FACE_SIZE
from styleclip_networks.stylegan2 import Generator

PERCEPTUAL, IDENTITY, CHROMA = 0.5, 0.2, 2.0  # weights of the losses
FACE_ROWS, FACE_COLUMNS = (0.28, 0.95), (0.2, 0.8)  # of FFHQ's crop: brows to chin


def pixel_weights(resolution: int, device: torch.device) -> Tensor:
    """Return weights of mean 1 (1, 1, r, r): the face counts more than what surrounds it."""
    weights = torch.ones(1, 1, resolution, resolution, device=device)
    rows, columns = (
        slice(int(low * resolution), int(high * resolution))
        for low, high in (FACE_ROWS, FACE_COLUMNS)
    )
    weights[:, :, rows, columns] = 3.0
    return weights / weights.mean()


def reconstruction_loss(
    images: Tensor, targets: Tensor, weights: Tensor, perceptor: Perceptor, setup: Setup
) -> Tensor:
    """Compute the distance of pixels, of the perceptor's features, and of identities.

    Colors count apart: in hair and knitted wool, errors of brightness hide theirs.
    """
    with setup.autocast():
        perceptual, identity = perceptor.perceptual_loss(
            resize(images, FACE_SIZE), resize(targets, FACE_SIZE)
        )
    pixels = image_loss(images, targets, weights)
    error = images - targets
    chroma = ((error - error.mean(1, keepdim=True)).abs() * weights).mean()
    return pixels + CHROMA * chroma + PERCEPTUAL * perceptual + IDENTITY * identity


@torch.no_grad()
def report_reconstruction(
    setup: Setup, generator: Generator, scene_encoder: SceneEncoder, crops: Crops
) -> None:
    """Print the PSNR on held-out crops, and save crops above their reconstructions."""
    u = CODES.basis().to(setup.device)
    index = torch.arange(min(len(crops), 128), device=setup.device)
    images = []
    for some in index.split(32):
        p = TABLE.one_hot(crops.complete_labels(some))[:, None]
        p = p.expand(-1, generator.num_latents, -1)
        w_plus = add_scene(p @ u, scene_encoder(crops.scenes[some]))
        images.append(generator.synthesis(generator.affine(w_plus), setup.dtype))
    targets = resize(crops.images(index), generator.resolution)
    print(f"PSNR held out: {format_psnr(torch.cat(images), targets)}", flush=True)
    rows = [
        row
        for pair in zip(targets[:32].split(8), torch.cat(images)[:32].split(8), strict=True)
        for row in pair
    ]
    save_grid(torch.cat(rows), 8, setup.out / "generator.jpg")
