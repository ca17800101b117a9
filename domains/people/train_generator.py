"""Train people's StyleGAN2 by regression: every crop's labels and scene are known.

The mean of what labels and scene leave open, such as single hairs, is blurred; the adversarial
stage (`train_adversarial.py`) sharpens it.

As in `latent_codes.py`, `p` are amplitudes (N, L, values) and `u` is the basis (values, W_DIM).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.codes import CODES, FREE, SceneEncoder, add_scene
from domains.people.crops import Crops, load_crops, scene_size
from domains.people.models import (
    load_generator,
    load_perceptor,
    load_scene_encoder,
    sparse_affine,
)
from domains.people.reconstruction import (
    pixel_weights,
    reconstruction_loss,
    report_reconstruction,
)
from domains.training.checkpoints import Ema, load_weights, save_weights
from domains.training.images import resize
from domains.training.regression import fit_mapping
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_contract.wire import W_DIM
from styleclip_networks.stylegan2 import Generator

LEARNING_RATE = 0.02
SCENE_LEARNING_RATE = 0.002


def run_synthesis(setup: Setup) -> None:
    """Run the stage `generator`; it continues from `generator.pt` and `scene.pt`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("generator")
    crops, held_out = load_crops(setup)
    generator = load_generator(setup).to(device)
    generator.set_upsampling("folded")
    scene_encoder = SceneEncoder(crops.scenes.shape[1]).to(device)
    if not load_weights(scene_encoder, setup.out / "scene.pt"):
        scene_encoder.fit(crops.scenes)
    perceptor = load_perceptor(setup)
    affine, weights = sparse_affine(generator), pixel_weights(generator.resolution, device)
    ema, scene_ema = Ema(generator, 0.999), Ema(scene_encoder, 0.999)
    trained = [p for name, p in generator.named_parameters() if not name.startswith("style.")]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=setup.on_gpu)
    scene_optimizer = torch.optim.Adam(scene_encoder.parameters(), lr=SCENE_LEARNING_RATE)
    u = CODES.basis().to(device)

    def compute_loss(p: Tensor, scenes: Tensor, targets: Tensor) -> Tensor:
        w_plus = add_scene(p @ u, scene_encoder(scenes))
        images = generator.synthesis(generator.affine(w_plus), setup.dtype)
        return reconstruction_loss(images, targets, weights, perceptor, setup)

    compute_loss = budget.compile(compute_loss)
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.02)
        set_learning_rate(scene_optimizer, SCENE_LEARNING_RATE, budget, warmup=0.02)
        index = crops.draw(setup.batch)
        p = draw_amplitudes(generator, crops, index, min(1.0, budget.fraction * 3))
        targets = resize(crops.images(index), generator.resolution)
        loss = compute_loss(p, crops.scenes[index], targets)
        for some in (optimizer, scene_optimizer):
            some.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scene_optimizer.step()
        affine.apply(generator)
        ema.update()
        scene_ema.update()
        if step % 200 == 0:
            budget.log(f"synthesis loss {loss.item():.4f}")
    ema.copy_to(generator)
    scene_ema.copy_to(scene_encoder)
    affine.apply(generator)
    save_weights(scene_encoder, setup.out / "scene.pt")
    save_weights(generator, setup.out / "generator.pt", exclude="style.")
    budget.save()
    report_reconstruction(setup, generator, scene_encoder, held_out)


def draw_amplitudes(generator: Generator, crops: Crops, index: Tensor, noise: float) -> Tensor:
    """Draw amplitudes (n, L, values) of crops: half of them plain, others as edits leave them."""
    labels = crops.complete_labels(index)
    p, _, _ = CODES.perturb(labels, generator.num_latents, noise)
    half = len(index) // 2
    p[:half] = TABLE.one_hot(labels[:half])[:, None]
    return p


def run_mapping(setup: Setup) -> None:
    """Run the stage `mapping`: z to labels, and to scenes distributed as those of the crops."""
    device = setup.device
    crops, _ = load_crops(setup)
    scene_encoder = load_scene_encoder(setup.out, scene_size(setup.data)).to(device)
    u = CODES.basis().to(device)
    with torch.no_grad():
        scenes = scene_encoder(crops.scenes)
        mean = scenes.mean(0)
        spread = torch.linalg.cholesky(torch.cov(scenes.T) + 1e-3 * torch.eye(FREE, device=device))

    def latent_of_z(z: Tensor) -> Tensor:
        labels = restrict(CODES.target_of_z(z)) @ u
        return labels + F.pad(mean + z[:, -FREE:] @ spread.T, (W_DIM - FREE, 0))

    def report_mapping(generator: Generator) -> str:
        z = torch.randn(2048, W_DIM, device=device)
        w, wanted = generator.mapping(z), latent_of_z(z)
        right = TABLE.strongest(CODES.amplitudes(w)) == TABLE.strongest(CODES.amplitudes(wanted))
        error = (w - wanted)[:, -FREE:].square().mean() / wanted[:, -FREE:].var()
        return f"mapping: each attribute {right.float().mean():.3f}, scene error {error:.3f}"

    fit_mapping(setup, load_generator(setup), latent_of_z, report_mapping)


def restrict(p: Tensor) -> Tensor:
    """Move amplitudes (N, values) away from what the crops do not have: bearded women, children.

    The share of women and children goes from all beards to none, and that of children from old age.
    """
    groups = dict(zip(TABLE.names, p.split(TABLE.sizes, 1), strict=True))
    woman = groups["sex"][:, TABLE["sex"].index("female")]
    child = groups["age"][:, TABLE["age"].index("child")]
    without = 1 - (1 - woman) * (1 - child)
    for name, share, value in (
        ("beard", without, "none"),
        ("lipstick", 1 - woman * (1 - child), "no"),
    ):
        plain = F.one_hot(torch.tensor(TABLE[name].index(value)), len(TABLE[name].values))
        groups[name] = torch.lerp(groups[name], plain.to(p), share[:, None])
    return torch.cat(list(groups.values()), 1)
