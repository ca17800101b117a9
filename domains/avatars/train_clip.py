"""Train the avatars' CLIP: a small ViT and a small text transformer on (image, caption) pairs.

Two losses. Contrastive (Radford et al. 2021, section 2.3) with several positives: "a bald face"
matches every bald avatar of the batch. Directional: the change between two images that differ in
one attribute and the change between the texts that name it point in the same direction, those of
different attributes at right angles; StyleCLIP's global directions rely on that.
Images are renders, and once the generator is trained, its images of perturbed codes too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.attributes import ATTRIBUTES, OFFSETS, SIZES
from domains.avatars.augmentations import augment_lightly
from domains.avatars.caption_data import CaptionData, drop_words
from domains.avatars.captions import ALL_VALUES
from domains.avatars.latent_codes import one_hot, perturb_amplitudes, value_basis
from domains.avatars.models import (
    CLIP_RESOLUTION,
    build_clip,
    downsample,
    load_generator,
    preprocess,
)
from domains.avatars.renders import Composer, sample_labels
from domains.avatars.training import SEED, Ema, Setup, load_weights, save_weights, set_learning_rate
from styleclip_networks.clip import CLIP

LEARNING_RATE = 1e-3


def run(setup: Setup) -> None:
    """Run the stage `clip`; it continues from `clip.pt`."""
    torch.manual_seed(SEED)
    device, batch = setup.device, 4 * setup.batch
    budget = setup.budget("clip")
    rng = torch.Generator(device).manual_seed(SEED)
    data = CaptionData(setup.captions, device)
    clip = build_clip(data.vocabulary_size).to(device)
    resumed = load_weights(clip, setup.out / "clip.pt")
    learning_rate = LEARNING_RATE * (0.5 if resumed else 1.0)
    composer = Composer(setup.layers, device, CLIP_RESOLUTION)
    draw_images = _image_source(setup, composer)
    ema = Ema(clip, 0.998)
    optimizer = torch.optim.AdamW(
        clip.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    autocast = setup.autocast()

    def encode(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return _unit(clip.encode_image(images)), _unit(clip.encode_text(texts))

    if setup.on_gpu:
        encode = torch.compile(encode)  # type: ignore[assignment]

    for step in budget:
        set_learning_rate(optimizer, learning_rate, budget.fraction, warmup=0.05)
        with torch.no_grad():
            chosen = torch.randint(len(data.captions), (batch,), device=device)
            claims = data.claims[chosen]
            labels = draw_labels_within(claims, rng)
            bits = label_bits(labels)
            match = ((bits[:, None] & claims[None]) == bits[:, None]).float()
            pair = torch.randint(len(data.target), (batch // 2,), device=device)
            attribute, allowed = data.attribute[pair], data.allowed[pair]
            before, after = draw_changes(attribute, allowed, data.source[pair])
            images = torch.cat([preprocess(draw_images(x)) for x in (labels, before, after)])
            texts = torch.cat([data.captions[chosen], data.neutral[pair], data.target[pair]])
            texts = drop_words(texts)
        with autocast:
            image_features, text_features = encode(images, texts)
        image_before, image_after = image_features[batch:].chunk(2)
        text_before, text_after = text_features[batch:].chunk(2)
        contrastive = contrastive_loss(
            image_features[:batch], text_features[:batch], clip.logit_scale.float(), match
        )
        directional = directional_loss(
            _unit(image_after - image_before), _unit(text_after - text_before), attribute, allowed
        )
        optimizer.zero_grad(set_to_none=True)
        (contrastive + directional).backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(f"contrastive {contrastive.item():.3f} directional {directional.item():.3f}")
    ema.copy_to(clip)
    save_weights(clip, setup.out / "clip.pt")
    report(clip, composer, data)


def _image_source(setup: Setup, composer: Composer) -> Callable[[Tensor], Tensor]:
    """Return a function from labels (N, attributes) to augmented images (N, 3, 128, 128).

    Once the generator is trained, it draws an eighth of them from perturbed codes.
    """
    generator = load_generator(setup.out).to(setup.device).eval().requires_grad_(False)
    generator.set_upsampling("folded")
    generator_is_trained = (setup.out / "generator.pt").exists()
    u = value_basis().to(setup.device)

    def generate(p: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(p @ u), setup.dtype)

    if setup.on_gpu:
        generate = torch.compile(generate)  # type: ignore[assignment]

    def draw_images(labels: Tensor) -> Tensor:
        images = composer(labels)
        if generator_is_trained:
            n = len(labels) // 8
            p, _, blend = perturb_amplitudes(labels[:n], generator.num_latents, 1.0)
            p[blend > 0] = one_hot(labels[:n])[blend > 0][:, None]
            images[:n] = downsample(generate(p))
        return augment_lightly(images)

    return draw_images


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, match: Tensor) -> Tensor:
    """Compute InfoNCE in both directions with several positives.

    Args:
        images, texts: float32 (N, D), unit features.
        logit_scale: logarithm of the inverse temperature.
        match: float32 (N, N), 1 where the caption (column) is true of the image (row).
    """
    logits = logit_scale.exp().clamp(max=100) * images @ texts.T
    rows = match / match.sum(1, keepdim=True)
    columns = match / match.sum(0, keepdim=True)
    loss = -(rows * logits.log_softmax(1)).sum(1).mean()
    return (loss - (columns * logits.log_softmax(0)).sum(0).mean()) / 2


def directional_loss(images: Tensor, texts: Tensor, attribute: Tensor, allowed: Tensor) -> Tensor:
    """Compare image directions with text directions, float32 (N, D), unit.

    The cosine is pulled to 1 for the same change and to 0 between attributes; that of different
    values of one attribute is free. A weak classification term separates all changes of the batch.
    """
    cosines = images @ texts.T
    same_attribute = attribute[:, None] == attribute[None]
    same_change = same_attribute & (allowed[:, None] == allowed[None])
    pull = (1 - cosines.diagonal()).mean()
    push = cosines.square()[~same_attribute].mean()
    diagonal = torch.eye(len(cosines), device=cosines.device).bool()
    logits = (cosines * 20).masked_fill(same_change & ~diagonal, -9)
    index = torch.arange(len(cosines), device=cosines.device)
    separation = F.cross_entropy(logits, index) + F.cross_entropy(logits.T, index)
    return pull + 4 * push + 0.1 * separation


def label_bits(labels: Tensor) -> Tensor:
    """Convert labels (N, attributes) to int64 masks (N,) with one bit for each attribute."""
    shifts = torch.tensor(OFFSETS, device=labels.device)
    return (torch.ones_like(labels) << (labels + shifts)).sum(1)


def draw_labels_within(claims: Tensor, rng: torch.Generator) -> Tensor:
    """Draw labels (N, attributes) that satisfy the claims, int64 masks (N,)."""
    columns = []
    for a, attribute in enumerate(ATTRIBUTES):
        weights = torch.tensor([value.weight for value in attribute.values], device=claims.device)
        bits = torch.arange(SIZES[a], device=claims.device) + OFFSETS[a]
        allowed = (claims[:, None] >> bits) & 1
        columns.append(torch.multinomial(weights * allowed, 1)[:, 0])
    return torch.stack(columns, 1)


def draw_changes(attribute: Tensor, allowed: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Draw labels before and after a change of one attribute.

    Args:
        attribute: int64 (N,), the attribute that changes.
        allowed: int64 (N,), mask of the attribute's values after the change.
        source: int64 (N,), its value before the change; -1 for any value outside `allowed`.

    Returns:
        Labels before and after, int64 (N, attributes) each.
    """
    device = attribute.device
    seed = int(torch.randint(2**31, ()))
    before = sample_labels(len(attribute), torch.Generator().manual_seed(seed), device)
    after = before.clone()
    for a, size in enumerate(SIZES):
        changes = attribute == a
        bits = (allowed[:, None] >> torch.arange(size, device=device)) & 1
        new = torch.multinomial(bits.float() + 1e-9, 1)[:, 0]
        old = torch.multinomial((1 - bits).float() + 1e-9, 1)[:, 0]
        old = torch.where(source >= 0, source, old)
        before[:, a] = torch.where(changes, old, before[:, a])
        after[:, a] = torch.where(changes, new, after[:, a])
    return before, after


@torch.no_grad()
def report(clip: CLIP, composer: Composer, data: CaptionData) -> None:
    """Print zero-shot accuracy by attribute, and cosines of directions, on new renders."""
    device = data.claims.device
    labels = sample_labels(512, torch.Generator().manual_seed(99), device)
    images = _unit(clip.encode_image(preprocess(composer(labels))))
    claims = data.claims[:4000]
    texts = _unit(clip.encode_text(data.captions[:4000].long()))
    accuracies = []
    for a, attribute in enumerate(ATTRIBUTES):
        scores = []
        for v in range(SIZES[a]):
            mask = ALL_VALUES & ~(((1 << SIZES[a]) - 1) << OFFSETS[a]) | 1 << (OFFSETS[a] + v)
            captions = texts[claims == mask]
            if len(captions) == 0:
                scores.append(torch.full((512,), -1.0, device=device))
            else:
                scores.append(images @ _unit(captions.mean(0)))
        accuracy = (torch.stack(scores, 1).argmax(1) == labels[:, a]).float().mean()
        accuracies.append(f"{attribute.name} {accuracy:.3f}")
    print("zero-shot:", ", ".join(accuracies), flush=True)
    pair = torch.arange(1000, device=device) % len(data.target)
    attribute = data.attribute[pair]
    before, after = draw_changes(attribute, data.allowed[pair], data.source[pair])
    image_directions = _unit(
        _unit(clip.encode_image(preprocess(composer(after))))
        - _unit(clip.encode_image(preprocess(composer(before))))
    )
    text_directions = _unit(
        _unit(clip.encode_text(data.target[pair].long()))
        - _unit(clip.encode_text(data.neutral[pair].long()))
    )
    cosines = image_directions @ text_directions.T
    other_attribute = attribute[:, None] != attribute[None]
    print(
        f"directions: same change {cosines.diagonal().mean():.3f}, "
        f"other attribute {cosines[other_attribute].abs().mean():.3f}",
        flush=True,
    )


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
