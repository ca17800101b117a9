"""Comparison of converted networks with PyTorch in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_export.convert.random_inputs import InputFactory
from styleclip_export.errors import ConversionError

BATCHES = (1, 2, 8)


@dataclass(frozen=True)
class Reference:
    """The inputs of one batch, and the output that PyTorch computes from them."""

    inputs: tuple[Tensor, ...]
    expected: np.ndarray

    @property
    def batch(self) -> int:
        return len(self.expected)


@dataclass(frozen=True)
class Difference:
    """Largest and mean absolute difference from PyTorch, in units of the output."""

    largest: float
    mean: float

    def __str__(self) -> str:
        return f"largest {self.largest:.2g}, mean {self.mean:.2g}"

    def check(self, bound: float, network: str) -> None:
        """Refuse a largest difference above `bound`.

        Raises:
            ConversionError: naming the `network`, such as "e4e in OpenVINO".
        """
        if not self.largest <= bound:  # NaN fails too
            raise ConversionError(
                f"{network} differs from PyTorch by {self.largest:.3g}, at most {bound:g} was "
                "expected; nothing was written"
            )


@torch.no_grad()
def compute_references(
    module: nn.Module, draw_inputs: InputFactory, batches: Sequence[int] = BATCHES
) -> list[Reference]:
    """Compute `module` on random inputs; each batch size has the first rows of the largest.

    Rows are computed one at a time: a batch of 1024 px images would need gigabytes, and a row must
    not depend on the others.
    """
    largest = max(batches)
    inputs = draw_inputs(largest)
    rows = [module(*(x[i : i + 1] for x in inputs)) for i in range(largest)]
    expected = torch.cat(rows).numpy()
    return [Reference(tuple(x[:batch] for x in inputs), expected[:batch]) for batch in batches]


def run_onnx(
    data: bytes, model: wire.Model, references: Sequence[Reference]
) -> Iterator[np.ndarray]:
    """Yield the output of ONNX Runtime's CPU provider for the inputs of each reference."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # an arena keeps, and doubles, what a batch of 8 needed
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    for reference in references:
        feed = {t.name: x.numpy() for t, x in zip(model.inputs, reference.inputs, strict=True)}
        yield session.run(None, feed)[0]


def compare(output: np.ndarray, expected: np.ndarray) -> Difference:
    """Compute the difference of two arrays of one shape."""
    absolute = np.abs(output.astype(np.float32) - expected.astype(np.float32))
    return Difference(float(absolute.max()), float(absolute.mean(dtype=np.float64)))
