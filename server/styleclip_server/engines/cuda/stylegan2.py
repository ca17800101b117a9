"""StyleGAN2 from W_PLUS and DELTA to pixels, for a GPU.

The arithmetic of `styleclip_networks.stylegan2` in another order. The style scales the
activations before the convolution and demodulation its result, so that the weights are constants
of the whole batch. The up-sampling convolution is a plain 2x2 convolution to the four phases of
the transposed one (16 taps, of which 7 are zero; both filters folded into one 3x3 would take 36),
or, where each alone has channels enough to fill the device, one for each row of phases (12 taps)
or for each phase (9). cuDNN runs the convolutions; everything between two of them is one kernel.
On a Hopper the last block's convolutions are one with what follows them, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_server.engines.cuda.kernels import hopper
from styleclip_server.engines.cuda.kernels import stylegan2 as kernels

GAIN = math.sqrt(2.0)  # of the leaky ReLU
# The up-sampling convolution's phases are computed apart from so many output channels and pixels.
APART_FROM, ROWS_APART_FROM, PIXELS_APART_FROM = 256, 64, 4096
PAIRS_UP_TO = 32  # output channels up to which a convolution gives two pixels at once


class Generator:
    """W_PLUS (N, L, W) float32, DELTA (N, S) float32 → IMAGE (N, H, W, 3) uint8.

    `weights` are the parameters of `model.onnx`; sizes are read off them. Nothing waits for the
    device, so a call can be captured in a CUDA graph.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._weights = {k.removeprefix("generator."): v for k, v in weights.items()}
        self.blocks = 0
        while f"to_rgbs.{self.blocks}.bias" in self._weights:
            self.blocks += 1
        self._styles()
        self._convolutions()
        self.last_block: tuple[Tensor, Tensor] | None = None
        if dtype == torch.float16 and hopper.is_available(self.device):
            self.last_block = self._last_block()
        del self._weights

    def _constant(self, array: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=self.device)

    def _layers(self) -> list[tuple[str, int]]:
        """(module, row of W_PLUS) of every modulation, in the order of S."""
        layers = [("conv1", 0), ("to_rgb1", 1)]
        for i in range(self.blocks):
            layers += [(f"convs.{2 * i}", 2 * i + 1), (f"convs.{2 * i + 1}", 2 * i + 2)]
            layers.append((f"to_rgbs.{i}", 2 * i + 3))
        return layers

    def _styles(self) -> None:
        """The affine layers as one matrix, and where each layer's style begins in S."""
        rows, biases, latents = [], [], []
        self.starts: dict[str, int] = {}
        begin = 0
        for name, latent in self._layers():
            weight = self._weights[f"{name}.conv.modulation.weight"]
            self.starts[name] = begin
            begin += len(weight)
            rows.append(weight / math.sqrt(weight.shape[1]))
            biases.append(self._weights[f"{name}.conv.modulation.bias"])
            latents.append(np.full(len(weight), latent))
        self.affine = self._constant(np.concatenate(rows))
        self.affine_bias = self._constant(np.concatenate(biases))
        self.latent = self._constant(np.concatenate(latents), torch.int32)

    def _convolutions(self) -> None:
        energies: list[np.ndarray] = []
        table = []
        self.outputs = self.widest = 0
        self.convs: dict[str, tuple[list[Tensor], kernels.Finish]] = {}
        self.to_rgbs: dict[str, kernels.ToRGB] = {}
        for number, (name, _) in enumerate(n for n in self._layers() if "rgb" not in n[0]):
            weight = self._filters(name)
            out, channels = weight.shape[:2]
            energy = np.square(weight).sum((2, 3))
            begin = sum(e.size for e in energies)
            for first in range(0, out, kernels.ROWS):
                rows = min(kernels.ROWS, out - first)
                at = self.outputs + first, rows, begin + first * channels
                table.append((self.starts[name], channels, *at))
            energies.append(energy)
            finish = kernels.Finish(
                self.outputs,
                self._constant(self._weights[f"{name}.activate.bias"] * GAIN),
                self._noise(name, number),
            )
            if name == "conv1":
                forms = [weight]
            elif int(name.removeprefix("convs.")) % 2 == 0:
                forms = _phases(weight)
            else:
                forms = [_pair(weight) if out <= PAIRS_UP_TO else weight]
            filters = [
                self._constant(taps, self.dtype).to(memory_format=torch.channels_last)
                for taps in forms
            ]
            self.convs[name] = filters, finish
            self.outputs += out
            self.widest = max(self.widest, channels)
        for name, _ in self._layers():
            if "rgb" in name:
                weight = self._weights[f"{name}.conv.weight"][0, :, :, 0, 0]
                self.to_rgbs[name] = kernels.ToRGB(
                    self._constant(weight / math.sqrt(weight.shape[1])),
                    self._constant(self._weights[f"{name}.bias"].reshape(3)),
                    self.starts[name],
                )
        self.energy = self._constant(np.concatenate([e.reshape(-1) for e in energies]))
        self.table = self._constant(np.array(table), torch.int32)
        self.input = self._constant(self._weights["input.input"]).permute(0, 2, 3, 1).contiguous()

    def _filters(self, name: str) -> np.ndarray:
        """(out, in, k, k), scaled as StyleGAN2 does at run time."""
        weight = self._weights[f"{name}.conv.weight"][0]
        return weight / math.sqrt(weight[0].size)

    def _last_block(self) -> tuple[Tensor, Tensor] | None:
        """The filters of the last block's convolutions for the kernels in `hopper`; None if they
        are not of the size that those were written for."""
        last = 2 * self.blocks - 1
        up, conv = (self._constant(self._filters(f"convs.{i}")) for i in (last - 1, last))
        if up.shape[:2] != (hopper.up_convolution.OUTPUTS, hopper.up_convolution.INPUTS):
            return None
        taps = hopper.up_convolution.taps_of(up), hopper.last_convolution.taps_of(conv)
        return taps[0].to(self.dtype), taps[1].to(self.dtype)

    def _noise(self, name: str, number: int) -> Tensor | None:
        noise = self._weights.get(f"noises.noise_{number}")
        if noise is None:
            return None
        strength = float(self._weights[f"{name}.noise.weight"].reshape(()))
        return self._constant(noise[0, 0] * (strength * GAIN), self.dtype)

    def __call__(self, w_plus: Tensor, delta: Tensor) -> Tensor:
        styles = kernels.styles(w_plus, delta, self.affine, self.affine_bias, self.latent)
        return self.synthesis(styles, picture=torch.uint8)

    def synthesis(
        self,
        styles: Tensor,
        *,
        first: int = -1,
        last: int | None = None,
        features: Tensor | None = None,
        skip: Tensor | None = None,
        picture: torch.dtype = torch.float32,
    ) -> Tensor:
        """S (N, S) float32 → RGB (N, 3, r, r) float32, or another type, see `kernels.finish`.

        Args:
            first, last: blocks, each a doubling of the resolution from 0 (8 px) on; -1 is the 4x4
                layers, None the last of all.
            features, skip: what enters block `first` from 0 on, (N, r, r, C) and (N, 3, r, r)
                float32.
        """
        last = self.blocks - 1 if last is None else last
        names = [f"convs.{i}" for i in range(2 * max(first, 0), 2 * last + 2)]
        if first < 0:
            names.insert(0, "conv1")
        scaled, factors = kernels.demodulation(
            styles, self.energy, self.table, self.outputs, self.widest, GAIN
        )
        x = self.input if features is None else features
        begin = self.starts[names[0]]
        x = (x * scaled[:, None, None, begin : begin + x.shape[3]].to(x.dtype)).to(self.dtype)
        for name, following in zip(names, [*names[1:], None], strict=True):
            filters, finish = self.convs[name]
            number = -1 if name == "conv1" else int(name.removeprefix("convs."))
            after = None if following is None else scaled[:, self.starts[following] :]
            on_hopper = self.last_block if number // 2 == self.blocks - 1 else None
            if number >= 0 and number % 2 == 0:
                assert after is not None
                if on_hopper:
                    x = hopper.up_convolution.up_convolve(x, on_hopper[0], finish, factors, after)
                    continue
                phases = _up_conv(x, filters)
                pairs = following is not None and _is_of_pairs(self.convs[following][0][0])
                size = x.shape[1], x.shape[2]
                x = kernels.blur_and_finish(phases, size, finish, factors, after, pairs)
                continue
            to_rgb = self.to_rgbs["to_rgb1" if number < 0 else f"to_rgbs.{number // 2}"]
            if on_hopper:
                assert skip is not None
                return hopper.last_convolution.convolve_to_rgb(
                    x, on_hopper[1], finish, factors, to_rgb, styles, skip, picture
                )
            x, skip = kernels.finish(
                _conv(x, filters[0]),
                finish,
                factors,
                scaled=after,
                to_rgb=to_rgb,
                styles=styles,
                skip=skip,
                picture=picture if following is None else torch.float32,
            )
        assert skip is not None
        return skip


def _conv(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 filters (out, in, 3, 3), or those of `_pair` and an edge of zeros at each end of a row,
    (N, H, W or W + 2, in) → (N, H, W, out)."""
    n, height, width, channels = x.shape
    if not _is_of_pairs(weight):
        return _convolve(x, weight, (1, 1))
    pairs = x.view(n, height, width // 2, 2 * channels)
    return _convolve(pairs, weight, (1, 0)).view(n, height, width - 2, -1)


def _convolve(x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """A plain convolution of (N, H, W, C), contiguous."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=padding)
    return y.permute(0, 2, 3, 1).contiguous()


def _pair(weight: np.ndarray) -> np.ndarray:
    """3x3 filters (out, in, 3, 3) as those of two neighbouring pixels at once, (2 * out, 2 * in, 3,
    2). A third more arithmetic, but few channels alone leave most of the matrix units idle.

    With an edge of one pixel, pair k has pixels 2k - 1 and 2k. Pixel 2j + b sees by tap t pixel
    2j + b + t - 1, which is number b + t from the first of pair j.
    """
    out, channels = weight.shape[:2]
    result = np.zeros((2, out, 2, channels, 3, 2), weight.dtype)
    for b in range(2):
        for t in range(3):
            result[b, :, (b + t) % 2, :, :, (b + t) // 2] = weight[..., t]
    return result.reshape(2 * out, 2 * channels, 3, 2)


def _is_of_pairs(weight: Tensor) -> bool:
    return weight.shape[2:] == (3, 2)


def _up_conv(x: Tensor, filters: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four phases of the transposed convolution, as `kernels.blur_and_finish` takes them."""
    many = x.shape[0] * x.shape[1] * x.shape[2] >= PIXELS_APART_FROM
    if not many or len(filters) == 1:
        a, b, c, d = _convolve(x, filters[0], (1, 1)).chunk(4, 3)
        return a, b, c, d
    parts = [
        _convolve(x, weight, (weight.shape[2] - 1, weight.shape[3] - 1)) for weight in filters[1:]
    ]
    if len(parts) == 2:
        parts = [*parts[0].chunk(2, 3), *parts[1].chunk(2, 3)]
    a, b, c, d = parts
    return a, b, c, d


def _phases(weight: np.ndarray) -> list[np.ndarray]:
    """The stride-2 transposed convolution's filters (out, in, 3, 3) as plain convolutions'.

    The first has all four phases, (4 * out, in, 2, 2); those that follow, if any, are its rows'
    (2 * out, in, 2 or 1, 2) or its phases' own. Along one side, output 2i sees x[i - 1] by tap 2
    and x[i] by tap 0; output 2i + 1 sees x[i] by tap 1 alone.
    """
    out, channels = weight.shape[:2]
    result = np.zeros((2, 2, out, channels, 2, 2), weight.dtype)
    reads = {0: ((0, 2), (1, 0)), 1: ((1, 1),)}  # phase → (place, tap)
    for a, rows in reads.items():
        for b, columns in reads.items():
            for i, row in rows:
                for k, column in columns:
                    result[a, b, :, :, i, k] = weight[:, :, row, column]
    forms = [result.reshape(4 * out, channels, 2, 2)]
    if out >= APART_FROM:
        forms += [result[a, b][:, :, a:, b:] for a in (0, 1) for b in (0, 1)]
    elif out >= ROWS_APART_FROM:
        forms += [result[a].reshape(2 * out, channels, 2, 2)[:, :, a:] for a in (0, 1)]
    return forms
