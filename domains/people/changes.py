"""Images for CLIP's training: crops that satisfy a claim, and changes that the generator draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from domains.people.attributes import TABLE
from domains.people.codes import CODES, add_scene
from domains.people.crops import Crops
from domains.people.models import load_generator, load_scene_encoder
from domains.training.augmentations import augment_lightly
from domains.training.contrastive import draw_label_changes, matches
from domains.training.images import resize
from domains.training.setup import Setup
from styleclip_contract.wire import FACE_SIZE

Generate = Callable[[Tensor, Tensor], Tensor]
"""Amplitudes (N, L, values) and scenes (N, FREE) → images (N, 3, r, r)."""
PARTIAL = 0.5  # share of the changes


class Changes:
    """Draws what CLIP learns from.

    Args:
        compile: compiles the generator.
    """

    def __init__(self, setup: Setup, crops: Crops, compile: Callable[[Generate], Generate]) -> None:
        self.crops = crops
        generator = load_generator(setup).to(setup.device).eval().requires_grad_(False)
        generator.set_upsampling("folded")
        self.num_latents = generator.num_latents
        encoder = load_scene_encoder(setup.out, crops.scenes.shape[1]).to(setup.device)
        self.scene_encoder = encoder.eval().requires_grad_(False)
        u = CODES.basis().to(setup.device)

        def generate(amplitudes: Tensor, scenes: Tensor) -> Tensor:
            w_plus = add_scene(amplitudes @ u, scenes)
            return generator.synthesis(generator.affine(w_plus), setup.dtype)

        self._generate = compile(generate)

    def draw_images(self, claims: Tensor) -> tuple[Tensor, Tensor]:
        """Draw crops that satisfy claims (N, values), any where none does, and their labels."""
        fitting = matches(TABLE, self.crops.labels, claims).T
        index = torch.multinomial(fitting + 1e-9, 1)[:, 0]
        return augment_lightly(self.crops.images(index)), self.crops.labels[index]

    def draw(self, attribute: Tensor, allowed: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Draw images before and after a change of an attribute, see `DrawChanges`."""
        before, after, scenes = self._draw_amplitudes(attribute, allowed, source)
        return self._draw_pair(before, after, scenes)

    def draw_partial(
        self, attribute: Tensor, allowed: Tensor, source: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw images before and after a change, some of them partial."""
        before, after, scenes = self._draw_amplitudes(attribute, allowed, source)
        return self._draw_pair(*make_partial(before, after), scenes)

    def _draw_amplitudes(
        self, attribute: Tensor, allowed: Tensor, source: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        index = self.crops.draw(len(attribute))
        labels = self.crops.complete_labels(index)
        before, after = (
            TABLE.one_hot(some)[:, None].expand(-1, self.num_latents, -1)
            for some in draw_label_changes(TABLE, labels, attribute, allowed, source)
        )
        return before, after, self.scene_encoder(self.crops.scenes[index])

    def _draw_pair(self, before: Tensor, after: Tensor, scenes: Tensor) -> tuple[Tensor, Tensor]:
        images = self._generate(torch.cat([before, after]), torch.cat([scenes, scenes]))
        images = resize(images, FACE_SIZE)  # those of a dry run are smaller
        first, second = images.float().chunk(2)
        return augment_lightly(first), augment_lightly(second)


def make_partial(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Change PARTIAL of the amplitudes (N, L, values) in some layers only, by other amounts.

    The new value begins between -1 and 0 and ends at 0.6 to 1.6; the old one loses a part.
    """
    n, layers, _ = before.shape
    device = before.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, device=device) * (high - low) + low

    new, old = (after - before).clamp(min=0), (before - after).clamp(min=0)
    chosen = torch.rand(n, layers, 1, device=device) < uniform(0, 1)
    one = torch.randint(layers, (n, 1, 1), device=device)
    chosen |= torch.arange(layers, device=device)[None, :, None] == one
    start = before - chosen * uniform(0, 1) * new
    end = before + chosen * (uniform(0.6, 1.6) * new - uniform(0, 1) * old)
    partial = torch.rand(n, 1, 1, device=device) < PARTIAL
    return torch.where(partial, start, before), torch.where(partial, end, after)
