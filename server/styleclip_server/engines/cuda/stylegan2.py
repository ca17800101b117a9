"""StyleGAN2 from W_PLUS and DELTA to pixels, for a GPU.

The arithmetic of `styleclip_networks.stylegan2` in another order: the style scales the activations
in front of a convolution and demodulation its output, so that one set of weights serves the batch.
cuDNN runs the convolutions, and one kernel all that lies between two of them. On a Hopper GPU the
last block's convolutions are one kernel with their epilogues, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_networks.stylegan2 import LEAKY_RELU_GAIN
from styleclip_networks.stylespace import StyleLayer, style_layers
from styleclip_server.engines.cuda.convolutions import Convolution, TransposedConvolution
from styleclip_server.engines.cuda.kernels import hopper
from styleclip_server.engines.cuda.kernels.stylegan2 import modulation
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import (
    EpilogueParams,
    ToRGBParams,
    apply_epilogue,
)
from styleclip_server.engines.cuda.kernels.stylegan2.upsample import blur_and_apply_epilogue


@dataclass(frozen=True)
class BatchStyles:
    """The styles of a batch, (N, S), as given and normalized, and its dcoefs, (N, outputs)."""

    styles: Tensor
    normalized: Tensor
    dcoefs: Tensor


@dataclass(frozen=True)
class UpLayer:
    """An upsampling convolution and what follows it; where its style begins in S."""

    style_start: int
    convolution: TransposedConvolution
    epilogue: EpilogueParams


@dataclass(frozen=True)
class ConvLayer:
    """A convolution and what follows it; where its style begins in S."""

    style_start: int
    convolution: Convolution
    epilogue: EpilogueParams


@dataclass(frozen=True)
class SynthesisBlock:
    """The layers of one resolution. Only the 4x4 block has no upsampling layer."""

    up: UpLayer | None
    conv: ConvLayer
    to_rgb: ToRGBParams

    @property
    def style_start(self) -> int:
        return (self.up or self.conv).style_start

    def __call__(
        self,
        x: Tensor,
        skip: Tensor | None,
        batch: BatchStyles,
        next_style: Tensor | None,
        image_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Features times the block's first style, and the skip → features times the next style,
        and RGB; see `apply_epilogue`."""
        if self.up is not None:
            size = x.shape[1], x.shape[2]
            style = batch.normalized[:, self.conv.style_start :]
            x = blur_and_apply_epilogue(
                self.up.convolution(x), size, self.up.epilogue, batch.dcoefs, style,
                padding=self.conv.convolution.uses_pixel_pairs,
            )  # fmt: skip
        return apply_epilogue(
            self.conv.convolution(x), self.conv.epilogue, self.to_rgb, batch.dcoefs, batch.styles,
            next_style, skip, image_dtype,
        )  # fmt: skip


@dataclass(frozen=True)
class HopperBlock:
    """The last block on a Hopper GPU: each convolution is one kernel with its epilogue.

    Attributes:
        style_start, conv_style_start: where the two convolutions' styles begin in S.
        up_taps, conv_taps: their filters, as the kernels take them.
    """

    style_start: int
    conv_style_start: int
    up_taps: Tensor
    up_epilogue: EpilogueParams
    conv_taps: Tensor
    conv_epilogue: EpilogueParams
    to_rgb: ToRGBParams

    def __call__(
        self,
        x: Tensor,
        skip: Tensor | None,
        batch: BatchStyles,
        next_style: Tensor | None,
        image_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Runs the last block: there is no next style, and `x` is returned unchanged."""
        assert skip is not None and next_style is None
        features = hopper.up_convolution.upsample_convolve(
            x, self.up_taps, self.up_epilogue, batch.dcoefs,
            batch.normalized[:, self.conv_style_start :],
        )  # fmt: skip
        rgb = hopper.last_convolution.convolve_to_rgb(
            features, self.conv_taps, self.conv_epilogue, self.to_rgb, batch.dcoefs, batch.styles,
            skip, image_dtype,
        )  # fmt: skip
        return x, rgb


class CudaGenerator:
    """W_PLUS (N, L, w_dim) float32, DELTA (N, S) float32 → IMAGE (N, H, W, 3) uint8.

    Nothing waits for the device, so that a CUDA graph can capture a call.

    Args:
        weights: parameters by the names in `model.onnx`; sizes are read from them.
        dtype: of filters and features.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        builder = _Builder(weights, self.device, dtype)
        self.affine_weight, self.affine_bias, self.latent = builder.affine_layers()
        self.demodulation_weights = builder.demodulation_weights()
        self.blocks = builder.blocks()
        self.input = builder.input()

    def __call__(self, w_plus: Tensor, delta: Tensor) -> Tensor:
        styles = modulation.compute_styles(
            w_plus, delta, self.affine_weight, self.affine_bias, self.latent
        )
        return self.synthesis(styles, image_dtype=torch.uint8)

    def synthesis(
        self,
        styles: Tensor,
        *,
        first: int = 0,
        last: int | None = None,
        features: Tensor | None = None,
        skip: Tensor | None = None,
        image_dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Run the blocks from `first` to `last`.

        Args:
            styles: S, (N, S) float32.
            first, last: blocks: 0 is 4 px, 1 is 8 px, and so on; `last` None is the last of all.
            features, skip: the input of block `first` from 1 on, (N, r, r, C) and (N, 3, r, r)
                float32.
            image_dtype: dtype of the result, see `apply_epilogue`.

        Returns:
            RGB of block `last`, (N, 3, r, r), or (N, r, r, 3) as uint8.
        """
        batch = BatchStyles(
            styles, *modulation.compute_dcoefs(styles, self.demodulation_weights, LEAKY_RELU_GAIN)
        )
        blocks = self.blocks[first : None if last is None else last + 1]
        x = self.input if features is None else features
        begin = blocks[0].style_start
        style = batch.normalized[:, None, None, begin : begin + x.shape[3]]
        x = (x * style.to(x.dtype)).to(self.dtype)
        for block, following in pairwise(blocks):
            next_style = batch.normalized[:, following.style_start :]
            x, skip = block(x, skip, batch, next_style, torch.float32)
        _, image = blocks[-1](x, skip, batch, None, image_dtype)
        return image


class _Builder:
    """Builds the layers from the parameters of `model.onnx`."""

    def __init__(
        self, weights: Mapping[str, np.ndarray], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.weights = {name.removeprefix("generator."): array for name, array in weights.items()}
        self.device, self.dtype = device, dtype
        channels = {4: self._style_channels("conv1")}
        while f"to_rgbs.{len(channels) - 1}.bias" in self.weights:
            number = len(channels)
            channels[4 << number] = self._style_channels(f"convs.{2 * number - 1}")
        self.layers = style_layers(channels)
        self.convs = [layer for layer in self.layers if not layer.to_rgb]
        self.style_starts = _starts(self.layers, [layer.channels for layer in self.layers])
        outputs = [self.weights[f"{layer.name}.conv.weight"].shape[1] for layer in self.convs]
        self.num_dcoefs = sum(outputs)
        self.dcoef_starts = _starts(self.convs, outputs)

    def affine_layers(self) -> tuple[Tensor, Tensor, Tensor]:
        """All affine layers as one: weight (S, w_dim), bias (S,), row of W_PLUS (S,) int32."""
        names = [f"{layer.name}.conv.modulation" for layer in self.layers]
        weights = [self.weights[f"{name}.weight"] for name in names]
        latents = [np.full(layer.channels, layer.latent) for layer in self.layers]
        return (
            self._constant(np.concatenate([w / math.sqrt(w.shape[1]) for w in weights])),
            self._constant(np.concatenate([self.weights[f"{name}.bias"] for name in names])),
            self._constant(np.concatenate(latents), torch.int32),
        )

    def demodulation_weights(self) -> modulation.DemodulationWeights:
        """Squared filter sums of all convolutions, and the tiles of `compute_dcoefs`."""
        squared_weight, tiles, weight_start = [], [], 0
        for layer in self.convs:
            squares = np.square(self._filters(layer)).sum((2, 3))
            outputs = len(squares)
            for first in range(0, outputs, modulation.BLOCK_ROWS):
                tiles.append((
                    self.style_starts[layer.name],
                    layer.channels,
                    self.dcoef_starts[layer.name] + first,
                    min(modulation.BLOCK_ROWS, outputs - first),
                    weight_start + first * layer.channels,
                ))  # fmt: skip
            squared_weight.append(squares.reshape(-1))
            weight_start += squares.size
        return modulation.DemodulationWeights(
            self._constant(np.concatenate(squared_weight)),
            self._constant(np.array(tiles), torch.int32),
            self.num_dcoefs,
            max(layer.channels for layer in self.convs),
        )

    def blocks(self) -> list[SynthesisBlock | HopperBlock]:
        conv1, to_rgb1, *others = self.layers
        blocks: list[SynthesisBlock | HopperBlock] = [
            SynthesisBlock(None, self._conv(conv1), self._to_rgb(to_rgb1))
        ]
        triples = list(zip(others[::3], others[1::3], others[2::3], strict=True))
        for up, conv, to_rgb in triples:
            if (up, conv, to_rgb) == triples[-1] and self._fits_hopper(up):
                blocks.append(self._hopper_block(up, conv, to_rgb))
            else:
                blocks.append(SynthesisBlock(self._up(up), self._conv(conv), self._to_rgb(to_rgb)))
        return blocks

    def input(self) -> Tensor:
        """The learned constant, (1, 4, 4, C)."""
        return self._constant(self.weights["input.input"]).permute(0, 2, 3, 1).contiguous()

    def _up(self, layer: StyleLayer) -> UpLayer:
        conv = TransposedConvolution(self._filters(layer), self.device, self.dtype)
        return UpLayer(self.style_starts[layer.name], conv, self._epilogue(layer))

    def _conv(self, layer: StyleLayer) -> ConvLayer:
        # The 4x4 layer reads the constant, which has no columns of zeros.
        conv = Convolution(
            self._filters(layer), self.device, self.dtype, allow_pairs=layer.resolution > 4
        )
        return ConvLayer(self.style_starts[layer.name], conv, self._epilogue(layer))

    def _to_rgb(self, layer: StyleLayer) -> ToRGBParams:
        weight = self.weights[f"{layer.name}.conv.weight"][0, :, :, 0, 0]
        return ToRGBParams(
            self._constant(weight / math.sqrt(weight.shape[1])),
            self._constant(self.weights[f"{layer.name}.bias"].reshape(3)),
            self.style_starts[layer.name],
        )

    def _fits_hopper(self, up: StyleLayer) -> bool:
        """Whether the kernels of `hopper` run on this device, with layers of these sizes."""
        if self.dtype != torch.float16 or not hopper.is_available(self.device):
            return False
        sizes = hopper.up_convolution.OUT_CHANNELS, hopper.up_convolution.IN_CHANNELS
        return self._filters(up).shape[:2] == sizes

    def _hopper_block(self, up: StyleLayer, conv: StyleLayer, to_rgb: StyleLayer) -> HopperBlock:
        up_weight, conv_weight = (self._constant(self._filters(layer)) for layer in (up, conv))
        return HopperBlock(
            self.style_starts[up.name],
            self.style_starts[conv.name],
            hopper.up_convolution.arrange_taps(up_weight).to(self.dtype),
            self._epilogue(up),
            hopper.last_convolution.arrange_taps(conv_weight).to(self.dtype),
            self._epilogue(conv),
            self._to_rgb(to_rgb),
        )

    def _epilogue(self, layer: StyleLayer) -> EpilogueParams:
        bias = self._constant(self.weights[f"{layer.name}.activate.bias"] * LEAKY_RELU_GAIN)
        noise = self.weights.get(f"noises.noise_{self.convs.index(layer)}")
        scaled_noise = None
        if noise is not None:
            strength = float(self.weights[f"{layer.name}.noise.weight"].reshape(()))
            scaled_noise = self._constant(noise[0, 0] * (strength * LEAKY_RELU_GAIN), self.dtype)
        return EpilogueParams(self.dcoef_starts[layer.name], bias, scaled_noise)

    def _filters(self, layer: StyleLayer) -> np.ndarray:
        """(out, in, 3, 3), scaled by the equalized learning rate."""
        weight = self.weights[f"{layer.name}.conv.weight"][0]
        return weight / math.sqrt(weight[0].size)

    def _style_channels(self, name: str) -> int:
        return len(self.weights[f"{name}.conv.modulation.weight"])

    def _constant(self, array: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=self.device)


def _starts(layers: Sequence[StyleLayer], sizes: Sequence[int]) -> dict[str, int]:
    """Where each layer begins, by its name, if the sizes are stored one after the other."""
    starts = accumulate(sizes[:-1], initial=0)
    return {layer.name: start for layer, start in zip(layers, starts, strict=True)}
