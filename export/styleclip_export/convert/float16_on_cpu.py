"""Float16 convolutions and attention on a CPU, as tensor cores compute them.

Neither PyTorch nor ONNX Runtime has a fast float16 convolution on an x86 CPU. Both compute it in
float32 from rounded operands and round the result, which is what tensor cores do. PyTorch rounds
after every operation; ONNX Runtime leaves some roundings out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Float16OnCPU(TorchFunctionMode):
    """Within it PyTorch computes and exports float16 convolutions and causal attention on a CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and args[0].dtype == torch.float16:
            return _causal_attention(*args)
        if func not in (torch.conv2d, torch.conv_transpose2d) or args[0].dtype != torch.float16:
            return func(*args, **kwargs)
        transposed = func is torch.conv_transpose2d
        last = ("output_padding", "groups") if transposed else ("dilation", "groups")
        names = ("input", "weight", "bias", "stride", "padding", *last)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        stride, padding = (_pair(given.get(n, d)) for n, d in (("stride", 1), ("padding", 0)))
        return _Convolution.apply(  # type: ignore[no-untyped-call]
            transposed, given["input"], given["weight"], given.get("bias"), stride, padding,
            given.get("groups", 1),
        )  # fmt: skip


class _Convolution(torch.autograd.Function):
    """A float16 convolution computed in float32 and rounded; ONNX's Conv or ConvTranspose."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, transposed: bool, x: Tensor, weight: Tensor, bias: Tensor | None,
        stride: tuple[int, int], padding: tuple[int, int], groups: int,
    ) -> Tensor:  # fmt: skip
        convolve = torch.conv_transpose2d if transposed else torch.conv2d
        offset = None if bias is None else bias.float()
        y = convolve(x.float(), weight.float(), offset, stride, padding, groups=groups)
        return y.to(x.dtype)

    @staticmethod
    def symbolic(
        g: Any, transposed: bool, x: Any, weight: Any, bias: Any,
        stride: tuple[int, int], padding: tuple[int, int], groups: int,
    ) -> Any:  # fmt: skip
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return g.op("ConvTranspose" if transposed else "Conv", *inputs, strides_i=stride,
                    pads_i=(*padding, *padding), group_i=groups)  # fmt: skip


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention spelled out: the exporter scales float16 queries by a float32 number."""
    t = q.shape[-2]
    mask = torch.full((t, t), -torch.inf, dtype=q.dtype).triu(1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + mask
    return scores.softmax(-1) @ v


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
