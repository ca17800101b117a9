"""Random edits of a domain as offsets in StyleSpace, for training the feature editor.

They are StyleCLIP's global directions of the text pairs that CLIP was trained on
(`caption_data.py`); computed in batches, and without the tokenizer, which training does not need.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.training.caption_data import CaptionData
from domains.training.networks import load_text_tower
from domains.training.setup import SEED, Setup
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.style_statistics import load_statistics

NUM_PAIRS = 2048
STRENGTHS = (0.2, 1.6)  # of an edit, in the presets' strength
NEGATIVE = 0.35  # share of the edits that remove their target


@torch.no_grad()
def load_offsets(
    setup: Setup, generator: Generator, strength: float, thresholds: Sequence[float]
) -> Tensor:
    """Return the offsets (n, S) of up to NUM_PAIRS text pairs; some leave no channel and are left
    out.

    Args:
        strength, thresholds: α and the β of the domain's presets; pairs take them in turn.
    """
    data = CaptionData(setup.captions, setup.device)
    clip = load_text_tower(setup.out / "clip.pt", data.vocabulary_size, setup.device)
    statistics = load_statistics(setup.out, generator.style_channels)
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(SEED))
    pairs = order[:NUM_PAIRS].to(setup.device)
    neutral, target = (
        F.normalize(torch.cat([clip.encode_text(t.long()) for t in texts[pairs].split(256)]), dim=1)
        for texts in (data.neutral, data.target)
    )
    fs3 = torch.from_numpy(statistics.fs3).to(setup.device)
    relevance = F.normalize(target - neutral, dim=1) @ fs3.T
    magnitude = relevance.abs()
    beta = torch.tensor(thresholds, device=setup.device).repeat(len(pairs))[: len(pairs), None]
    relevance = torch.where(magnitude >= beta, relevance, 0)
    kept = relevance.any(1)
    if not kept.any():
        raise ValueError(
            f"no text pair has a channel whose relevance reaches β = {min(thresholds):g}"
        )
    std = torch.from_numpy(statistics.style_std).to(setup.device)
    offsets = torch.zeros(int(kept.sum()), len(std), device=setup.device)
    rows = torch.from_numpy(statistics.rows).to(setup.device)
    scaled = relevance[kept] / magnitude[kept].amax(1, keepdim=True)
    offsets[:, rows] = strength * scaled * std[rows]
    return offsets


def draw_offsets(offsets: Tensor, count: int) -> Tensor:
    """Draw offsets (count, S) of random strength, some of them negative."""
    device = offsets.device
    low, high = STRENGTHS
    factor = torch.rand(count, 1, device=device) * (high - low) + low
    sign = torch.where(torch.rand(count, 1, device=device) < NEGATIVE, -1.0, 1.0)
    return offsets[torch.randint(len(offsets), (count,), device=device)] * factor * sign
