"""The Triton model of each network in PyTorch.

Requests that Triton batches are run together, padded to a batch size whose CUDA graph was captured.
The outputs are copied to the host's memory; images may leave the GPU as JPEG files. While those of
a batch are encoded, the next batch is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton_python_backend_utils as triton
from torch import Tensor

from styleclip_contract import limits, wire
from styleclip_server.engines import weights
from styleclip_server.engines.cuda import jpeg, kernel_cache, prebuilt
from styleclip_server.engines.cuda.cuda_graphs import Graphed, captured_batch_sizes
from styleclip_server.engines.cuda.host_memory import copy_to_host
from styleclip_server.engines.model_files import MODEL_FILE
from styleclip_server.serving import parent_watch
from styleclip_server.serving.backends import batching, jpeg_outputs
from styleclip_server.serving.backends.late_responses import LateResponses

parent_watch.die_with_triton()

RENDER = wire.RENDER.name

Run = Callable[[Sequence[Sequence[Tensor]], int], Tensor]
"""Takes each input of the requests and the number of rows, and returns a network's output."""


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `n`."""
    return -(-n // multiple) * multiple


class RenderOptions(NamedTuple):
    """The outputs that a request to the generator asks for, and the quality of its JPEG file."""

    names: list[str]
    quality: int | None


class TritonPythonModel:
    def initialize(self, args):
        model = wire.MODELS[args["model_name"]]
        config = json.loads(args["model_config"])
        gpu = args["model_instance_kind"] == "GPU"
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if gpu else "cpu")
        if gpu:
            torch.cuda.set_device(self.device)
            # Joining a small batch on all cores costs more than it saves: their threads spin.
            torch.set_num_threads(1)
            torch.backends.cudnn.benchmark = True
            use = kernel_cache.use_prebuilt_kernels(prebuilt.prebuilt_folder())
        parameters = weights.read_parameters(
            Path(args["model_repository"], args["model_version"], MODEL_FILE)
        )
        self.inputs = [tensor.name for tensor in model.inputs]
        self.output = model.outputs[0].name
        self.texts = model is wire.CLIP_TEXT
        self.renders = model is wire.STYLEGAN2
        with torch.inference_mode():
            self.network = _network(model)(parameters, self.device)
            self.call = Graphed(self.network, self.device)
            self.late = self.stream = None
            if gpu:
                self._capture(config)
                # The encoder uses the default stream, which would wait for the next batch.
                self.stream = torch.cuda.Stream()
                torch.cuda.synchronize()
                torch.cuda.empty_cache()  # of calls before each capture
                if self.renders:
                    self.late = LateResponses(partial(torch.cuda.set_device, self.device))
                if use.found or use.compiled:
                    triton.Logger.log_info(f"{model.name} on {torch.cuda.get_device_name()}: {use}")

    def _capture(self, config):
        """Capture the sizes that are used most, so that no request waits for it."""
        if self.texts:
            for rows in (80, 160):  # the 79 prompts of one text and of two
                for length in (16, 24):
                    self.call(torch.ones(rows, length, dtype=torch.int32))
            return
        shapes = {entry["name"]: [int(d) for d in entry["dims"]] for entry in config["input"]}
        for rows in captured_batch_sizes(config["max_batch_size"]):
            result = self.call(*(torch.zeros(rows, *shapes[name]) for name in self.inputs))
        if self.renders:
            jpeg.encode(result, [limits.DEFAULT_QUALITY] * len(result))
            copy_to_host(result[:1])

    def execute(self, requests):
        return self._respond(requests, self._start(requests, self._run))

    def _start(self, requests: Sequence[Any], run: Run) -> Callable[[], list[Any]]:
        """Run requests as one batch; return a function that computes the responses."""
        try:
            sent = [batching.named_inputs(request) for request in requests]
            columns = [[_tensor(inputs[name]) for inputs in sent] for name in self.inputs]
            spans = batching.row_slices(columns[0])
            # Read here: Triton may reuse a request's memory once `execute` has returned.
            options = _options(requests, sent, spans) if self.renders else []
            result = run(columns, spans[-1].stop)
        except Exception as error:
            failures = [batching.failure("PyTorch", error) for _ in requests]
            return lambda: failures
        return partial(self._responses, result, spans, options)

    def _respond(
        self, requests: Sequence[Any], compute: Callable[[], list[Any]]
    ) -> list[Any] | None:
        """Compute the responses of `execute` now, or send them later."""
        if self.late is None or len(requests) == 1:  # alone, a thread would only cost time
            return compute()
        self.late.respond(requests, compute)
        return None

    def _run(self, columns: Sequence[Sequence[Tensor]], rows: int) -> Tensor:
        return self._call(self.call, self._padded_batch(columns, rows), rows)

    @torch.inference_mode()
    def _call(self, call: Graphed, inputs: Sequence[Tensor], rows: int) -> Tensor:
        """Return rows of a network's output, which later calls leave alone."""
        with torch.cuda.stream(self.stream):  # None: the default stream
            result: Tensor = call(*inputs)[:rows].clone()
        if self.stream is not None:
            self.stream.synchronize()
        return result

    def _responses(
        self, result: Tensor, spans: Sequence[slice], options: Sequence[RenderOptions]
    ) -> list[Any]:
        """Return the response of each request, which has some rows of the network's output."""
        try:
            with torch.inference_mode():
                outputs = self._outputs(result, spans, options)
            return [
                triton.InferenceResponse([triton.Tensor(*item) for item in named.items()])
                for named in outputs
            ]
        except Exception as error:
            return [batching.failure("PyTorch", error) for _ in spans]

    def _outputs(
        self, result: Tensor, spans: Sequence[slice], options: Sequence[RenderOptions]
    ) -> list[dict[str, Any]]:
        if not self.renders:
            output = copy_to_host(result)
            return [{self.output: output[rows]} for rows in spans]
        qualities = [
            each.quality
            for each, rows in zip(options, spans, strict=True)
            for _ in range(rows.start, rows.stop)
        ]
        files = jpeg.encode(result, qualities)
        return [
            jpeg_outputs.build_outputs(each.names, result[rows], files[rows.start])
            for each, rows in zip(options, spans, strict=True)
        ]

    def finalize(self):
        if self.late:
            self.late.close()

    def _padded_batch(self, columns: Sequence[Sequence[Tensor]], rows: int) -> list[Tensor]:
        """Join the requests' inputs to one batch, padded to a size that is captured."""
        joined = [column[0] if len(column) == 1 else torch.cat(list(column)) for column in columns]
        size = round_up(rows, 16) if self.texts else next_power_of_two(rows)
        if self.texts:
            # Attention is causal: what follows the end of the longest text changes nothing.
            (tokens,) = joined
            longest = int(tokens.argmax(1).max()) + 1
            joined = [tokens[:, : min(round_up(longest, 8), tokens.shape[1])]]
        return [_padded(tensor, size) for tensor in joined]


def _network(model: wire.Model) -> Callable[..., Any]:
    if model is wire.STYLEGAN2:
        from styleclip_server.engines.cuda.stylegan2 import CudaGenerator

        return CudaGenerator
    if model is wire.E4E:
        from styleclip_server.engines.cuda.e4e import CudaEncoder

        return CudaEncoder
    from styleclip_server.engines.cuda.clip_text import CudaTextEncoder

    return CudaTextEncoder


def _padded(tensor: Tensor, rows: int) -> Tensor:
    if len(tensor) == rows:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(rows - len(tensor), *tensor.shape[1:])])


def _tensor(given: Any) -> Tensor:
    if given.is_cpu():
        array = given.as_numpy()
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return torch.from_dlpack(given.to_dlpack())


def _options(
    requests: Sequence[Any], sent: Sequence[Mapping[str, Any]], spans: Sequence[slice]
) -> list[RenderOptions]:
    options = []
    for request, inputs, rows in zip(requests, sent, spans, strict=True):
        names, quality = request.requested_output_names(), None
        if RENDER in names:
            quality = _requested_quality(inputs, rows.stop - rows.start)
        options.append(RenderOptions(names, quality))
    return options


def _requested_quality(inputs: Mapping[str, Any], rows: int) -> int | None:
    given = (inputs.get(tensor.name) for tensor in (wire.PASTE, wire.FORMAT, wire.QUALITY))
    return jpeg_outputs.requested_jpeg_quality(
        rows, *(None if tensor is None else tensor.as_numpy() for tensor in given)
    )
