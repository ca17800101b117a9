"""CLIP loads OpenAI's state_dict; test_networks_match_golden_data.py compares its numbers."""

import torch

from styleclip_networks.clip import CLIP


def test_the_three_extra_entries_of_openais_archive_are_ignored():
    clip = CLIP(32, image_resolution=32, vision_patch_size=16, vision_width=64, vision_layers=1,
                vision_heads=1, transformer_width=64, transformer_layers=1, transformer_heads=1,
                vocab_size=100)  # fmt: skip
    extra = {k: torch.tensor(1) for k in ("input_resolution", "context_length", "vocab_size")}
    loaded = CLIP.from_state_dict(clip.state_dict() | extra)
    assert all(torch.equal(v, clip.state_dict()[k]) for k, v in loaded.state_dict().items())
