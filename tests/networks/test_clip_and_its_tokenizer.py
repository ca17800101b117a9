"""CLIP reads OpenAI's archive; the tokenizer refuses long texts and needs no torch.

Their numbers are compared with the official code's in test_networks_match_golden_data.py.
"""

import subprocess
import sys

import pytest
import torch

from styleclip_contract.errors import TextTooLong
from styleclip_networks import CLIP
from styleclip_server.pipeline.tokenizer import tokenize


def test_the_three_extra_entries_of_openais_archive_are_ignored():
    clip = CLIP(32, image_resolution=32, vision_patch_size=16, vision_width=64, vision_layers=1,
                vision_heads=1, transformer_width=64, transformer_layers=1, transformer_heads=1,
                vocab_size=100)  # fmt: skip
    extra = {k: torch.tensor(1) for k in ("input_resolution", "context_length", "vocab_size")}
    loaded = CLIP.from_state_dict(clip.state_dict() | extra)
    assert all(torch.equal(v, clip.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_a_text_that_is_too_long_is_refused_with_what_to_do():
    with pytest.raises(TextTooLong, match="Shorten the text that begins with 'a very long"):
        tokenize(["a very long description " * 30])


def test_the_tokenizer_needs_no_torch():
    code = "import sys, styleclip_server.pipeline.tokenizer as t; t.tokenize(['a face']); assert 'torch' not in sys.modules"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], check=True)
