"""CLIP: a ViT image encoder and a causal text encoder with a joint embedding space.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision", sections 2.4 and 3.1. Parameter names are those of openai/CLIP's `model.py`, so that
an official ViT state_dict loads with ``strict=True``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_contract.wire import TOKENS_PER_TEXT

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
QUICK_GELU_SCALE = 1.702
HEAD_WIDTH = 64  # of every published ViT; the number of heads follows from the width


def quick_gelu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(1.702 x), OpenAI's approximation of GELU."""
    return x * torch.sigmoid(QUICK_GELU_SCALE * x)


class Attention(nn.Module):
    """Multi-head self-attention: (N, T, width) → (N, T, width).

    Parameters are named as in `nn.MultiheadAttention`.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.heads, self.causal = heads, causal
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.reshape(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(x.transpose(1, 2).reshape(n, t, width))


class MLP(nn.Module):
    """Two linear layers with a hidden width of 4 * width: (N, T, width) → (N, T, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(quick_gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """Pre-norm transformer block: (N, T, width) → (N, T, width)."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of residual attention blocks: (N, T, width) → (N, T, width)."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool) -> None:
        super().__init__()
        blocks = [ResidualAttentionBlock(width, heads, causal) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)
        # OpenAI's initialization: residual branches shrink with the depth.
        for block in blocks:
            std = width**-0.5 * (2 * layers) ** -0.5
            nn.init.normal_(block.attn.out_proj.weight, std=std)
            nn.init.normal_(block.mlp.c_proj.weight, std=std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    """The image encoder: preprocessed images (N, 3, resolution, resolution) → (N, embed_dim)."""

    def __init__(
        self, resolution: int, patch_size: int, width: int, layers: int, heads: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        scale = width**-0.5
        tokens = (resolution // patch_size) ** 2 + 1
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([class_token, x], 1) + self.positional_embedding.to(x.dtype)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class CLIP(nn.Module):
    """CLIP with a ViT image encoder. The default sizes are those of ViT-B/32.

    Args:
        embed_dim: width of the joint embedding space.
        image_resolution, vision_patch_size, vision_width, vision_layers, vision_heads: sizes of
            the image encoder.
        context_length, vocab_size, transformer_width, transformer_layers, transformer_heads: sizes
            of the text encoder.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        *,
        image_resolution: int = 224,
        vision_patch_size: int = 32,
        vision_width: int = 768,
        vision_layers: int = 12,
        vision_heads: int = 12,
        context_length: int = TOKENS_PER_TEXT,
        vocab_size: int = 49408,
        transformer_width: int = 512,
        transformer_layers: int = 12,
        transformer_heads: int = 8,
    ) -> None:
        super().__init__()
        self.visual = VisionTransformer(
            image_resolution,
            vision_patch_size,
            vision_width,
            vision_layers,
            vision_heads,
            embed_dim,
        )
        width = transformer_width
        self.transformer = Transformer(width, transformer_layers, transformer_heads, causal=True)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode preprocessed images (N, 3, r, r) as features (N, embed_dim), not normalized."""
        return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Encode tokens (N, T) int as features (N, embed_dim), not normalized.

        The feature is read at the end-of-text token, the largest id.
        """
        end = tokens.argmax(-1)
        x = self.token_embedding(tokens)
        x = x + self.positional_embedding[: tokens.shape[1]].to(x.dtype)
        x = self.ln_final(self.transformer(x))
        x = x[torch.arange(x.shape[0], device=x.device), end]
        return x @ self.text_projection


def trim_tokens(tokens: Tensor) -> Tensor:
    """Cut the columns after the longest text: (N, T) → (N, t).

    Attention is causal, so the features do not change.
    """
    return tokens[:, : tokens.argmax(-1).max() + 1]


def normalize_images(images: Tensor) -> Tensor:
    """Normalize images (N, 3, H, W), float RGB in [0, 1], by CLIP's mean and deviation."""
    mean = torch.tensor(IMAGE_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(IMAGE_STD, device=images.device)[:, None, None]
    return (images - mean) / std
