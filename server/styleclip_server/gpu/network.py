"""The Triton model of the networks on a GPU: `model.py` of each of them imports it from here.

Requests that Triton batches are run together, filled up to a size that was captured. The picture
stays on the GPU for the step that follows; latents and text features, which steps on the CPU read,
are small and come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as triton
from styleclip_client import contract
from torch import Tensor

from styleclip_server import lifeline
from styleclip_server.gpu import weights
from styleclip_server.gpu.graphs import Graphed

lifeline.hold()

MODEL_FILE = "model.onnx"


def up_to_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def up_to_multiple(n: int, of: int) -> int:
    return -(-n // of) * of


class TritonPythonModel:
    def initialize(self, args):
        model = contract.MODELS[args["model_name"]]
        config = json.loads(args["model_config"])
        gpu = args["model_instance_kind"] == "GPU"
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if gpu else "cpu")
        if gpu:
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True
        parameters = weights.read(Path(args["model_repository"], args["model_version"], MODEL_FILE))
        self.inputs = [tensor.name for tensor in model.inputs]
        self.output = model.outputs[0].name
        self.texts = model is contract.CLIP_TEXT
        self.stays = model is contract.STYLEGAN2 and gpu
        with torch.inference_mode():
            self.call = Graphed(_network(model)(parameters, self.device), self.device)
            if gpu:
                self._capture(config)

    def _capture(self, config):
        """The sizes that are used most, before the first request waits for one."""
        if self.texts:
            for rows in (80, 160):  # the 79 prompts of one text and of two
                for length in (16, 24):
                    self.call(torch.ones(rows, length, dtype=torch.int32))
            return
        shapes = {entry["name"]: [int(d) for d in entry["dims"]] for entry in config["input"]}
        rows = 1
        while rows <= config["max_batch_size"]:
            self.call(*(torch.zeros(rows, *shapes[name]) for name in self.inputs))
            rows *= 2

    def execute(self, requests):
        try:
            columns = [
                [_tensor(triton.get_input_tensor_by_name(request, name)) for request in requests]
                for name in self.inputs
            ]
            ends = [0, *accumulate(len(tensor) for tensor in columns[0])]
            with torch.inference_mode():
                result = self.call(*self._filled_up(columns, ends[-1]))[: ends[-1]]
                if not self.stays:
                    result = result.cpu()
                elif self.device.type == "cuda":
                    torch.cuda.current_stream().synchronize()
        except Exception as error:
            failure = triton.TritonError(f"ServerError: PyTorch failed: {error}")
            return [triton.InferenceResponse(error=failure) for _ in requests]
        return [
            triton.InferenceResponse([_to_triton(self.output, result[start:stop])])
            for start, stop in pairwise(ends)
        ]

    def _filled_up(self, columns: Sequence[Sequence[Tensor]], rows: int) -> list[Tensor]:
        """The requests' inputs as one batch of a size that is captured, or worth it."""
        joined = [column[0] if len(column) == 1 else torch.cat(list(column)) for column in columns]
        wanted = up_to_multiple(rows, 16) if self.texts else up_to_power_of_two(rows)
        if self.texts:
            # Attention is causal: what follows the end of the longest text changes nothing.
            (tokens,) = joined
            longest = int(tokens.argmax(1).max()) + 1
            joined = [tokens[:, : min(up_to_multiple(longest, 8), tokens.shape[1])]]
        return [_padded(tensor, wanted) for tensor in joined]


def _network(model: contract.Model) -> Callable[..., Any]:
    if model is contract.STYLEGAN2:
        from styleclip_server.gpu.stylegan2 import Generator

        return Generator
    if model is contract.E4E:
        from styleclip_server.gpu.e4e import Encoder

        return Encoder
    from styleclip_server.gpu.clip_text import TextEncoder

    return TextEncoder


def _padded(tensor: Tensor, rows: int) -> Tensor:
    if len(tensor) == rows:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(rows - len(tensor), *tensor.shape[1:])])


def _tensor(given: Any) -> Tensor:
    if given.is_cpu():
        array = given.as_numpy()
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return torch.from_dlpack(given.to_dlpack())


def _to_triton(name: str, tensor: Tensor) -> Any:
    if tensor.device.type == "cpu":
        return triton.Tensor(name, np.ascontiguousarray(tensor.numpy()))
    return triton.Tensor.from_dlpack(name, torch.utils.dlpack.to_dlpack(tensor))
