"""The networks in the forms that ONNX Runtime computes fastest on a CPU, from the same parameters.

`synthesis`, `encode` and `encode_text` give what `Generator.synthesis`, `Encoder4Editing` and
`CLIP.encode_text` give, but for the rounding of float32. Each form is here because a measurement
said so (docs/performance.md):

- 3x3 convolutions of many channels by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray
  2016, "Fast Algorithms for Convolutional Neural Networks"): 36 products in place of 144. ONNX
  Runtime has no such kernel, but Gather and MatMul are enough.
- The stride-2 transposed convolution as four convolutions, one for each parity of row and column,
  whose pixels Gather puts in order: the runtime's own adds its products up on one core.
- Demodulation is put off: with a leaky ReLU f and d > 0, f(d y + b) = d f(y + b / d), so that d
  joins the next layer's style, and one pass over the activations falls away.
- PReLU as two convolutions of single channels, which are fused with their neighbours.
- Texts token by token, each beginning that several texts share only once.

Gather's indices and the transforms are constants of the graph. Weights stay under their own names;
what is computed of them alone the runtime folds when it loads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.clip import CLIP, ResidualAttentionBlock
from styleclip_networks.e4e import FACE_SIZE, BottleneckIRSE, Encoder4Editing
from styleclip_networks.stylegan2 import (
    DEMODULATION_EPS,
    LEAKY_RELU_GAIN,
    LEAKY_RELU_SLOPE,
    Generator,
    StyledConv,
    ToRGB,
)

WINOGRAD_CHANNELS = 128  # with fewer, the transforms cost what the products save
WINOGRAD_SIDES = (16, 256)  # below, weights four times as large are the cost; above, the transforms
PARITY_SIDE = 16  # of the doubled picture; with fewer pixels nothing is won

# F(4, 3) with the points 0, 1, -1, 2, -2 and infinity: y = A [(G w) * (B x)] for a row of 6 pixels.
_B = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0),
      (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
_G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
      (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
_A = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _both(rows: Sequence[Sequence[float]]) -> Tensor:
    """A transform of rows as one of rows and columns."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(matrix, matrix).float()


def suits_winograd(weight: Tensor, side: int) -> bool:
    """Whether `winograd` is worth it: weight (out, in, 3, 3), pictures of `side` pixels."""
    low, high = WINOGRAD_SIDES
    return min(weight.shape[:2]) >= WINOGRAD_CHANNELS and low <= side <= high


def winograd(x: Tensor, weight: Tensor, side: int) -> Tensor:
    """A 3x3 convolution, zero-padded: (N, side^2, in), weight (out, in, 3, 3) → (N, side^2, out).

    Pixels are rows, channels last, so that a tile is gathered as whole rows.
    """
    out, in_channels = weight.shape[:2]
    tiles = side // 4  # in a row; each gives 4x4 pixels and reads 6x6
    at = 4 * np.arange(tiles) + np.arange(-1, 5)[:, None]  # (6, tiles)
    at = np.where((at >= 0) & (at < side), at, side**2)
    row, column = at[:, None, :, None], at[None, :, None, :]
    # (6, 6, tiles, tiles); number `side**2` is a row of zeros behind the pixels
    pixel = np.minimum(row * side + column, side**2)
    filters = _both(_G) @ weight.permute(2, 3, 1, 0).reshape(9, -1)
    x = _gather(F.pad(x, (0, 0, 0, 1)), pixel).reshape(-1, 36, tiles**2 * in_channels)
    x = (_both(_B) @ x).reshape(-1, 36, tiles**2, in_channels)
    x = (x @ filters.reshape(36, in_channels, out)).reshape(-1, 36, tiles**2 * out)
    x = (_both(_A) @ x).reshape(-1, 16 * tiles**2, out)
    return _gather(x, np.arange(16 * tiles**2).reshape(4, 4, tiles, tiles).transpose(2, 0, 3, 1))


def transposed_by_parity(x: Tensor, weight: Tensor, side: int) -> Tensor:
    """`F.conv_transpose2d` with stride 2: (N, in, side, side), weight (out, in, 3, 3) →
    (N, out, 2 side + 1, 2 side + 1)."""
    index = np.empty((2 * side + 1, 2 * side + 1), np.int32)
    parts, first = [], 0
    for a in (0, 1):  # even rows see taps 2 and 0 of two pixels, odd rows tap 1 of one
        for b in (0, 1):
            taps = weight[:, :, [1] if a else [2, 0]][:, :, :, [1] if b else [2, 0]]
            part = F.conv2d(x, taps, padding=(1 - a, 1 - b))
            height, width = side + 1 - a, side + 1 - b
            place = np.arange(first, first + height * width)
            index[a::2, b::2] = place.reshape(height, width)
            first += height * width
            parts.append(_rows(part))
    return _picture(_gather(torch.cat(parts, 1), index), 2 * side + 1)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """PReLU of (N, C, H, W) with a slope (C,) for each channel, none above 1."""
    linear = F.conv2d(x, slope[:, None, None, None], groups=len(slope))
    return linear + F.relu(F.conv2d(x, 1 - slope[:, None, None, None], groups=len(slope)))


def _gather(x: Tensor, index: np.ndarray) -> Tensor:
    """The rows of (N, R, C) that `index` names, in the order of its elements."""
    return x.index_select(1, torch.from_numpy(index.astype(np.int32).ravel()))


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, HW, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _picture(x: Tensor, side: int) -> Tensor:
    """(N, HW, C) → (N, C, H, W)."""
    return x.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def synthesis(g: Generator, styles: Sequence[Tensor]) -> Tensor:
    """S (a (N, C) style for each of `g.layers`) → picture (N, 3, resolution, resolution)."""
    side, rgb, by_layer = 4, None, dict(zip((s.name for s in g.layers), styles, strict=True))
    x = g.input.input.expand(styles[0].shape[0], -1, -1, -1)
    layers = [("conv1", g.conv1), *((f"convs.{i}", conv) for i, conv in enumerate(g.convs))]
    rgbs: list[ToRGB] = [g.to_rgb1, *g.to_rgbs]  # type: ignore[list-item]
    rows = False  # whether x is (N, HW, C)
    demodulation: Tensor | float = 1.0
    for i, (name, layer) in enumerate(layers):
        assert isinstance(layer, StyledConv)
        x = x * _for_each_channel(by_layer[name] * demodulation, rows)
        conv = layer.conv
        weight = conv.weight[0] * conv.scale
        if conv.upsample:
            x = _picture(x, side) if rows else x
            side *= 2
            if side >= PARITY_SIDE:
                x = transposed_by_parity(x, weight, side // 2)
            else:
                x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x, rows = conv.blur(x), False
            following = layers[i + 1][1]
            assert isinstance(following, StyledConv)
            if suits_winograd(following.conv.weight[0], side):
                x, rows = _rows(x), True
        elif rows:
            x = winograd(x, weight, side)
        else:
            x = F.conv2d(x, weight, padding=1)
        energy = by_layer[name].square() @ weight.square().sum((2, 3)).T
        demodulation = torch.rsqrt(energy + DEMODULATION_EPS) * LEAKY_RELU_GAIN
        if g.use_noise:
            shift = _with_noise(layer, g.noises[i], demodulation, rows)
        else:
            shift = _for_each_channel(layer.activate.bias * LEAKY_RELU_GAIN / demodulation, rows)
        x = F.leaky_relu(x + shift, LEAKY_RELU_SLOPE)
        if i % 2 == 0:
            to_rgb = rgbs[i // 2]
            style = by_layer[f"to_rgbs.{i // 2 - 1}" if i else "to_rgb1"] * demodulation
            filters = to_rgb.conv.weight[0, :, :, 0, 0] * to_rgb.conv.scale * style[:, None]
            features = x.transpose(1, 2) if rows else x.flatten(2)
            new = (filters @ features).unflatten(2, (side, side)) + to_rgb.bias
            rgb = new if rgb is None else new + to_rgb.upsample(rgb)
    assert rgb is not None
    return rgb


def _for_each_channel(values: Tensor, rows: bool) -> Tensor:
    return values[:, None] if rows else values[:, :, None, None]


def _with_noise(layer: StyledConv, noise: Tensor, demodulation: Tensor, rows: bool) -> Tensor:
    """(noise + bias) / demodulation for each pixel, as one product of two columns."""
    picture = (layer.noise.weight * LEAKY_RELU_GAIN * noise).flatten()
    pixels = torch.stack([picture, torch.ones_like(picture)])  # (2, HW)
    channels = torch.stack(
        [torch.ones_like(layer.activate.bias), layer.activate.bias * LEAKY_RELU_GAIN]
    )
    factors = channels / demodulation[:, None]  # (N, 2, out)
    if rows:
        return pixels.T @ factors
    return (factors.transpose(1, 2) @ pixels).unflatten(2, noise.shape[2:])


def encode(e: Encoder4Editing, face: Tensor) -> Tensor:
    """`Encoder4Editing.forward`: (N, 3, 256, 256) → (N, num_latents, w_dim)."""
    convolution, norm, activation = e.input_layer
    x = _prelu(norm(convolution(face)), activation)
    side, ends = FACE_SIZE, []
    for i, unit in enumerate(e.body):
        assert isinstance(unit, BottleneckIRSE)
        x = _unit(unit, x, side)
        side //= unit.res_layer[3].stride[0]  # type: ignore[index, operator, assignment]
        if i in e.stage_ends:
            ends.append(x)
    return e.heads(*ends[1:])


def _prelu(x: Tensor, module: torch.nn.Module) -> Tensor:
    slope: Tensor = module.weight  # type: ignore[assignment]
    return prelu(x, slope) if float(slope.max()) <= 1 else module(x)


def _unit(unit: BottleneckIRSE, x: Tensor, side: int) -> Tensor:
    norm, first, activation, second, last_norm, gates = unit.res_layer
    y = norm(x)
    weight: Tensor = first.weight  # type: ignore[assignment]
    if suits_winograd(weight, side):
        y = _picture(winograd(_rows(y), weight, side), side)
    else:
        y = first(y)
    y = _prelu(y, activation)
    weight, stride = second.weight, second.stride[0]  # type: ignore[assignment, index]
    if stride == 1 and suits_winograd(weight, side):
        y = _picture(winograd(_rows(y), weight, side), side)
    else:
        y = second(y)
    return unit.shortcut_layer(x) + gates(last_norm(y))


def encode_text(clip: CLIP, tokens: Tensor) -> Tensor:
    """`CLIP.encode_text`: (N, 77) int → (N, embed_dim).

    Attention is causal, so what stands at a position follows from the tokens up to it: each
    distinct beginning of the texts is one row of `x`, (T, width), and attention alone sees texts.
    """
    end = tokens.argmax(-1)
    tokens = tokens[:, : end.max() + 1]
    texts, positions = torch.arange(tokens.shape[0]), torch.arange(tokens.shape[1])
    needed = positions <= end[:, None]
    differs = (tokens[:, None] != tokens).int().cumsum(-1)  # (N, N, L)
    # The first text that begins alike; behind its end a text is given any, as nothing reads it.
    first = ((differs == 0) & needed).int().argmax(1)
    new = needed & (first == texts[:, None])
    row = (new.flatten().int().cumsum(0) - 1).reshape(tokens.shape).gather(0, first)  # (N, L)
    place = new.flatten().nonzero()[:, 0]  # (T,), where in (N, L) a row is new
    x = clip.token_embedding(tokens.flatten()[place])
    x = x + clip.positional_embedding[place % tokens.shape[1]]
    mask = torch.where(positions[:, None] >= positions, 0.0, -torch.inf)
    last = row.gather(1, end[:, None])[:, 0]
    for i, block in enumerate(clip.transformer.resblocks):
        assert isinstance(block, ResidualAttentionBlock)
        attn, width = block.attn, block.attn.out_proj.in_features
        head = width // attn.heads
        qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        # Transposed while there are few rows; then (heads, N, L, head) each.
        parts = qkv.reshape(-1, 3, attn.heads, head).permute(1, 2, 0, 3)
        q, k, v = (part[:, row] for part in parts.unbind())
        scores = q @ k.transpose(2, 3) * head**-0.5 + mask
        y = (scores.softmax(3) @ v).reshape(attn.heads, -1, head)
        if i + 1 == len(clip.transformer.resblocks):  # only the ends are read
            x, place = x[last], place[last]
        x = x + attn.out_proj(y[:, place].transpose(0, 1).reshape(-1, width))
        x = x + block.mlp(block.ln_2(x))
    return clip.ln_final(x) @ clip.text_projection
