"""The networks as ONNX Runtime computes them fastest on a CPU, from the same parameters.

`synthesis`, `encode` and `encode_text` compute what `Generator.synthesis`, `GradualStyleEncoder`
and `CLIP.encode_text` compute, up to float32 rounding. docs/notes/cpu-engines.md has the
measurements:

- 3x3 convolutions of many channels by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray
  2016, "Fast Algorithms for Convolutional Neural Networks"): 36 multiplications in place of 144.
  ONNX Runtime has no such kernel; Gather and MatMul are enough.
- The stride-2 transposed convolution as four convolutions, one for each parity of row and column,
  whose outputs Gather interleaves: ONNX Runtime's own runs its summation on one core.
- Demodulation is postponed: with a leaky ReLU f and d > 0, f(d y + b) = d f(y + b / d), so d is
  multiplied into the next layer's style, which saves a pass over the activations.
- PReLU as two depthwise convolutions, which are fused with their neighbors.
- Texts token by token, each prefix that several texts share only once.

Gather's indices and the transforms are constants of the graph. Weights stay under their own names;
ONNX Runtime folds what is computed from them alone when it loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.clip import CLIP, Attention, ResidualAttentionBlock
from styleclip_networks.e4e import BottleneckIRSE, GradualStyleEncoder
from styleclip_networks.stylegan2 import (
    DEMODULATION_EPS,
    LEAKY_RELU_GAIN,
    LEAKY_RELU_SLOPE,
    Generator,
    StyledConv,
    ToRGB,
)

WINOGRAD_CHANNELS = 128  # with fewer channels the transforms cost more than they save
WINOGRAD_SIDES = (16, 256)  # below, weights of four times the size cost more; above, the transforms
PARITY_SIDE = 16  # of the upsampled image; smaller ones gain nothing

Size = tuple[int, int]
"""Height and width of images in pixels."""

# F(4, 3) with the points 0, 1, -1, 2, -2 and infinity: y = A [(G w) * (B x)] for 6 pixels x.
_B = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0),
      (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
_G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
      (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
_A = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _in_both_dimensions(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return the transform of flattened tiles that applies `rows` along both dimensions."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(matrix, matrix).float()


def suits_winograd(weight: Tensor, size: Size) -> bool:
    """Return whether `winograd` is faster: weight (out, in, 3, 3), images of this size."""
    low, high = WINOGRAD_SIDES
    wide = min(weight.shape[:2]) >= WINOGRAD_CHANNELS
    return wide and all(low <= side <= high and side % 4 == 0 for side in size)


def winograd(x: Tensor, weight: Tensor, size: Size) -> Tensor:
    """Convolve with zero padding: (N, HW, in), weight (out, in, 3, 3) → (N, HW, out).

    Channels come last, so that Gather copies whole pixels.
    """
    out, in_channels = weight.shape[:2]
    zero = size[0] * size[1]  # the index of a zero pixel appended to the image
    rows, columns = (side // 4 for side in size)  # of tiles; each reads 6x6 pixels and writes 4x4
    tiles = rows * columns
    row = _tile_positions(size[0], zero)[:, None, :, None]
    column = _tile_positions(size[1], zero)[None, :, None, :]
    pixel = np.minimum(row * size[1] + column, zero)  # (6, 6, rows, columns)
    filters = _in_both_dimensions(_G) @ weight.permute(2, 3, 1, 0).reshape(9, -1)
    x = _gather(F.pad(x, (0, 0, 0, 1)), pixel).reshape(-1, 36, tiles * in_channels)
    x = (_in_both_dimensions(_B) @ x).reshape(-1, 36, tiles, in_channels)
    x = (x @ filters.reshape(36, in_channels, out)).reshape(-1, 36, tiles * out)
    x = (_in_both_dimensions(_A) @ x).reshape(-1, 16 * tiles, out)
    return _gather(x, np.arange(16 * tiles).reshape(4, 4, rows, columns).transpose(2, 0, 3, 1))


def _tile_positions(side: int, outside: int) -> np.ndarray:
    """Return the 6 rows (or columns) that each tile reads, (6, side / 4), `outside` for padding."""
    at = 4 * np.arange(side // 4) + np.arange(-1, 5)[:, None]
    return np.where((at >= 0) & (at < side), at, outside)


def transposed_by_parity(x: Tensor, weight: Tensor, side: int) -> Tensor:
    """Compute `F.conv_transpose2d` with stride 2, by parity of the output's rows and columns.

    Args:
        x: (N, in, side, side).
        weight: (out, in, 3, 3).

    Returns:
        (N, out, 2 side + 1, 2 side + 1).
    """
    index = np.empty((2 * side + 1, 2 * side + 1), np.int32)
    parts, first = [], 0
    for a in (0, 1):  # even rows see taps 2 and 0 of two pixels, odd rows tap 1 of one
        for b in (0, 1):
            taps = weight[:, :, [1] if a else [2, 0]][:, :, :, [1] if b else [2, 0]]
            part = F.conv2d(x, taps, padding=(1 - a, 1 - b))
            height, width = side + 1 - a, side + 1 - b
            pixels = np.arange(first, first + height * width)
            index[a::2, b::2] = pixels.reshape(height, width)
            first += height * width
            parts.append(to_pixels(part))
    return to_image(_gather(torch.cat(parts, 1), index), (2 * side + 1, 2 * side + 1))


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Compute PReLU of (N, C, H, W) with slopes (C,) of at most 1."""
    linear = F.conv2d(x, slope[:, None, None, None], groups=len(slope))
    return linear + F.relu(F.conv2d(x, 1 - slope[:, None, None, None], groups=len(slope)))


def _gather(x: Tensor, index: np.ndarray) -> Tensor:
    """Select rows of (N, R, C) by `index`, flattened."""
    return x.index_select(1, torch.from_numpy(index.astype(np.int32).ravel()))


def to_pixels(x: Tensor) -> Tensor:
    """Reshape (N, C, H, W) to (N, HW, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(x: Tensor, size: Size) -> Tensor:
    """Reshape (N, HW, C) to (N, C, H, W)."""
    return x.unflatten(1, size).permute(0, 3, 1, 2)


@dataclass
class _Layer:
    """A styled convolution, and the toRGB that follows it.

    Attributes:
        conv: the convolution with noise, bias and activation.
        style: (N, in).
        noise: (1, 1, side, side), or None.
        side: of the output.
        as_pixels_in, as_pixels: whether input and output are (N, HW, C), as Winograd takes them,
            and not (N, C, H, W).
    """

    conv: StyledConv
    style: Tensor
    noise: Tensor | None
    side: int
    as_pixels_in: bool = False
    as_pixels: bool = False
    to_rgb: ToRGB | None = None
    rgb_style: Tensor | None = None

    @property
    def size(self) -> Size:
        return self.side, self.side

    @property
    def weight(self) -> Tensor:
        return self.conv.conv.weight[0] * self.conv.conv.scale

    def upsamples_from(self, side: int) -> bool:
        return self.conv.conv.upsample and self.side == 2 * side


def _layers(g: Generator, styles: Sequence[Tensor]) -> list[_Layer]:
    """List the layers of the synthesis in execution order."""
    layers: list[_Layer] = []
    for spec, style in zip(g.layers, styles, strict=True):
        module = g.get_submodule(spec.name)
        if isinstance(module, ToRGB):
            layers[-1].to_rgb, layers[-1].rgb_style = module, style
        else:
            assert isinstance(module, StyledConv)
            noise = g.noises[len(layers)] if g.use_noise else None
            layers.append(_Layer(module, style, noise, spec.resolution))
    _choose_layouts(layers)
    return layers


def _choose_layouts(layers: Sequence[_Layer]) -> None:
    """Set the layouts between the layers: pixels for each pair whose second layer is Winograd's."""
    for layer, following in pairwise(layers):
        if layer.conv.conv.upsample:
            layer.as_pixels = suits_winograd(following.conv.conv.weight[0], layer.size)
            following.as_pixels = layer.as_pixels
        following.as_pixels_in = layer.as_pixels


def synthesis(g: Generator, styles: Sequence[Tensor], *, features: Tensor | None = None) -> Tensor:
    """Compute `Generator.synthesis`: S as returned by `Generator.affine` → image (N, 3, r, r)."""
    rgb = _synthesize(g, _layers(g, styles), features)[2]
    assert rgb is not None
    return rgb


def synthesized_features(g: Generator, styles: Sequence[Tensor], resolution: int) -> Tensor:
    """Compute `Generator.features`: (N, C, r, r)."""
    layers = [layer for layer in _layers(g, styles) if layer.side <= resolution]
    x, dcoefs, _ = _synthesize(g, layers)
    x = x * _per_channel(dcoefs, layers[-1].as_pixels)
    return to_image(x, layers[-1].size) if layers[-1].as_pixels else x


def _synthesize(
    g: Generator, layers: Sequence[_Layer], features: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the layers; return features in the last one's layout, their dcoefs, and RGB."""
    x = g.input.input.expand(layers[0].style.shape[0], -1, -1, -1)
    rgb: Tensor | None = None
    dcoefs = torch.ones(())  # of the layer before, not yet applied to x
    for layer in layers:
        if features is not None and layer.upsamples_from(int(features.shape[-1])):
            x, dcoefs = to_pixels(features) if layer.as_pixels_in else features, torch.ones(())
        x = x * _per_channel(layer.style * dcoefs, layer.as_pixels_in)
        weight = layer.weight
        x = _convolve(layer, x, weight)
        dcoefs = _demodulation(layer, weight)
        x = F.leaky_relu(x + _noise_and_bias(layer, dcoefs), LEAKY_RELU_SLOPE)
        if layer.to_rgb is not None:
            rgb = _to_rgb(layer, x, dcoefs, rgb)
    return x, dcoefs, rgb


def _convolve(layer: _Layer, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve without modulation; with upsampling and blur if the layer upsamples."""
    conv = layer.conv.conv
    if not conv.upsample:
        if layer.as_pixels:
            return winograd(x, weight, layer.size)
        return F.conv2d(x, weight, padding=1)
    x = to_image(x, (layer.side // 2, layer.side // 2)) if layer.as_pixels_in else x
    if layer.side >= PARITY_SIDE:
        x = transposed_by_parity(x, weight, layer.side // 2)
    else:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    x = conv.blur(x)
    return to_pixels(x) if layer.as_pixels else x


def _demodulation(layer: _Layer, weight: Tensor) -> Tensor:
    """Compute demodulation coefficients times the leaky ReLU's gain, (N, out)."""
    squared_weights = weight.square().sum((2, 3)).T
    return torch.rsqrt(layer.style.square() @ squared_weights + DEMODULATION_EPS) * LEAKY_RELU_GAIN


def _noise_and_bias(layer: _Layer, dcoefs: Tensor) -> Tensor:
    """Compute (noise + bias) / dcoefs, to be added to the layer's features."""
    bias = layer.conv.activate.bias
    if layer.noise is None:
        return _per_channel(bias * LEAKY_RELU_GAIN / dcoefs, layer.as_pixels)
    # One matmul: noise times 1, and 1 times bias.
    noise = (layer.conv.noise.weight * LEAKY_RELU_GAIN * layer.noise).flatten()
    pixels = torch.stack([noise, torch.ones_like(noise)])  # (2, HW)
    channels = torch.stack([torch.ones_like(bias), bias * LEAKY_RELU_GAIN])
    channels = channels / dcoefs[:, None]  # (N, 2, out)
    if layer.as_pixels:
        return pixels.T @ channels
    return (channels.transpose(1, 2) @ pixels).unflatten(2, layer.noise.shape[2:])


def _to_rgb(layer: _Layer, x: Tensor, dcoefs: Tensor, skip: Tensor | None) -> Tensor:
    """Compute RGB (N, 3, side, side) of the layer's features, and add the upsampled `skip`."""
    assert layer.to_rgb is not None and layer.rgb_style is not None
    style = layer.rgb_style * dcoefs
    conv = layer.to_rgb.conv
    weight = conv.weight[0, :, :, 0, 0] * conv.scale * style[:, None]
    features = x.transpose(1, 2) if layer.as_pixels else x.flatten(2)
    rgb = (weight @ features).unflatten(2, (layer.side, layer.side)) + layer.to_rgb.bias
    return rgb if skip is None else rgb + layer.to_rgb.upsample(skip)


def _per_channel(values: Tensor, as_pixels: bool) -> Tensor:
    """Reshape values (N, C) to broadcast over (N, HW, C) or (N, C, H, W)."""
    return values[:, None] if as_pixels else values[:, :, None, None]


def encode(e: GradualStyleEncoder, face: Tensor) -> Tensor:
    """Compute `GradualStyleEncoder.forward`: (N, 3, H, W) → (N, num_latents, w_dim)."""
    convolution, norm, activation = e.input_layer
    x = _prelu(norm(convolution(face)), activation)
    height, width = (int(side) for side in face.shape[2:])
    stages = []
    for i, unit in enumerate(e.body):
        assert isinstance(unit, BottleneckIRSE)
        x = _unit(unit, x, (height, width))
        stride: int = unit.res_layer[3].stride[0]  # type: ignore[index, assignment]
        height, width = height // stride, width // stride
        if i in e.stage_ends:
            stages.append(x)
    return e.heads(*stages[1:])


def _prelu(x: Tensor, module: torch.nn.Module) -> Tensor:
    """Compute `prelu` where its formula is valid, else the module itself."""
    slope: Tensor = module.weight  # type: ignore[assignment]
    return prelu(x, slope) if float(slope.max()) <= 1 else module(x)


def _unit(unit: BottleneckIRSE, x: Tensor, size: Size) -> Tensor:
    """Compute `BottleneckIRSE.forward` of images of this size."""
    norm, first, activation, second, last_norm, gates = unit.res_layer
    y = norm(x)
    weight: Tensor = first.weight  # type: ignore[assignment]
    if suits_winograd(weight, size):
        y = to_image(winograd(to_pixels(y), weight, size), size)
    else:
        y = first(y)
    y = _prelu(y, activation)
    weight, stride = second.weight, second.stride[0]  # type: ignore[assignment, index]
    if stride == 1 and suits_winograd(weight, size):
        y = to_image(winograd(to_pixels(y), weight, size), size)
    else:
        y = second(y)
    return unit.shortcut_layer(x) + gates(last_norm(y))


def encode_text(clip: CLIP, tokens: Tensor) -> Tensor:
    """Compute `CLIP.encode_text`: (N, 77) int → (N, embed_dim).

    Attention is causal, so the features at a position follow from the tokens up to it. Each
    distinct prefix of the texts is one row of `x`, (P, width); only attention sees complete texts.
    """
    end = tokens.argmax(-1)
    tokens = tokens[:, : end.max() + 1]
    row, source = _distinct_prefixes(tokens, end)
    x = clip.token_embedding(tokens.flatten()[source])
    x = x + clip.positional_embedding[source % tokens.shape[1]]
    positions = torch.arange(tokens.shape[1])
    mask = torch.where(positions[:, None] >= positions, 0.0, -torch.inf)
    last = row.gather(1, end[:, None])[:, 0]
    width = clip.ln_final.normalized_shape[0]
    for i, block in enumerate(clip.transformer.resblocks):
        assert isinstance(block, ResidualAttentionBlock)
        y = _attend(block.attn, block.ln_1(x), row, mask)
        if i + 1 == len(clip.transformer.resblocks):  # only the ends are read
            x, source = x[last], source[last]
        heads = y[:, source].transpose(0, 1).reshape(-1, width)
        x = x + block.attn.out_proj(heads)
        x = x + block.mlp(block.ln_2(x))
    return clip.ln_final(x) @ clip.text_projection


def _distinct_prefixes(tokens: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Number the distinct prefixes of the texts.

    Args:
        tokens: (N, L).
        end: (N,) last position of each text.

    Returns:
        The prefix that ends at each position, (N, L), and the position in the flattened (N, L) at
        which each of the P prefixes first ends, (P,).
    """
    texts, positions = torch.arange(tokens.shape[0]), torch.arange(tokens.shape[1])
    needed = positions <= end[:, None]
    differs = (tokens[:, None] != tokens).int().cumsum(-1)  # (N, N, L)
    # The first text with the same prefix; positions after a text's end are never read.
    first = ((differs == 0) & needed).int().argmax(1)
    is_new = needed & (first == texts[:, None])
    row = (is_new.flatten().int().cumsum(0) - 1).reshape(tokens.shape).gather(0, first)
    return row, is_new.flatten().nonzero()[:, 0]


def _attend(attention: Attention, x: Tensor, row: Tensor, mask: Tensor) -> Tensor:
    """Compute the heads of attention of every text, before the output layer.

    Args:
        x: (P, width), a row for each distinct prefix.
        row: (N, L) row of `x` at each position of each text.
        mask: (L, L).

    Returns:
        (heads, N * L, width / heads).
    """
    heads = attention.heads
    width = attention.out_proj.in_features // heads
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    # Transposed while there are few rows; then q, k and v are (heads, N, L, width).
    parts = qkv.reshape(-1, 3, heads, width).permute(1, 2, 0, 3)
    q, k, v = (part[:, row] for part in parts.unbind())
    scores = q @ k.transpose(2, 3) * width**-0.5 + mask
    return (scores.softmax(3) @ v).reshape(heads, -1, width)
