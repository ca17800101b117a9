"""StyleGAN2 from W_PLUS and DELTA to pixels, for a GPU.

The arithmetic of `styleclip_networks.stylegan2` in another order: the style scales the features in
front of a convolution and demodulation its output, so that one set of weights serves the batch.
cuDNN runs the convolutions, and one kernel everything between two of them. On a Hopper GPU the last
block's convolutions each fuse with their epilogue into one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleclip_networks.constants import LEAKY_RELU_GAIN
from styleclip_networks.stylespace import StyleLayer, style_layers
from styleclip_server.engines.cuda.convolutions import Convolution, TransposedConvolution
from styleclip_server.engines.cuda.kernels import hopper
from styleclip_server.engines.cuda.kernels.stylegan2 import modulation
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import (
    EpilogueParams,
    ToRGBParams,
    apply_epilogue_,
)
from styleclip_server.engines.cuda.kernels.stylegan2.modulation import BatchStyles
from styleclip_server.engines.cuda.kernels.stylegan2.upsample import blur_and_apply_epilogue
from styleclip_server.engines.cuda.parameters import Parameters

if TYPE_CHECKING:
    from styleclip_server.engines.cuda.hopper_block import HopperBlock

ConvolutionT = TypeVar("ConvolutionT", Convolution, TransposedConvolution)


@dataclass(frozen=True)
class ConvLayer(Generic[ConvolutionT]):
    """A 3x3 convolution and its epilogue; where its style begins in S."""

    style_start: int
    convolution: ConvolutionT
    epilogue: EpilogueParams


@dataclass(frozen=True)
class SynthesisBlock:
    """The layers of one resolution. Only the 4x4 block has no upsampling layer."""

    up: ConvLayer[TransposedConvolution] | None
    conv: ConvLayer[Convolution]
    to_rgb: ToRGBParams

    @property
    def style_start(self) -> int:
        return (self.up or self.conv).style_start

    def __call__(
        self,
        x: Tensor,
        skip: Tensor | None,
        styles: BatchStyles,
        next_style: Tensor | None,
        image_dtype: torch.dtype,
    ) -> tuple[Tensor | None, Tensor]:
        """Run the block, whose output has r px.

        Args:
            x: features times the block's first style, (N, r / 2, r / 2, C), or (N, 4, 4, C) in the
                first block, of the filters' dtype.
            skip: RGB of the block before, (N, 3, r / 2, r / 2) float32; None in the first block.
            next_style: normalized styles from the next block's on, (N, ≥ C) float32; None in the
                last block.
            image_dtype: dtype of RGB.

        Returns:
            (features times the next style (N, r, r, C), or None without a next style; RGB), see
            `apply_epilogue_`.
        """
        if self.up is not None:
            size = x.shape[1], x.shape[2]
            style = styles.normalized[:, self.conv.style_start :]
            x = blur_and_apply_epilogue(
                self.up.convolution(x), size, self.up.epilogue, styles.dcoefs, style,
                padding=self.conv.convolution.uses_pixel_pairs,
            )  # fmt: skip
        return apply_epilogue_(
            self.conv.convolution(x), self.conv.epilogue, self.to_rgb, styles.dcoefs, styles.raw,
            next_style, skip, image_dtype,
        )  # fmt: skip


class CudaGenerator:
    """W_PLUS (N, L, w_dim) float32, DELTA (N, S) float32 → IMAGE (N, H, W, 3) uint8.

    Nothing waits for the device, so that a CUDA graph can capture a call.

    Args:
        weights: parameters by the names in `model.onnx` or in the generator's state_dict; sizes
            are read from them.
        dtype: of filters and features.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        prefix = "generator." if "generator.input.input" in weights else ""
        builder = _Builder(Parameters(weights, prefix, self.device, dtype))
        self.affine_weight, self.affine_bias, self.latent = builder.affine_layers()
        self.demodulation_weights = builder.demodulation_weights()
        self.blocks = builder.blocks()
        self.input = builder.input()

    def __call__(self, w_plus: Tensor, delta: Tensor) -> Tensor:
        return self.synthesis(self.styles(w_plus, delta), image_dtype=torch.uint8)

    def styles(self, w_plus: Tensor, delta: Tensor) -> Tensor:
        """Compute S of W_PLUS with the offset DELTA, (N, S) float32."""
        return modulation.compute_styles(
            w_plus, delta, self.affine_weight, self.affine_bias, self.latent
        )

    def features(self, styles: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """Run the blocks up to `last`, which is not the last of all.

        Args:
            styles: S, (N, S) float32.

        Returns:
            Features (N, r, r, C) of the filters' dtype and RGB (N, 3, r, r) float32 of that block.
        """
        blocks = self.blocks[: last + 1]
        unscaled = torch.ones_like(styles)
        features, rgb = self._run(styles, blocks, self.input, None, unscaled, torch.float32)
        assert features is not None  # since there is a next style
        return features, rgb

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
            image_dtype: dtype of the result, see `apply_epilogue_`.

        Returns:
            RGB of block `last`, (N, 3, r, r), or (N, r, r, 3) as uint8.
        """
        blocks = self.blocks[first : None if last is None else last + 1]
        x = self.input if features is None else features
        return self._run(styles, blocks, x, skip, None, image_dtype)[1]

    def _run(
        self,
        styles: Tensor,
        blocks: Sequence[SynthesisBlock | HopperBlock],
        x: Tensor,
        skip: Tensor | None,
        next_style: Tensor | None,
        image_dtype: torch.dtype,
    ) -> tuple[Tensor | None, Tensor]:
        """Run blocks on features `x`, and return what the last one does."""
        batch = modulation.demodulate(styles, self.demodulation_weights, LEAKY_RELU_GAIN)
        begin = blocks[0].style_start
        style = batch.normalized[:, None, None, begin : begin + x.shape[3]]
        x = (x * style.to(x.dtype)).to(self.dtype)
        for block, following in pairwise(blocks):
            following_style = batch.normalized[:, following.style_start :]
            output, skip = block(x, skip, batch, following_style, torch.float32)
            assert output is not None  # since there is a next style
            x = output
        return blocks[-1](x, skip, batch, next_style, image_dtype)


class _Builder:
    """Builds the layers from the parameters of `model.onnx`."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        channels = {4: self._style_channels("conv1")}
        for i in range(1, 1 + parameters.count("to_rgbs.{}.conv.weight")):
            channels[4 << i] = self._style_channels(f"convs.{2 * i - 1}")
        self.layers = style_layers(channels)
        self.convs = [layer for layer in self.layers if not layer.to_rgb]
        self.style_starts = _starts(self.layers, [layer.channels for layer in self.layers])
        outputs = [parameters.array(f"{layer.name}.conv.weight").shape[1] for layer in self.convs]
        self.n_dcoefs = sum(outputs)
        self.dcoef_starts = _starts(self.convs, outputs)

    def affine_layers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Join all affine layers: weight (S, w_dim), bias (S,), row of W_PLUS (S,) int32."""
        names = [f"{layer.name}.conv.modulation" for layer in self.layers]
        weights = [self.parameters.array(f"{name}.weight") for name in names]
        biases = [self.parameters.array(f"{name}.bias") for name in names]
        latents = [np.full(layer.channels, layer.latent) for layer in self.layers]
        return (
            self.parameters.constant(np.concatenate([w / math.sqrt(w.shape[1]) for w in weights])),
            self.parameters.constant(np.concatenate(biases)),
            self.parameters.constant(np.concatenate(latents), torch.int32),
        )

    def demodulation_weights(self) -> modulation.DemodulationWeights:
        """Sum the squared filters of all convolutions, and list the tiles of `demodulate`."""
        squared_weights, tiles, weight_start = [], [], 0
        for layer in self.convs:
            squares = np.square(self._filters(layer)).sum((2, 3))
            tiles += modulation.demodulation_tiles(
                self.style_starts[layer.name],
                layer.channels,
                self.dcoef_starts[layer.name],
                len(squares),
                weight_start,
            )
            squared_weights.append(squares.reshape(-1))
            weight_start += squares.size
        return modulation.DemodulationWeights(
            self.parameters.constant(np.concatenate(squared_weights)),
            self.parameters.constant(np.array(tiles), torch.int32),
            self.n_dcoefs,
            max(layer.channels for layer in self.convs),
        )

    def blocks(self) -> list[SynthesisBlock | HopperBlock]:
        """Build one block for each resolution."""
        conv1, to_rgb1, *others = self.layers
        *middle, last = zip(others[::3], others[1::3], others[2::3], strict=True)
        return [
            SynthesisBlock(None, self._conv(conv1), self._to_rgb(to_rgb1)),
            *(self._block(*layers) for layers in middle),
            self._hopper_block(*last) or self._block(*last),
        ]

    def input(self) -> Tensor:
        """Return the learned constant, (1, 4, 4, C) float32."""
        return self.parameters.constant(self.parameters.tensor("input.input").permute(0, 2, 3, 1))

    def _block(self, up: StyleLayer, conv: StyleLayer, to_rgb: StyleLayer) -> SynthesisBlock:
        return SynthesisBlock(self._up(up), self._conv(conv), self._to_rgb(to_rgb))

    def _up(self, layer: StyleLayer) -> ConvLayer[TransposedConvolution]:
        device, dtype = self.parameters.device, self.parameters.dtype
        convolution = TransposedConvolution(self._filters(layer), device, dtype)
        return ConvLayer(self.style_starts[layer.name], convolution, self._epilogue(layer))

    def _conv(self, layer: StyleLayer) -> ConvLayer[Convolution]:
        device, dtype = self.parameters.device, self.parameters.dtype
        # The 4x4 layer reads the constant, which has no columns of zeros.
        allow_pairs = layer.resolution > 4
        convolution = Convolution(self._filters(layer), device, dtype, allow_pairs)
        return ConvLayer(self.style_starts[layer.name], convolution, self._epilogue(layer))

    def _to_rgb(self, layer: StyleLayer) -> ToRGBParams:
        weight = self.parameters.array(f"{layer.name}.conv.weight")[0, :, :, 0, 0]
        return ToRGBParams(
            self.parameters.constant(weight / math.sqrt(weight.shape[1])),
            self.parameters.constant(self.parameters.array(f"{layer.name}.bias").reshape(3)),
            self.style_starts[layer.name],
        )

    def _hopper_block(
        self, up: StyleLayer, conv: StyleLayer, to_rgb: StyleLayer
    ) -> HopperBlock | None:
        """Build the last block, if the kernels of `hopper` run here and fit its layers."""
        device, dtype = self.parameters.device, self.parameters.dtype
        if dtype != torch.float16 or not hopper.is_available(device):
            return None
        from styleclip_server.engines.cuda import hopper_block

        up_weight, conv_weight = self._filters(up), self._filters(conv)
        if up_weight.shape != hopper_block.UP_FILTERS_SHAPE:
            return None
        return hopper_block.HopperBlock(
            hopper_block.pack_up_layer(
                self.style_starts[up.name],
                self.parameters.constant(up_weight),
                self._epilogue(up),
            ),
            hopper_block.pack_last_layer(
                self.style_starts[conv.name],
                self.parameters.constant(conv_weight),
                self._epilogue(conv),
            ),
            self._to_rgb(to_rgb),
        )

    def _epilogue(self, layer: StyleLayer) -> EpilogueParams:
        bias = self.parameters.array(f"{layer.name}.activate.bias") * LEAKY_RELU_GAIN
        return EpilogueParams(
            self.dcoef_starts[layer.name], self.parameters.constant(bias), self._noise(layer)
        )

    def _noise(self, layer: StyleLayer) -> Tensor | None:
        name = f"noises.noise_{self.convs.index(layer)}"
        if not self.parameters.has(name):
            return None
        strength = float(self.parameters.array(f"{layer.name}.noise.weight").reshape(()))
        noise = self.parameters.array(name)[0, 0]
        return self.parameters.weight(noise * (strength * LEAKY_RELU_GAIN))

    def _filters(self, layer: StyleLayer) -> NDArray[np.floating]:
        """Return filters (out, in, 3, 3), scaled by the equalized learning rate."""
        weight = self.parameters.array(f"{layer.name}.conv.weight")[0]
        return weight / math.sqrt(weight[0].size)

    def _style_channels(self, name: str) -> int:
        return len(self.parameters.array(f"{name}.conv.modulation.weight"))


def _starts(layers: Sequence[StyleLayer], sizes: Sequence[int]) -> dict[str, int]:
    """Return where each layer begins, by its name, if the sizes are stored one after the other."""
    starts = accumulate(sizes[:-1], initial=0)
    return {layer.name: start for layer, start in zip(layers, starts, strict=True)}
