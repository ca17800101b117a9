"""CLIP's text encoder on a GPU: the exported `clip_text`, in float16.

Radford et al. 2021, section 2.4, as `styleclip_networks.clip` has it. Plain PyTorch: its matmuls,
attention and layer norm leave little to gain at the few thousand tokens of an edit's prompts. For a
given shape nothing waits for the GPU, so that a CUDA graph can capture a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.clip import HEAD_WIDTH, QUICK_GELU_SCALE
from styleclip_server.engines.cuda.parameters import Parameters


@dataclass(frozen=True)
class LinearParams:
    """Weight (out, in) and bias (out,) of a linear layer, or both (D,) of a layer norm."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class TransformerBlock:
    """A pre-norm transformer block; `ln_2` and the bias of `c_fc` contain `QUICK_GELU_SCALE`.

    `image_features.FoldedMLP` of the exporter folds the scale into the linear layers instead.
    """

    ln_1: LinearParams
    in_proj: LinearParams
    out_proj: LinearParams
    ln_2: LinearParams
    c_fc: LinearParams
    c_proj: LinearParams


class CudaTextEncoder:
    """TOKENS (N, T) int32, T up to 77, → TEXT_FEATURES (N, D) float32, not normalized.

    A text ends at its largest id, and attention is causal: T has to cover the longest text, and
    what follows a text's end has no effect. Ids outside the vocabulary are clamped to it: an
    out-of-range index would fail a device-side assert and leave the CUDA context unusable.

    Args:
        weights: parameters by the names in `clip_text`'s `model.onnx`, float32. `table`, int32, is
            there if the vocabulary is a part of CLIP's.
        dtype: of the weights and features.

    Raises:
        KeyError: a weight is missing.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        parameters = Parameters(weights, "clip.", torch.device(device), dtype)
        self.table = None
        if "table" in weights:
            self.table = parameters.constant(weights["table"], torch.int32)
        self.embedding = _weight(parameters, "token_embedding.weight")
        self.positional_embedding = _weight(parameters, "positional_embedding")
        blocks = "transformer.resblocks"
        num_blocks = parameters.count(blocks + ".{}.ln_1.weight")
        self.blocks = [_block(parameters, f"{blocks}.{i}") for i in range(num_blocks)]
        self.norm = _linear_params(parameters, "ln_final.")
        self.projection = _weight(parameters, "text_projection")
        self.width = self.embedding.shape[1]
        self.heads = self.width // HEAD_WIDTH

    def __call__(self, tokens: Tensor) -> Tensor:
        if self.table is not None:
            ids = tokens.clamp(0, len(self.table) - 1)
            tokens = self.table.index_select(0, ids.flatten()).view(tokens.shape)
        end = tokens.argmax(1)
        ids = tokens.clamp(0, len(self.embedding) - 1)
        x = F.embedding(ids, self.embedding) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = self._run_block(block, x)
        x = x.take_along_dim(end[:, None, None], 1)[:, 0]
        return (self._norm(self.norm, x) @ self.projection).float()

    def _run_block(self, block: TransformerBlock, x: Tensor) -> Tensor:
        n, t, width = x.shape
        qkv = _linear(block.in_proj, self._norm(block.ln_1, x))
        q, k, v = qkv.view(n, t, 3, self.heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + _linear(block.out_proj, mixed.transpose(1, 2).reshape(n, t, width))
        hidden = F.silu(_linear(block.c_fc, self._norm(block.ln_2, x)))
        return x + _linear(block.c_proj, hidden, 1 / QUICK_GELU_SCALE)

    def _norm(self, norm: LinearParams, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), norm.weight, norm.bias)  # statistics in float32


def _block(parameters: Parameters, name: str) -> TransformerBlock:
    c_fc = _linear_params(parameters, f"{name}.mlp.c_fc.")
    return TransformerBlock(
        _linear_params(parameters, f"{name}.ln_1."),
        _linear_params(parameters, f"{name}.attn.in_proj_"),
        _linear_params(parameters, f"{name}.attn.out_proj."),
        # Folded into the layer norm: scaling `c_fc.weight` would round it a second time.
        _linear_params(parameters, f"{name}.ln_2.", QUICK_GELU_SCALE),
        LinearParams(c_fc.weight, _weight(parameters, f"{name}.mlp.c_fc.bias", QUICK_GELU_SCALE)),
        _linear_params(parameters, f"{name}.mlp.c_proj."),
    )


def _linear_params(parameters: Parameters, prefix: str, scale: float = 1.0) -> LinearParams:
    weight, bias = (_weight(parameters, f"{prefix}{part}", scale) for part in ("weight", "bias"))
    return LinearParams(weight, bias)


def _weight(parameters: Parameters, name: str, scale: float = 1.0) -> Tensor:
    return parameters.weight(parameters.tensor(name) * scale)


def _linear(layer: LinearParams, x: Tensor, scale: float = 1.0) -> Tensor:
    """Return scale * x W^T + bias, (N, T, in) → (N, T, out)."""
    y = torch.addmm(layer.bias, x.flatten(0, 1), layer.weight.t(), alpha=scale)
    return y.view(*x.shape[:2], -1)
