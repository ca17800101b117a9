"""Comparison of converted networks with PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_export.convert.random_inputs import RandomInputs

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
class Comparison:
    """Largest and mean absolute difference from PyTorch at one batch size."""

    batch: int
    largest: float
    mean: float


@torch.no_grad()
def make_references(
    module: nn.Module, random_inputs: RandomInputs, batches: Sequence[int] = BATCHES
) -> list[Reference]:
    """Computes `module` on random inputs of each batch size.

    Rows are computed one at a time: a batch of 1024 px images would need gigabytes, and a row must
    not depend on the others.
    """
    references = []
    for batch in batches:
        inputs = random_inputs(batch)
        rows = [module(*(x[i : i + 1] for x in inputs)) for i in range(batch)]
        references.append(Reference(inputs, torch.cat(rows).numpy()))
    return references


def run_onnx(
    data: bytes, model: wire.Model, references: Sequence[Reference]
) -> Iterator[np.ndarray]:
    """Yields the output of ONNX Runtime's CPU provider for the inputs of each reference."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # an arena keeps, and doubles, what a batch of 8 needed
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    for reference in references:
        feed = {t.name: x.numpy() for t, x in zip(model.inputs, reference.inputs, strict=True)}
        yield session.run(None, feed)[0]


def difference(output: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Largest and mean absolute difference of two arrays."""
    absolute = np.abs(output.astype(np.float32) - expected.astype(np.float32))
    return float(absolute.max()), float(absolute.mean(dtype=np.float64))


def compare_onnx(
    data: bytes, model: wire.Model, references: Sequence[Reference]
) -> list[Comparison]:
    """Compares an ONNX file in ONNX Runtime with each of `references`."""
    outputs = run_onnx(data, model, references)
    return [
        Comparison(reference.batch, *difference(output, reference.expected))
        for reference, output in zip(references, outputs, strict=True)
    ]
