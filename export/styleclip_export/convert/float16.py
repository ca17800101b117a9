"""The networks in float16 for GPUs, and how far they are from float32.

StyleGAN2: S (the affine layers), demodulation, the scales that keep styles at most 1 and the RGB
skip stay float32, features are float16 (`ModulatedConv`). e4e: convolutions and norms in float16,
the linear layers that end in W+ in float32. CLIP's text encoder: all of it.

An x86 CPU has no half convolution of use, neither in PyTorch nor in ONNX Runtime: both measurements
here compute them in float32 from rounded operands and round the result, as tensor cores do.
PyTorch rounds after every operation; ONNX Runtime leaves some roundings out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from styleclip_contract import wire
from styleclip_export.convert import onnx_export
from styleclip_export.errors import ConversionError
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import EqualLinear, Generator

PSNR = 45.0  # dB, of a picture against float32
STYLE = 0.005  # a channel of S moves at most so much of its size, both root mean squares
COSINE = 0.9999  # of a text's features against float32
# Weights of the layers that compute in float32, stored so.
KEPT = (".modulation.", ".linear.", "w_avg")


@dataclass(frozen=True)
class Half:
    """A network in float16. `measure`: (found, expected), rows of both → `quantity`, which must be
    at least `bound` (or at most, if `smaller` is better). `rows`: how many PyTorch computes, too.
    """

    module: Callable[[], nn.Module]
    measure: Callable[[np.ndarray, np.ndarray], float]
    quantity: str
    bound: float
    smaller: bool = False
    rows: int = 8


@dataclass(frozen=True)
class HalfComparison:
    """Float16 against PyTorch in float32: which runtime, at which batch sizes; `value` see
    `Half.measure`; largest and mean absolute error of the output."""

    runtime: str
    batches: tuple[int, ...]
    value: float
    largest: float
    mean: float


def networks(generator: Generator, encoder: Encoder4Editing, clip: CLIP, w_avg: Tensor) -> dict[
    str, Half
]:  # fmt: skip
    """The networks of a domain in float16, by name."""
    return {
        "stylegan2": Half(
            lambda: onnx_export.LatentToPicture(generator, torch.float16),
            psnr,
            "PSNR",
            PSNR,
            rows=2,  # of 1024 px take half a minute
        ),
        "e4e": Half(
            lambda: onnx_export.FaceToLatent(half_encoder(encoder), w_avg),
            style_movement(generator),
            "movement of S",
            STYLE,
            smaller=True,
        ),
        "clip_text": Half(
            lambda: onnx_export.TokensToFeatures(copy.deepcopy(clip).half()),
            cosine,
            "cosine",
            COSINE,
        ),
    }


def export(
    half: Half,
    model: wire.Model,
    example: Callable[[int], tuple[Tensor, ...]],
    references: Sequence[onnx_export.Reference],
) -> tuple[bytes, list[HalfComparison]]:
    """`half` as an ONNX file with the types of `model` outside and float16 inside.

    Raises:
        ConversionError: it misses its bound, in ONNX Runtime or in PyTorch.
    """
    module = half.module().eval()
    with HalfOnCPU():
        data = onnx_export.to_onnx(
            module, model, example(2), lambda name: not any(part in name for part in KEPT)
        )
    found = []

    def add(runtime: str, batches: Sequence[int], got: np.ndarray, expected: np.ndarray) -> None:
        difference = np.abs(got.astype(np.float32) - expected.astype(np.float32))
        largest, mean = float(difference.max()), float(difference.mean(dtype=np.float64))
        value = half.measure(got, expected)
        found.append(HalfComparison(runtime, tuple(batches), value, largest, mean))

    with torch.no_grad(), HalfOnCPU():
        n = min(half.rows, references[-1].batch)
        got = module(*(x[:n] for x in references[-1].inputs))
        add("PyTorch", [n], got.numpy(), references[-1].expected[:n])
    del module, got
    add(
        "ONNX Runtime",
        [r.batch for r in references],
        np.concatenate(list(onnx_export.run_onnx(data, model, references))),
        np.concatenate([r.expected for r in references]),
    )
    values = [c.value for c in found]
    worst = max(values) if half.smaller else min(values)
    if not (worst <= half.bound if half.smaller else worst >= half.bound):  # NaN fails too
        raise ConversionError(
            f"{model.name} in float16: {half.quantity} {worst:.4g}, {half.bound:g} was expected; "
            "nothing was written; `--no-half` converts to float32 alone"
        )
    return data, found


def provenance(half: Half, found: Sequence[HalfComparison]) -> dict[str, Any]:
    """What is stored about the float16 file."""
    return {
        "quantity": half.quantity,
        "bound": half.bound,
        "errors": [asdict(c) for c in found],
        "measured_on": "CPU: convolutions in float32 from float16 operands",
    }


class _HalfConvolution(torch.autograd.Function):
    """A float16 convolution computed in float32 and rounded; ONNX's Conv or ConvTranspose."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, transposed: bool, x: Tensor, weight: Tensor, bias: Tensor | None,
        stride: tuple[int, int], padding: tuple[int, int], groups: int,
    ) -> Tensor:  # fmt: skip
        function = torch.conv_transpose2d if transposed else torch.conv2d
        offset = None if bias is None else bias.float()
        y = function(x.float(), weight.float(), offset, stride, padding, groups=groups)
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


class HalfOnCPU(TorchFunctionMode):
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
        return _HalfConvolution.apply(  # type: ignore[no-untyped-call]
            transposed, given["input"], given["weight"], given.get("bias"), stride, padding,
            given.get("groups", 1),
        )  # fmt: skip


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


@torch.no_grad()
def half_encoder(encoder: Encoder4Editing) -> Encoder4Editing:
    """A copy in float16, but for the last linear layers. Batch norms keep their scale and shift
    alone, computed in float32: a variance may be too small or too large for float16."""
    half = copy.deepcopy(encoder).eval()
    for module in half.modules():
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = module.running_mean, module.running_var
            assert mean is not None and variance is not None
            module.weight.mul_(torch.rsqrt(variance + module.eps))
            module.bias.sub_(mean * module.weight)
            mean.zero_()
            variance.fill_(1)
            module.eps = 0.0
    half.half()
    for module in half.modules():
        if isinstance(module, EqualLinear):
            module.float()
    # `half` and `float` have rounded the linear layers' weights: take them again.
    for copied, own in zip(half.styles, encoder.styles, strict=True):
        copied.linear.load_state_dict(own.linear.state_dict())  # type: ignore[union-attr]
    return half


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """dB of the worst picture, of 255."""
    difference = found.astype(np.float32) - expected.astype(np.float32)
    error = np.square(difference).reshape(len(found), -1).mean(1, dtype=np.float64).max()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Least cosine between rows."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).min())


def style_movement(generator: Generator) -> Callable[[np.ndarray, np.ndarray], float]:
    """W+ of several pictures, twice → how far the channel of S moves that moves most: the root mean
    square of its change over that of its values for w = mapping(z)."""

    @torch.no_grad()
    def measure(found: np.ndarray, expected: np.ndarray) -> float:
        with onnx_export.seeded():
            w = generator.mapping(torch.randn(1000, generator.w_dim))
        every = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
        size = generator.flatten(every).square().mean(0).sqrt()
        a, b = (generator.flatten(generator.affine(torch.from_numpy(x))) for x in (found, expected))
        return float(((a - b).square().mean(0).sqrt() / size.clamp(min=1e-6)).max())

    return measure
