"""The networks in float16 for GPUs, compared with float32.

StyleGAN2: the affine layers, demodulation coefficients and RGB stay float32, features are float16
(`ModulatedConv`). e4e: convolutions and norms are float16, the linear layers that end in W+
float32. CLIP's text encoder is float16 throughout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_export.convert.accuracy import Accuracy, accuracies
from styleclip_export.convert.compare import Reference, difference, run_onnx
from styleclip_export.convert.float16_on_cpu import Float16OnCPU
from styleclip_export.convert.onnx_export import TRACED_BATCH, to_onnx
from styleclip_export.convert.random_inputs import RandomInputs
from styleclip_export.convert.wrappers import FaceToLatent, LatentToImage, TokensToFeatures
from styleclip_export.errors import ConversionError
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import EqualLinear, Generator

# Parts of the names of weights that are used, and stored, as float32.
FLOAT32_WEIGHTS = (".modulation.", ".linear.", "w_avg")


@dataclass(frozen=True)
class Float16Network:
    """A network in float16.

    Attributes:
        build: creates its wrapper.
        accuracy: what it must reach compared with float32.
        rows: how many rows of a batch PyTorch computes, too.
    """

    build: Callable[[], nn.Module]
    accuracy: Accuracy
    rows: int = 8


@dataclass(frozen=True)
class Float16Comparison:
    """Float16 in one runtime against PyTorch in float32.

    Attributes:
        runtime: "PyTorch" or "ONNX Runtime".
        batches: batch sizes.
        value: see `Accuracy.measure`.
        largest, mean: absolute differences of the output.
    """

    runtime: str
    batches: tuple[int, ...]
    value: float
    largest: float
    mean: float


def float16_networks(
    generator: Generator, encoder: Encoder4Editing, clip: CLIP, w_avg: Tensor
) -> dict[str, Float16Network]:
    """The networks of a domain in float16, by name."""
    required = accuracies(generator)
    synthesize = partial(Generator.synthesis, dtype=torch.float16)
    return {
        "stylegan2": Float16Network(
            lambda: LatentToImage(generator, synthesize),
            required["stylegan2"],
            rows=2,  # of 1024 px take half a minute
        ),
        "e4e": Float16Network(
            lambda: FaceToLatent(float16_encoder(encoder), w_avg), required["e4e"]
        ),
        "clip_text": Float16Network(
            lambda: TokensToFeatures(copy.deepcopy(clip).half()), required["clip_text"]
        ),
    }


def export(
    network: Float16Network,
    model: wire.Model,
    random_inputs: RandomInputs,
    references: Sequence[Reference],
) -> tuple[bytes, list[Float16Comparison]]:
    """Exports a network to ONNX with the dtypes of `model` outside and float16 inside.

    Raises:
        ConversionError: it is not accurate enough, in ONNX Runtime or in PyTorch.
    """
    accuracy = network.accuracy
    module = network.build().eval()

    def compare(
        runtime: str, batches: Sequence[int], output: np.ndarray, expected: np.ndarray
    ) -> Float16Comparison:
        value = accuracy.measure(output, expected)
        return Float16Comparison(runtime, tuple(batches), value, *difference(output, expected))

    with torch.no_grad(), Float16OnCPU():
        data = to_onnx(module, model, random_inputs(TRACED_BATCH), _is_float16)
        last = references[-1]
        rows = min(network.rows, last.batch)
        output = module(*(x[:rows] for x in last.inputs)).numpy()
    del module
    comparisons = [
        compare("PyTorch", [rows], output, last.expected[:rows]),
        compare(
            "ONNX Runtime",
            [r.batch for r in references],
            np.concatenate(list(run_onnx(data, model, references))),
            np.concatenate([r.expected for r in references]),
        ),
    ]
    for comparison in comparisons:
        if not accuracy.accepts(comparison.value):
            raise ConversionError(
                f"{model.name} in float16: {accuracy.quantity} {comparison.value:.4g}, "
                f"{accuracy.bound:g} was expected; nothing was written; `--no-half` converts to "
                "float32 alone"
            )
    return data, comparisons


def provenance(accuracy: Accuracy, comparisons: Sequence[Float16Comparison]) -> dict[str, Any]:
    """Content of provenance.json about the float16 file."""
    return {
        "quantity": accuracy.quantity,
        "bound": accuracy.bound,
        "errors": [asdict(c) for c in comparisons],
        "measured_on": "CPU: convolutions in float32 from float16 operands",
    }


def _is_float16(name: str) -> bool:
    return not any(part in name for part in FLOAT32_WEIGHTS)


@torch.no_grad()
def float16_encoder(encoder: Encoder4Editing) -> Encoder4Editing:
    """Copies `encoder` in float16, except the last linear layers.

    Batch norms are reduced to scale and shift in float32 first, since a variance may be too small
    or too large for float16.
    """
    copied = copy.deepcopy(encoder).eval()
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = module.running_mean, module.running_var
            assert mean is not None and variance is not None
            module.weight.mul_(torch.rsqrt(variance + module.eps))
            module.bias.sub_(mean * module.weight)
            mean.zero_()
            variance.fill_(1)
            module.eps = 0.0
    copied.half()
    for module in copied.modules():
        if isinstance(module, EqualLinear):
            module.float()
    # `half` has rounded the linear layers' weights: restore them.
    for head, original in zip(copied.styles, encoder.styles, strict=True):
        head.linear.load_state_dict(original.linear.state_dict())  # type: ignore[union-attr]
    return copied
