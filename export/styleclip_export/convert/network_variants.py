"""Each network in the variants that are converted, with the inputs and bounds to check them by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_contract.domain import middle_size
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.convert import float16_variants, onnx_variants
from styleclip_export.convert.accuracy import (
    BOUNDS,
    Accuracy,
    image_accuracy,
    latent_accuracy,
    text_accuracy,
)
from styleclip_export.convert.random_inputs import (
    InputFactory,
    latent_factory,
    random_faces,
    random_tokens,
)
from styleclip_export.convert.wrappers import FaceToLatent, LatentToImage, TokensToFeatures
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import GradualStyleEncoder
from styleclip_networks.stylegan2 import Generator


@dataclass(frozen=True)
class NetworkVariants:
    """A network as each runtime gets it. All variants share their parameters.

    Attributes:
        model: the served model: names of inputs and outputs.
        reference: the wrapper as PyTorch computes it; OpenVINO gets it too.
        onnxruntime: the wrapper as ONNX Runtime computes it fastest.
        build_float16: builds the wrapper in float16, for GPUs.
        draw_inputs: inputs to trace the variants with and to compare them on.
        bound: largest absolute difference allowed in float32, in units of the output.
        accuracy: what half precision must reach.
        calibration_inputs: inputs on which bfloat16 is measured; None means `draw_inputs`.
        float16_rows: the largest batch that is computed in float16.
        float16_weights: store the weights of float32 networks as float16.
    """

    model: wire.Model
    reference: nn.Module
    onnxruntime: nn.Module
    build_float16: Callable[[], nn.Module]
    draw_inputs: InputFactory
    bound: float
    accuracy: Accuracy
    calibration_inputs: InputFactory | None = None
    float16_rows: int = 8
    float16_weights: bool = False

    @property
    def name(self) -> str:
        return self.model.name


def stylegan2_variants(
    generator: Generator,
    draw_inputs: InputFactory | None = None,
    image_size: tuple[int, int] | None = None,
) -> NetworkVariants:
    """Return the variants of StyleGAN2.

    Args:
        draw_inputs: None means those of `latent_factory`.
        image_size: see `LatentToImage`.
    """

    def wrapper(
        synthesize: Callable[[Generator, Sequence[Tensor]], Tensor] = Generator.synthesis,
    ) -> nn.Module:
        return LatentToImage(generator, synthesize, image_size)

    # All features follow in this layout, in which PyTorch's convolutions take a quarter less time.
    constant = generator.input.input
    constant.data = constant.data.contiguous(memory_format=torch.channels_last)
    return NetworkVariants(
        wire.STYLEGAN2,
        wrapper(),
        wrapper(onnx_variants.synthesis),
        lambda: wrapper(float16_variants.synthesis),
        draw_inputs or latent_factory(generator),
        BOUNDS["stylegan2"],
        image_accuracy(),
        float16_rows=2,  # of 1024 px take half a minute
    )


def e4e_variants(
    encoder: GradualStyleEncoder,
    generator: Generator,
    w_avg: Tensor | None = None,
    crop_size: tuple[int, int] = (wire.FACE_SIZE, wire.FACE_SIZE),
) -> NetworkVariants:
    """Return the variants of e4e, whose latents are those of `generator`, for crops of this height
    and width."""
    return NetworkVariants(
        wire.E4E,
        FaceToLatent(encoder, w_avg),
        FaceToLatent(encoder, w_avg, onnx_variants.encode),
        lambda: FaceToLatent(float16_variants.float16_encoder(encoder), w_avg),
        partial(random_faces, crop_size=crop_size),
        BOUNDS["e4e"],
        latent_accuracy(generator),
    )


def clip_text_variants(clip: CLIP, table: np.ndarray | None = None) -> NetworkVariants:
    """Return the variants of CLIP's text encoder; `table`: see `TokensToFeatures`."""
    return NetworkVariants(
        wire.CLIP_TEXT,
        TokensToFeatures(clip, table),
        TokensToFeatures(clip, table, onnx_variants.encode_text),
        lambda: TokensToFeatures(float16_variants.float16_clip(clip), table),
        random_tokens,
        BOUNDS["clip_text"],
        text_accuracy(),
    )


def build_variants(
    networks: DomainNetworks, crop_size: tuple[int, int] = (wire.FACE_SIZE, wire.FACE_SIZE)
) -> list[NetworkVariants]:
    """Return the variants of each network of a domain; `crop_size`: see `Domain`."""
    generator = networks.generator
    variants = [
        stylegan2_variants(generator, image_size=middle_size(generator.resolution, crop_size)),
        clip_text_variants(networks.clip),
    ]
    if networks.encoder:
        variants.append(e4e_variants(networks.encoder, generator, networks.w_avg, crop_size))
    return variants
