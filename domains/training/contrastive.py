"""Training of CLIP: a small ViT and a small text transformer on (image, caption) pairs.

Three losses. Contrastive (Radford et al. 2021, section 2.3) with several positives: "a bald face"
matches every bald face of the batch. Directional: the change between two images that differ in one
attribute and the change between the texts that name it point in the same direction, those of
different attributes at right angles; StyleCLIP's global directions rely on that. Labels: each value
has a fixed random direction of the embedding, which both towers learn to recognize; it teaches them
all attributes of an image at once, where a caption names two or three.
"""

from __future__ import annotations

from collections.abc import Callable

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
    device, batch = setup.device, 4 * setup.batch
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
        with torch.no_grad():
            chosen = torch.randint(len(data.captions), (batch,), device=device)
            images, labels = draw_images(data.claims[chosen])
            match = matches(table, labels, data.claims[chosen])
            pair = torch.randint(len(data.target), (pairs,), device=device)
            attribute, allowed = data.attribute[pair], data.allowed[pair]
            before, after = draw_changes(attribute, allowed, data.source[pair])
            inputs = torch.cat([preprocess(x) for x in (images, before, after)])
            texts = torch.cat([data.captions[chosen], data.neutral[pair], data.target[pair]])
            texts = drop_words(texts)
        with autocast:
            image_features, text_features = encode(inputs, texts)
        image_before, image_after = image_features[batch:].chunk(2)
        text_before, text_after = text_features[batch:].chunk(2)
        contrastive = contrastive_loss(
            image_features[:batch], text_features[:batch], clip.logit_scale.float(), match
        )
        directional = directional_loss(
            unit(image_after - image_before), unit(text_after - text_before), attribute, allowed
        )
        recognition = classification_loss(
            LABEL_SCALE * image_features[:batch] @ values.T, labels, table
        ) + claims_loss(LABEL_SCALE * text_features[:batch] @ values.T, data.claims[chosen], table)
        optimizer.zero_grad(set_to_none=True)
        (contrastive + directional + LABELS * recognition).backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(
                f"contrastive {contrastive.item():.3f} directional {directional.item():.3f} "
                f"labels {recognition.item():.3f}"
            )
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
    clip: CLIP, table: AttributeTable, data: CaptionData, images: Tensor, labels: Tensor
) -> str:
    """Return how often captions of one value find it in images (N, 3, r, r), by attribute."""
    features = torch.cat([unit(clip.encode_image(preprocess(x))) for x in images.split(64)])
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
    clip: CLIP, data: CaptionData, draw_changes: DrawChanges, count: int = 1000
) -> str:
    """Return the mean cosine of image and text directions, of the same and of other attributes."""
    pair = torch.arange(count, device=data.claims.device) % len(data.target)
    attribute = data.attribute[pair]
    before, after = draw_changes(attribute, data.allowed[pair], data.source[pair])
    encoded = [
        torch.cat([unit(clip.encode_image(preprocess(x))) for x in images.split(64)])
        for images in (before, after)
    ]
    texts = [unit(clip.encode_text(x[pair].long())) for x in (data.neutral, data.target)]
    cosines = unit(encoded[1] - encoded[0]) @ unit(texts[1] - texts[0]).T
    other_attribute = attribute[:, None] != attribute[None]
    return (
        f"directions: same change {cosines.diagonal().mean():.3f}, "
        f"other attribute {cosines[other_attribute].abs().mean():.3f}"
    )


def unit(x: Tensor) -> Tensor:
    """Scale vectors to length 1, in float32."""
    return F.normalize(x.float(), dim=-1)
