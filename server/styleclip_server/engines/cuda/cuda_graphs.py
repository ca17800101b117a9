"""Calls captured as CUDA graphs, one for each shape, so that launching costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture, in which cuDNN chooses its algorithms


def captured_batch_sizes(max_batch: int) -> list[int]:
    """Return the batch sizes that are captured ahead: the powers of two up to `max_batch`."""
    return [1 << i for i in range(max_batch.bit_length())]


Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])


class Graphed(Generic[Result]):
    """Run `call`, captured once for each shape of its inputs.

    The result is overwritten by the next call. `call` must not wait for the device. On a CPU it is
    called without capture.
    """

    def __init__(self, call: Callable[..., Result], device: torch.device) -> None:
        self.call: Callable[..., Result] = call
        self.device = device
        self._captured: dict[tuple[torch.Size, ...], tuple[Any, tuple[Tensor, ...], Result]] = {}
        # One pool for all: graphs never run at the same time.
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Result:
        """Run the call: inputs on any device → the result on `self.device`. A new shape is captured
        first."""
        if self.device.type != "cuda":
            return self.call(*(tensor.to(self.device) for tensor in inputs))
        key = tuple(tensor.shape for tensor in inputs)
        if key not in self._captured:
            self._captured[key] = self._capture(inputs)
        graph, buffers, result = self._captured[key]
        for buffer, tensor in zip(buffers, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        graph.replay()
        return result

    def _capture(self, inputs: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...], Result]:
        buffers = tuple(tensor.to(self.device, copy=True) for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.call(*buffers)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self.call(*buffers)
        return graph, buffers, result
