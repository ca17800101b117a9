"""Trains the avatars' CLIP: a small ViT and a small text transformer on (picture, caption) pairs.

Two losses. Contrastive (Radford et al. 2021, section 2.3) with several positives: a caption of
"a bald face" is right for every bald avatar of the batch, and counts so. Directional: a picture
pair that differs in one attribute and the text pair that names the change shall point the same
way, and pairs of other attributes at right angles; global directions rest on exactly that.
Pictures are renders, and pictures of our generator with disturbed codes once it exists.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from attributes import ATTRIBUTES, OFFSETS, SIZES
from captions import CLAIMS, PHRASES, full_mask, neutral, random_caption, sentence
from codes import basis, noisy_amplitudes, one_hot
from renders import Composer, sample_labels
from torch import Tensor
from torch.nn import functional as F
from train_generator import load_generator
from training import Budget, Ema, cosine, load, save

from styleclip_networks.clip import CLIP, normalise

NUM_CAPTIONS = 240_000
NUM_PAIRS = 120_000
CONTEXT = 77
LENGTH = 32  # tokens kept in training; longer captions are drawn again
PICTURE = 128  # pixels that the image tower sees
IMAGE_TOWER = {
    "image_resolution": PICTURE,
    "vision_patch_size": 8,
    "vision_width": 256,
    "vision_layers": 6,
    "vision_heads": 4,
}
TEXT_TOWER = {
    "transformer_width": 256,
    "transformer_layers": 4,
    "transformer_heads": 4,
    "embed_dim": 256,
    "context_length": CONTEXT,
}
UNKNOWN = 1  # local id of every token that no caption holds; 0 is the padding


def build_captions(path: Path) -> None:
    """Draws and tokenises the captions once (npz): tokens in a local vocabulary, and claims."""
    from styleclip_server.pipeline.prompt_templates import TEMPLATES
    from styleclip_server.pipeline.tokenizer import tokenize

    rng = random.Random(1)

    def wrapped(texts: list[str]) -> list[str]:
        template = rng.choice(TEMPLATES) if rng.random() < 0.6 else "{}"
        return [template.format(t) for t in texts]

    captions, masks = [], []
    while len(captions) < NUM_CAPTIONS:
        text, mask = random_caption(rng)
        captions += wrapped([text])
        masks.append(mask)
    # Pairs: a neutral text, or one that names another value of the attribute, and the target.
    neutrals, targets, attributes, sources, allowed = [], [], [], [], []
    claims = list(CLAIMS)
    for _ in range(NUM_PAIRS):
        claim = rng.choice(claims)
        noun = rng.choice(("face", "person", "avatar", "character", "man", "woman", "head"))
        target = sentence([rng.choice(CLAIMS[claim])], rng, noun)
        a = claim[0]
        source = -1
        before = rng.choice((noun, f"a {noun}", f"a {noun}", neutral(rng)))
        if rng.random() < 0.3:
            source = rng.choice([v for v in range(SIZES[a]) if v not in claim[1]])
            names = [p for p in PHRASES if p.attribute == a and p.allowed == (source,)]
            before = sentence([rng.choice(names)], rng, noun)
        b, t = wrapped([before, target])
        neutrals.append(b)
        targets.append(t)
        attributes.append(a)
        sources.append(source)
        allowed.append(sum(1 << v for v in claim[1]))
    tokens = np.stack([tokenize([t])[0] for t in captions + neutrals + targets])
    keep = (tokens[:, LENGTH:] == 0).all(1)
    vocabulary = np.unique(np.concatenate([[0], tokens[keep].ravel()]))
    local = np.full(49408, UNKNOWN, np.int32)
    local[vocabulary] = np.where(vocabulary == 0, 0, np.arange(len(vocabulary)) + 1)
    n, m = NUM_CAPTIONS, NUM_CAPTIONS + NUM_PAIRS
    both = keep[n:m] & keep[m:]
    short = local[tokens[:, :LENGTH]].astype(np.int16)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary,
        vocabulary=vocabulary,
        captions=short[:n][keep[:n]],
        claims=np.array(masks, np.int64)[keep[:n]],
        neutral=short[n:m][both],
        target=short[m:][both],
        attribute=np.array(attributes, np.int8)[both],
        source=np.array(sources, np.int8)[both],
        allowed=np.array(allowed, np.int64)[both],
    )
    temporary.rename(path)


def new_clip(local_vocabulary: int) -> CLIP:
    """An untrained CLIP over the local vocabulary (padding, unknown, then the known tokens)."""
    return CLIP(vocab_size=local_vocabulary, **IMAGE_TOWER, **TEXT_TOWER)


def bits_of(labels: Tensor) -> Tensor:
    """labels (N, attributes) → int64 masks with one bit an attribute."""
    shifts = torch.tensor(OFFSETS, device=labels.device)
    return (torch.ones_like(labels) << (labels + shifts)).sum(1)


def labels_within(claims: Tensor, rng: torch.Generator) -> Tensor:
    """Draws labels (N, attributes) that satisfy the claims (N,) int64."""
    columns = []
    for a, attribute in enumerate(ATTRIBUTES):
        weights = torch.tensor([v.weight for v in attribute.values], device=claims.device)
        bits = torch.arange(SIZES[a], device=claims.device) + OFFSETS[a]
        allowed = (claims[:, None] >> bits) & 1
        columns.append(torch.multinomial(weights * allowed, 1)[:, 0])
    return torch.stack(columns, 1)


def prepare(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, r, r) in [-1, 1] → the image tower's input: area-averaged to 128 px, with
    CLIP's mean and deviation."""
    return normalise((shrink(pictures.clamp(-1, 1)) + 1) / 2)


def shrink(pictures: Tensor) -> Tensor:
    """Area average to the size that the image tower sees."""
    if pictures.shape[-1] == PICTURE:
        return pictures
    return F.interpolate(pictures, size=(PICTURE, PICTURE), mode="area")


def disturb(pictures: Tensor) -> Tensor:
    """A little noise and brightness, so that the tower does not hang on exact pixels."""
    n, device = len(pictures), pictures.device
    pictures = pictures + torch.randn_like(pictures) * 0.04 * torch.rand(n, 1, 1, 1, device=device)
    gain = 1 + 0.1 * (torch.rand(n, 1, 1, 1, device=device) - 0.5)
    return pictures * gain


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)


class Data:
    """The captions of `build_captions` on a device."""

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path) as data:
            arrays = {k: torch.from_numpy(data[k]) for k in data.files}
        self.vocabulary = arrays.pop("vocabulary")
        self.size = len(self.vocabulary) + 2
        arrays = {k: v.to(device) for k, v in arrays.items()}
        self.captions, self.claims = arrays["captions"], arrays["claims"]
        self.neutral, self.target = arrays["neutral"], arrays["target"]
        self.attribute, self.source = arrays["attribute"].long(), arrays["source"].long()
        self.allowed = arrays["allowed"]

    def texts(self, tokens: Tensor) -> Tensor:
        """int16 (N, LENGTH) → int64, 2 % of the words made unknown."""
        tokens = tokens.long()
        word = (tokens > UNKNOWN) & (tokens < tokens.max())
        word[:, 0] = False
        lost = word & (torch.rand(tokens.shape, device=tokens.device) < 0.02)
        return torch.where(lost, UNKNOWN, tokens)


def contrastive(images: Tensor, texts: Tensor, scale: Tensor, match: Tensor) -> Tensor:
    """InfoNCE both ways; `match` (N, N) tells which caption is true of which picture."""
    logits = scale.exp().clamp(max=100) * images @ texts.T
    rows = match / match.sum(1, keepdim=True)
    columns = match / match.sum(0, keepdim=True)
    loss = -(rows * logits.log_softmax(1)).sum(1).mean()
    return (loss - (columns * logits.log_softmax(0)).sum(0).mean()) / 2


def directional(images: Tensor, texts: Tensor, attribute: Tensor, allowed: Tensor) -> Tensor:
    """Cosines of picture directions and text directions: 1 for the same change, 0 across
    attributes; other values of the same attribute are left to geometry."""
    cosine_ = images @ texts.T
    same = attribute[:, None] == attribute[None]
    equal = same & (allowed[:, None] == allowed[None])
    pull = (1 - cosine_.diagonal()).mean()
    push = cosine_.square()[~same].mean()
    logits = (cosine_ * 20).masked_fill(
        equal & ~torch.eye(len(same), device=same.device).bool(), -9
    )
    index = torch.arange(len(same), device=same.device)
    tell_apart = F.cross_entropy(logits, index) + F.cross_entropy(logits.T, index)
    return pull + 4 * push + 0.1 * tell_apart


def run(data_dir: Path, out: Path, device: torch.device, budget: Budget, batch: int) -> None:
    """The stage `clip`; continues from `out/clip.pt`."""
    torch.manual_seed(budget.seed)
    rng = torch.Generator(device).manual_seed(budget.seed)
    data = Data(data_dir / "captions.npz", device)
    clip = new_clip(data.size).to(device)
    if load(clip, out / "clip.pt"):
        budget.rate = 0.5
    composer = Composer(data_dir / "layers.npz", device, PICTURE)
    generator = load_generator(out).to(device).eval().requires_grad_(False)
    made = (out / "generator.pt").exists()
    generator.upsample_as("folded")
    u = basis().to(device)
    ema = Ema(clip, 0.998)
    rate = 1e-3 * budget.rate
    optimizer = torch.optim.AdamW(clip.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    amp = torch.autocast(device.type, torch.bfloat16, enabled=budget.compile)
    dtype = torch.bfloat16 if budget.compile else torch.float32

    def encode(pictures: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return unit(clip.encode_image(pictures)), unit(clip.encode_text(texts))

    def paint(p: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(p @ u), dtype)

    if budget.compile:
        encode = torch.compile(encode)  # type: ignore[assignment]
        paint = torch.compile(paint)  # type: ignore[assignment]
    pairs = batch // 2

    def pictures_of(labels: Tensor) -> Tensor:
        """Renders, an eighth of them drawn by the generator from disturbed codes."""
        pictures = composer(labels)
        if made:
            n = len(labels) // 8
            p, _, blend = noisy_amplitudes(labels[:n], generator.num_latents, 1.0)
            p[blend > 0] = one_hot(labels[:n])[blend > 0][:, None]
            pictures[:n] = shrink(paint(p))
        return disturb(pictures)

    for step in budget:
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(budget.fraction, warmup=0.05)
        with torch.no_grad():
            chosen = torch.randint(len(data.captions), (batch,), device=device)
            claims = data.claims[chosen]
            labels = labels_within(claims, rng)
            bits = bits_of(labels)
            match = ((bits[:, None] & claims[None]) == bits[:, None]).float()
            pair = torch.randint(len(data.target), (pairs,), device=device)
            attribute, allowed = data.attribute[pair], data.allowed[pair]
            before, after = change(attribute, allowed, data.source[pair], device)
            pictures = torch.cat([prepare(pictures_of(x)) for x in (labels, before, after)])
            texts = torch.cat([data.captions[chosen], data.neutral[pair], data.target[pair]])
            texts = data.texts(texts)
        with amp:
            images, words = encode(pictures, texts)
        image_pairs, text_pairs = images[batch:].chunk(2), words[batch:].chunk(2)
        loss = contrastive(images[:batch], words[:batch], clip.logit_scale.float(), match)
        aligned = directional(
            unit(image_pairs[1] - image_pairs[0]),
            unit(text_pairs[1] - text_pairs[0]),
            attribute,
            allowed,
        )
        optimizer.zero_grad(set_to_none=True)
        (loss + aligned).backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(f"contrastive {loss.item():.3f} directional {aligned.item():.3f}")
    ema.copy_to(clip)
    save(clip, out / "clip.pt")
    report(clip, composer, data, device)


def change(
    attribute: Tensor, allowed: Tensor, source: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Labels before and after a change of one attribute each: from a value outside `allowed`
    (from `source` where that is not -1) to one inside."""
    n = len(attribute)
    before = sample_labels(n, torch.Generator().manual_seed(int(torch.randint(2**31, ()))), device)
    after = before.clone()
    for a, size in enumerate(SIZES):
        mine = attribute == a
        bits = (allowed[:, None] >> torch.arange(size, device=device)) & 1
        new = torch.multinomial(bits.float() + 1e-9, 1)[:, 0]
        old = torch.multinomial((1 - bits).float() + 1e-9, 1)[:, 0]
        old = torch.where(source >= 0, source, old)
        before[:, a] = torch.where(mine, old, before[:, a])
        after[:, a] = torch.where(mine, new, after[:, a])
    return before, after


@torch.no_grad()
def report(clip: CLIP, composer: Composer, data: Data, device: torch.device) -> None:
    """Zero-shot accuracy by attribute, and cosines of matching directions, on fresh renders."""
    labels = sample_labels(512, torch.Generator().manual_seed(99), device)
    images = unit(clip.encode_image(prepare(composer(labels))))
    claims = data.claims[:4000]
    texts = unit(clip.encode_text(data.captions[:4000].long()))
    line = []
    for a, attribute in enumerate(ATTRIBUTES):
        scores = []
        for v in range(SIZES[a]):
            own = 1 << (OFFSETS[a] + v)
            only = full_mask() & ~(((1 << SIZES[a]) - 1) << OFFSETS[a]) | own
            mine = claims == only
            if mine.sum() == 0:
                scores.append(torch.full((512,), -1.0, device=device))
                continue
            scores.append(images @ unit(texts[mine].mean(0)))
        right = (torch.stack(scores, 1).argmax(1) == labels[:, a]).float().mean()
        line.append(f"{attribute.name} {right:.3f}")
    print("zero-shot:", ", ".join(line), flush=True)
    pair = torch.arange(1000, device=device) % len(data.target)
    before, after = change(data.attribute[pair], data.allowed[pair], data.source[pair], device)
    picture = unit(
        unit(clip.encode_image(prepare(composer(after))))
        - unit(clip.encode_image(prepare(composer(before))))
    )
    text = unit(
        unit(clip.encode_text(data.target[pair].long()))
        - unit(clip.encode_text(data.neutral[pair].long()))
    )
    cosines = picture @ text.T
    other = data.attribute[pair][:, None] != data.attribute[pair][None]
    print(
        f"directions: same change {cosines.diagonal().mean():.3f}, "
        f"other attribute {cosines[other].abs().mean():.3f}",
        flush=True,
    )
