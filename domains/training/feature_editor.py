"""Train StyleFeatureEditor for a domain: first its inverter, then its feature editor.

Source: Bobkov et al. 2024 (see `styleclip_networks/sfe.py`), sections 3.2 and 3.3, and the
configurations of AIRI-Institute/StyleFeatureEditor: first reconstructions of photos; then, with
the inverter frozen, reconstructions and pairs of generated images before and after an edit. Ours
differ, since they train for minutes: the latent is e4e's, both networks begin as the identity, no
discriminator takes part, and a photo that is edited keeps its details only where the edit does not
change the generator's features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.training.checkpoints import load_weights, require_weights, save_weights
from domains.training.edit_offsets import draw_offsets
from domains.training.images import resize
from domains.training.sample_grids import format_psnr, save_grid
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_contract.wire import FACE_SIZE
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import (
    FeatureFuser,
    Inverter,
    drop_changed_details,
)
from styleclip_networks.stylegan2 import Generator

INVERTER_FILE, EDITOR_FILE = "inverter.pt", "feature_editor.pt"
RESOLUTION = FACE_SIZE // 4  # of the features
WIDTHS, DEPTHS, UNITS = (32, 64, 128), (2, 2, 3), 4
TINY_WIDTHS, TINY_DEPTHS, TINY_UNITS = (8, 8, 16), (1, 1, 1), 1
LEARNING_RATE = 1e-3
FEATURES = 0.01  # weight of the distance from the generator's own features
BATCH_SHARE = 4  # a batch is this much smaller than those of regression
CHANGED, MARGIN = 0.08, 17  # of images in [-1, 1], where an edit changes them; pixels around it
REPORTED = 16  # held-out photos


@dataclass(frozen=True)
class FeatureData:
    """What a domain gives this training; the networks are trained, and stay as they are.

    Attributes:
        draw_photos: a number → photos (N, 3, 256, 256), RGB in [-1, 1].
        distance: images, targets (N, 3, r, r) of the generator's resolution → the loss.
        offsets: (n, S), edits in StyleSpace.
        held_out: (N, 3, 256, 256), for the report.
    """

    generator: Generator
    encoder: Encoder4Editing
    draw_photos: Callable[[int], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    offsets: Tensor
    held_out: Tensor

    def freeze(self, setup: Setup) -> None:
        """Move the networks to the device, for evaluation."""
        for network in (self.generator, self.encoder):
            network.to(setup.device).float().eval().requires_grad_(False)
        self.generator.set_upsampling("folded" if setup.on_gpu else "transposed")


def build_inverter(generator: Generator, tiny: bool) -> Inverter:
    """Build an inverter that returns the generator's own features until it is trained."""
    widths, depths, units = (
        (TINY_WIDTHS, TINY_DEPTHS, TINY_UNITS) if tiny else (WIDTHS, DEPTHS, UNITS)
    )
    channels = generator.channels[RESOLUTION]
    inverter = Inverter(0, widths, depths, channels, units)
    inverter.fuser.set_weighted_sum(0.0, 1.0)
    return inverter


def build_editor(generator: Generator, tiny: bool) -> FeatureFuser:
    """Build an editor that adds the change of the generator's features until it is trained."""
    editor = FeatureFuser(generator.channels[RESOLUTION], TINY_UNITS if tiny else UNITS)
    editor.set_weighted_sum(1.0, -1.0)
    return editor


def train_inverter(setup: Setup, data: FeatureData) -> None:
    """Run the stage `inverter`; it continues from INVERTER_FILE."""
    torch.manual_seed(SEED)
    budget = setup.budget("inverter")
    data.freeze(setup)
    generator = data.generator
    inverter = build_inverter(generator, setup.tiny)
    load_weights(inverter, setup.out / INVERTER_FILE)
    inverter.to(setup.device, memory_format=_layout(setup)).train()
    optimizer = torch.optim.AdamW(inverter.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    batch = max(2, setup.batch // BATCH_SHARE)

    def compute_loss(photos: Tensor, w_plus: Tensor) -> Tensor:
        styles = generator.affine(w_plus)
        features, synthesized = _invert(setup, data, inverter, photos, styles)
        images = generator.synthesis(styles, setup.dtype, features)
        distance = data.distance(images, resize(photos, generator.resolution))
        change = (features.float() - synthesized).square().mean() / synthesized.square().mean()
        return distance + FEATURES * change

    compute_loss = budget.compile(compute_loss)
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.05)
        photos = data.draw_photos(batch)
        with torch.no_grad():
            w_plus = data.encoder(photos)
        _descend(optimizer, inverter, loss := compute_loss(photos, w_plus))
        if step % 100 == 0:
            budget.log(f"inverter loss {loss.item():.4f}")
    save_weights(inverter.eval(), setup.out / INVERTER_FILE)
    budget.save()
    report_inversion(setup, data, inverter)


def train_editor(setup: Setup, data: FeatureData) -> None:
    """Run the stage `features`; it continues from EDITOR_FILE."""
    torch.manual_seed(SEED + 1)
    budget = setup.budget("features")
    data.freeze(setup)
    generator = data.generator
    inverter = load_inverter(setup, generator)
    editor = build_editor(generator, setup.tiny)
    load_weights(editor, setup.out / EDITOR_FILE)
    editor.to(setup.device, memory_format=_layout(setup)).train()
    optimizer = torch.optim.AdamW(editor.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    count = max(1, setup.batch // BATCH_SHARE // 2)

    def compute_loss(
        features: Tensor,
        w_plus: Tensor,
        offsets: Tensor,
        photos: Tensor,
        after: Tensor,
        region: Tensor,
    ) -> Tensor:
        images = edit(setup, data, editor, features, w_plus, offsets)
        _, edited, _ = images.detach().split(count)
        kept = torch.lerp(photos, edited, region)  # the photo where nothing changes
        return data.distance(images, torch.cat([photos, kept, after]))

    compute_loss = budget.compile(compute_loss)
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.05)
        batch = draw_edits(setup, data, inverter, count)
        _descend(optimizer, editor, loss := compute_loss(*batch))
        if step % 100 == 0:
            budget.log(f"feature editor loss {loss.item():.4f}")
    save_weights(editor.eval(), setup.out / EDITOR_FILE)
    budget.save()
    report_edits(setup, data, inverter, editor)


def load_inverter(setup: Setup, generator: Generator) -> Inverter:
    """Load the trained inverter, frozen."""
    inverter = build_inverter(generator, setup.tiny)
    require_weights(inverter, setup.out / INVERTER_FILE)
    inverter.to(setup.device, memory_format=_layout(setup))
    return inverter.float().eval().requires_grad_(False)


class EditBatch(NamedTuple):
    """Images to edit: photos without an edit, the same photos with one, and generated images.

    Attributes:
        features, w_plus, offsets: of 3 N images: the inverter's, e4e's, and in StyleSpace.
        photos, after: (N, 3, r, r), the photos and what the generated images become.
        region: (N, 1, r, r), 1 where the edit of a photo changes it, 0 elsewhere.
    """

    features: Tensor
    w_plus: Tensor
    offsets: Tensor
    photos: Tensor
    after: Tensor
    region: Tensor


@torch.no_grad()
def draw_edits(setup: Setup, data: FeatureData, inverter: Inverter, count: int) -> EditBatch:
    """Draw photos and edits, and generate the images before and after the edits."""
    generator, encoder = data.generator, data.encoder
    photos, offsets = data.draw_photos(count), draw_offsets(data.offsets, count)
    w_plus = encoder(photos)
    styles = generator.affine(w_plus)
    before, after = (
        generator.synthesis(s, setup.dtype).clamp(-1, 1)
        for s in (styles, add_offsets(generator, styles, offsets))
    )
    generated = resize(before, FACE_SIZE)
    # e4e's latent of the generated image and not its own one, since a user's comes from e4e too.
    latents = torch.cat([w_plus, encoder(generated)])
    faces = torch.cat([photos, generated])
    features, _ = _invert(setup, data, inverter, faces, generator.affine(latents))
    return EditBatch(
        torch.cat([features[:count], features]),
        torch.cat([w_plus, latents]),
        torch.cat([torch.zeros_like(offsets), offsets, offsets]),
        resize(photos, generator.resolution),
        after,
        edited_region(before, after),
    )


def edited_region(before: Tensor, after: Tensor) -> Tensor:
    """Return where images (N, 3, r, r) differ, with a soft margin: (N, 1, r, r) from 0 to 1."""
    changed = ((before - after).abs().amax(1, keepdim=True) > CHANGED).float()
    grown = F.max_pool2d(changed, MARGIN, stride=1, padding=MARGIN // 2)
    return F.avg_pool2d(grown, MARGIN, stride=1, padding=MARGIN // 2)


def add_offsets(generator: Generator, styles: list[Tensor], offsets: Tensor) -> list[Tensor]:
    """Add offsets (N, S) to the styles of all layers."""
    parts = generator.split_styles(offsets)
    return [style + offset for style, offset in zip(styles, parts, strict=True)]


def edit(
    setup: Setup,
    data: FeatureData,
    editor: FeatureFuser,
    features: Tensor,
    w_plus: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Edit photos by their features.

    Args:
        features: (N, C, 64, 64) of the inverter.
        w_plus: (N, L, w_dim) of e4e.
        offsets: (N, S).

    Returns:
        Images (N, 3, r, r).
    """
    generator = data.generator
    with torch.no_grad():
        styles = generator.affine(w_plus)
        edited = add_offsets(generator, styles, offsets)
        unedited = generator.features(styles, RESOLUTION, setup.dtype)
        changed = generator.features(edited, RESOLUTION, setup.dtype)
        features = drop_changed_details(features.float(), unedited.float(), changed.float())
    with setup.autocast():
        result = editor(features, unedited - changed)
    return generator.synthesis(edited, setup.dtype, result)


def _layout(setup: Setup) -> torch.memory_format:
    """Return the memory format; PyTorch 2.13 corrupts memory with few channels last on a CPU."""
    return torch.channels_last if setup.on_gpu else torch.contiguous_format


def _invert(
    setup: Setup, data: FeatureData, inverter: Inverter, faces: Tensor, styles: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the inverter's features of faces, and the generator's own, float32."""
    with torch.no_grad():
        synthesized = data.generator.features(styles, RESOLUTION, setup.dtype)
    with setup.autocast():
        faces = faces.contiguous(memory_format=_layout(setup))
        features = inverter.fuser(inverter.fs_backbone.features(faces), synthesized)
    return features, synthesized.float()


def _descend(optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def report_inversion(setup: Setup, data: FeatureData, inverter: Inverter) -> None:
    """Print the PSNR of held-out photos by latent and by features, and save some."""
    generator, photos = data.generator, data.held_out[:REPORTED]
    styles = generator.affine(data.encoder(photos))
    features, _ = _invert(setup, data, inverter, photos, styles)
    targets = resize(photos, generator.resolution)
    latent = generator.synthesis(styles, setup.dtype)
    ours = generator.synthesis(styles, setup.dtype, features)
    print(f"PSNR by latent: {format_psnr(latent, targets)}", flush=True)
    print(f"PSNR by features: {format_psnr(ours, targets)}", flush=True)
    grid = torch.cat([targets, latent, ours])
    save_grid(grid, len(photos), setup.out / "features_inversion.jpg")


@torch.no_grad()
def report_edits(setup: Setup, data: FeatureData, inverter: Inverter, editor: FeatureFuser) -> None:
    """Print the PSNR of inversions through the editor; save photos, inversions, and edits."""
    generator, photos = data.generator, data.held_out[:REPORTED]
    targets, w_plus = resize(photos, generator.resolution), data.encoder(photos)
    styles = generator.affine(w_plus)
    features, _ = _invert(setup, data, inverter, photos, styles)
    offsets = data.offsets[torch.linspace(0, len(data.offsets) - 1, len(photos)).long()]
    latent = generator.synthesis(add_offsets(generator, styles, offsets), setup.dtype)
    ours, edited = (
        edit(setup, data, editor, features, w_plus, some)
        for some in (torch.zeros_like(offsets), offsets)
    )
    print(f"PSNR by edited features: {format_psnr(ours, targets)}", flush=True)
    grid = torch.cat([targets, ours, latent, edited])
    save_grid(grid, len(photos), setup.out / "features_edits.jpg")
