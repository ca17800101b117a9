"""Training of CLIP: an image tower and a small text transformer on (image, caption) pairs.

Three losses. Contrastive (Radford et al. 2021, section 2.3) with several positives: "a bald face"
matches every bald face of the batch. Directional: the change between two images that differ in one
attribute and the change between the texts that name it point in the same direction, those of
different attributes at right angles; StyleCLIP's global directions rely on that. Labels: each value
has a fixed random direction of the embedding, which both towers learn to recognize; it teaches them
all attributes of an image at once, where a caption names two or three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.training.attributes import AttributeTable
from domains.training.caption_data import CaptionData, drop_words
from domains.training.checkpoints import Ema, load_weights, save_weights
from domains.training.classifier import classification_loss
from domains.training.networks import build_clip, preprocess
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_networks.clip import CLIP

LEARNING_RATE = 1e-3
LABELS = 0.1  # weight of the loss of labels
LABEL_SCALE = 30.0  # inverse temperature of its logits
DrawImages = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Claims, bool (N, values) → images (N, 3, r, r) that satisfy them, and their labels."""
DrawChanges = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Attribute (N,), allowed (N, values), source (N,), as of `CaptionData` → images before and after a
change of that attribute, (N, 3, r, r) each."""
EncodeImage = Callable[[Tensor], Tensor]
"""Images (N, 3, r, r) in [-1, 1] → features (N, D)."""


class Batch(NamedTuple):
    """What a step learns from: N images with captions, and M text pairs.

    Attributes:
        images: (N + 2 M, 3, r, r): those of the captions, before a change, and after it.
        texts: int64 (N + 2 M, LENGTH), the captions, the neutral and the target texts.
        labels: (N, attributes), of the images; claims: bool (N, values), of the captions.
        match: float32 (N, N), see `matches`.
        attribute: (M,); allowed: bool (M, values), as of `CaptionData`.
    """

    images: Tensor
    texts: Tensor
    labels: Tensor
    claims: Tensor
    match: Tensor
    attribute: Tensor
    allowed: Tensor


@torch.no_grad()
def draw_batch(
    table: AttributeTable,
    data: CaptionData,
    draw_images: DrawImages,
    draw_changes: DrawChanges,
    captions: int,
    pairs: int,
) -> Batch:
    """Draw captions and text pairs, and images for them."""
    device = data.claims.device
    chosen = torch.randint(len(data.captions), (captions,), device=device)
    claims = data.claims[chosen]
    images, labels = draw_images(claims)
    pair = torch.randint(len(data.target), (pairs,), device=device)
    attribute, allowed = data.attribute[pair], data.allowed[pair]
    before, after = draw_changes(attribute, allowed, data.source[pair])
    texts = torch.cat([data.captions[chosen], data.neutral[pair], data.target[pair]])
    return Batch(
        torch.cat([images, before, after]),
        drop_words(texts),
        labels,
        claims,
        matches(table, labels, claims),
        attribute,
        allowed,
    )


def compute_losses(
    batch: Batch,
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    values: Tensor,
    table: AttributeTable,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the contrastive, the directional and the weighted loss of labels.

    Args:
        images, texts: float32 (N + 2 M, D), unit features of the batch.
        logit_scale: logarithm of the inverse temperature.
        values: (values, D) of `value_directions`.
    """
    n = len(batch.labels)
    image_before, image_after = images[n:].chunk(2)
    text_before, text_after = texts[n:].chunk(2)
    contrastive = contrastive_loss(images[:n], texts[:n], logit_scale, batch.match)
    directional = directional_loss(
        unit(image_after - image_before),
        unit(text_after - text_before),
        batch.attribute,
        batch.allowed,
    )
    recognition = classification_loss(LABEL_SCALE * images[:n] @ values.T, batch.labels, table)
    recognition = recognition + claims_loss(LABEL_SCALE * texts[:n] @ values.T, batch.claims, table)
    return contrastive, directional, LABELS * recognition


def format_losses(losses: tuple[Tensor, Tensor, Tensor]) -> str:
    """Name the losses of `compute_losses`."""
    names = ("contrastive", "directional", "labels")
    return " ".join(f"{n} {x.item():.3f}" for n, x in zip(names, losses, strict=True))


def train_clip(
    setup: Setup,
    table: AttributeTable,
    data: CaptionData,
    draw_images: DrawImages,
    draw_changes: DrawChanges,
    pairs: int,
) -> CLIP:
    """Run a stage `clip`; it continues from `clip.pt`.

    Args:
        pairs: text pairs in a step, beside four times `setup.batch` captions.
    """
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("clip")
    clip = build_clip(data.vocabulary_size).to(device)
    load_weights(clip, setup.out / "clip.pt")
    ema = Ema(clip, 0.998)
    optimizer = torch.optim.AdamW(
        clip.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    autocast = setup.autocast()
    values = value_directions(table, clip.text_projection.shape[1]).to(device)

    def encode(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return unit(clip.encode_image(images)), unit(clip.encode_text(texts))

    encode = budget.compile(encode)

    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.05)
        batch = draw_batch(table, data, draw_images, draw_changes, 4 * setup.batch, pairs)
        with autocast:
            images, texts = encode(preprocess(batch.images), batch.texts)
        scale = clip.logit_scale.float()
        losses = compute_losses(batch, images, texts, scale, values, table)
        optimizer.zero_grad(set_to_none=True)
        sum(losses, torch.zeros((), device=device)).backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(format_losses(losses))
    ema.copy_to(clip)
    save_weights(clip, setup.out / "clip.pt")
    budget.save()
    return clip


def matches(table: AttributeTable, labels: Tensor, claims: Tensor) -> Tensor:
    """Return which claims (M, values) hold for labels (N, attributes): float32 (N, M), 0 or 1.

    A caption that mentions an attribute does not hold where the label is negative: not visible.
    """
    denied = table.one_hot(labels) @ (~claims).float().T
    mentioned = torch.stack([~group.all(1) for group in claims.split(table.sizes, 1)], 1)
    unseen = (labels < 0).float() @ mentioned.float().T
    return (denied + unseen < 0.5).float()


def draw_label_changes(
    table: AttributeTable, before: Tensor, attribute: Tensor, allowed: Tensor, source: Tensor
) -> tuple[Tensor, Tensor]:
    """Change one attribute of labels.

    Args:
        before: labels (N, attributes).
        attribute: int64 (N,), the attribute that changes.
        allowed: bool (N, values), the attribute's values after the change.
        source: int64 (N,), its value before the change; -1 for any value outside `allowed`.

    Returns:
        Labels before and after, int64 (N, attributes) each.
    """
    before = before.clone()
    after = before.clone()
    for a, bits in enumerate(allowed.float().split(table.sizes, 1)):
        changes = attribute == a
        new = torch.multinomial(bits + 1e-9, 1)[:, 0]
        old = torch.multinomial((1 - bits) + 1e-9, 1)[:, 0]
        old = torch.where(source >= 0, source, old)
        before[:, a] = torch.where(changes, old, before[:, a])
        after[:, a] = torch.where(changes, new, after[:, a])
    return before, after


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, match: Tensor) -> Tensor:
    """Compute InfoNCE in both directions with several positives.

    Args:
        images, texts: float32 (N, D), unit features.
        logit_scale: logarithm of the inverse temperature.
        match: float32 (N, N), 1 where the caption (column) is true of the image (row); what
            matches nothing takes no part.
    """
    logits = logit_scale.exp().clamp(max=100) * images @ texts.T
    rows = match / match.sum(1, keepdim=True).clamp(min=1)
    columns = match / match.sum(0, keepdim=True).clamp(min=1)
    loss = -(rows * logits.log_softmax(1)).sum(1).mean()
    return (loss - (columns * logits.log_softmax(0)).sum(0).mean()) / 2


def directional_loss(images: Tensor, texts: Tensor, attribute: Tensor, allowed: Tensor) -> Tensor:
    """Compare image directions with text directions, float32 (N, D), unit.

    The cosine is pulled to 1 for the same change and to 0 between attributes; that of different
    values of one attribute is free. A weak classification term separates all changes of the batch.
    """
    cosines = images @ texts.T
    same_attribute = attribute[:, None] == attribute[None]
    same_change = (allowed[:, None] == allowed[None]).all(2)
    pull = (1 - cosines.diagonal()).mean()
    push = (cosines.square() * ~same_attribute).sum() / (~same_attribute).sum().clamp(min=1)
    diagonal = torch.eye(len(cosines), device=cosines.device).bool()
    logits = (cosines * 20).masked_fill(same_change & ~diagonal, -9)
    index = torch.arange(len(cosines), device=cosines.device)
    separation = F.cross_entropy(logits, index) + F.cross_entropy(logits.T, index)
    return pull + 4 * push + 0.1 * separation


def value_directions(table: AttributeTable, size: int) -> Tensor:
    """Return a fixed direction for each value, orthonormal rows float32 (num_values, size)."""
    generator = torch.Generator().manual_seed(11)
    return torch.linalg.qr(torch.randn(size, table.num_values, generator=generator))[0].T


def claims_loss(logits: Tensor, claims: Tensor, table: AttributeTable) -> Tensor:
    """Compute how far texts are from naming what they claim, summed over the attributes.

    Args:
        logits: float32 (N, values).
        claims: bool (N, values); an attribute of which all values are claimed is not mentioned,
            and its logits should be equal.
    """
    losses = []
    parts = zip(logits.split(table.sizes, 1), claims.split(table.sizes, 1), strict=True)
    for scores, allowed in parts:
        shares = allowed / allowed.sum(1, keepdim=True)
        losses.append(-(shares * scores.log_softmax(1)).sum(1).mean())
    return torch.stack(losses).sum()


@torch.no_grad()
def zero_shot_accuracy(
    clip: CLIP,
    encode_image: EncodeImage,
    table: AttributeTable,
    data: CaptionData,
    images: Tensor,
    labels: Tensor,
) -> str:
    """Return how often captions of one value find it in images (N, 3, r, r), by attribute."""
    features = torch.cat([unit(encode_image(x)) for x in images.split(64)])
    claims = data.claims[:4000]
    texts = torch.cat([unit(clip.encode_text(x.long())) for x in data.captions[:4000].split(500)])
    accuracies = []
    for a, (offset, size) in enumerate(zip(table.offsets, table.sizes, strict=True)):
        scores = []
        for value in range(offset, offset + size):
            only = torch.ones_like(claims[0])
            only[offset : offset + size] = False
            only[value] = True
            captions = texts[(claims == only).all(1)]
            score = features @ unit(captions.mean(0)) if len(captions) else features[:, 0] * 0 - 1
            scores.append(score)
        known = labels[:, a] >= 0
        accuracy = (torch.stack(scores, 1).argmax(1) == labels[:, a])[known].float().mean()
        accuracies.append(f"{table.names[a]} {accuracy:.3f}")
    return "zero-shot: " + ", ".join(accuracies)


@torch.no_grad()
def direction_cosines(
    clip: CLIP,
    encode_image: EncodeImage,
    data: CaptionData,
    draw_changes: DrawChanges,
    count: int = 1000,
) -> str:
    """Return the mean cosine of image and text directions, of the same and of other attributes."""
    pair = torch.arange(count, device=data.claims.device) % len(data.target)
    attribute = data.attribute[pair]
    before, after = draw_changes(attribute, data.allowed[pair], data.source[pair])
    encoded = [
        torch.cat([unit(encode_image(x)) for x in images.split(64)]) for images in (before, after)
    ]
    texts = [unit(clip.encode_text(x[pair].long())) for x in (data.neutral, data.target)]
    cosines = unit(encoded[1] - encoded[0]) @ unit(texts[1] - texts[0]).T
    other_attribute = attribute[:, None] != attribute[None]
    return (
        f"directions: same change {cosines.diagonal().mean():.3f}, "
        f"other attribute {cosines[other_attribute].abs().mean():.3f}"
    )


def encode_with(clip: CLIP) -> EncodeImage:
    """Return the image tower of CLIP as it reads images (N, 3, r, r) in [-1, 1]."""
    return lambda images: clip.encode_image(preprocess(images))


def unit(x: Tensor) -> Tensor:
    """Scale vectors to length 1, in float32."""
    return F.normalize(x.float(), dim=-1)
