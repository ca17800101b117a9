"""The Triton model of each network in PyTorch.

Requests that Triton batches are run together, padded to a batch size whose CUDA graph was captured.
The outputs are copied to the host's memory; images may leave the GPU as JPEG files. While those of
a batch are encoded, the next batch is drawn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import triton_python_backend_utils as triton
from numpy.typing import NDArray
from torch import Tensor

from styleclip_contract import limits, wire
from styleclip_contract.errors import StyleclipError
from styleclip_server.engines import weights
from styleclip_server.engines.cuda import jpeg, kernel_cache, prebuilt
from styleclip_server.engines.cuda.cuda_graphs import Graphed, captured_batch_sizes
from styleclip_server.engines.cuda.host_memory import copy_to_host
from styleclip_server.engines.model_files import MODEL_FILE
from styleclip_server.serving import parent_watch, request_log
from styleclip_server.serving.backends import batching, jpeg_outputs, picture_outputs
from styleclip_server.serving.backends.feature_requests import refusal
from styleclip_server.serving.backends.late_responses import LateResponses
from styleclip_server.serving.backends.picture_outputs import (
    FileOptions,
    encode_files,
    file_options,
)
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.signing import load_signer

parent_watch.die_with_triton()

RENDER, PICTURE = wire.RENDER.name, wire.PICTURE.name

Run = Callable[[Sequence[Sequence[Tensor]], int], Tensor]
"""Takes each input of the requests and the number of rows, and returns a network's output."""


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `n`."""
    return -(-n // multiple) * multiple


class RenderOptions(NamedTuple):
    """What a request to the generator asks for.

    Attributes:
        names: of the outputs.
        render_quality: of RENDER as a JPEG file; None: as pixels.
        files: how each row of PICTURE is encoded; empty if it is not requested.
    """

    names: list[str]
    render_quality: int | None
    files: list[FileOptions]
    request_id: str

    def jpeg_qualities(self, rows: int) -> list[int | None]:
        """Return the quality of the JPEG file that each row needs."""
        if self.files:
            return [file.jpeg_quality for file in self.files]
        return [self.render_quality] * rows


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
        self.name, self.inputs = model.name, [tensor.name for tensor in model.inputs]
        self.output = model.outputs[0].name
        self.texts = model is wire.CLIP_TEXT
        self.renders = model is wire.STYLEGAN2
        if self.renders:
            self.domain = load_domain(find_domain_folder(args["model_repository"]))
            self.signer = load_signer()
            self.file_metrics = Metrics(model.name, self.domain.name)
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
            columns = [
                [_tensor(triton.get_input_tensor_by_name(request, name)) for request in requests]
                for name in self.inputs
            ]
            spans = batching.row_slices(columns[0])
            # Read here: Triton may reuse a request's memory once `execute` has returned.
            options = _options(requests, spans) if self.renders else []
            result = run(columns, spans[-1].stop)
        except Exception as error:
            failures = [batching.failure("PyTorch", error) for _ in requests]
            return lambda: failures
        return partial(self._responses, result, spans, options)

    def _respond(
        self, requests: Sequence[Any], compute: Callable[[], list[Any]]
    ) -> list[Any] | None:
        """Compute the responses of `execute` now, or send them later."""
        if self.late is None:
            return [response() if callable(response) else response for response in compute()]
        if len(requests) > 1:
            self.late.respond(requests, compute)
            return None
        (response,) = compute()  # alone, a thread would only cost time
        if not callable(response):
            return [response]
        self.late.respond_slowly(requests[0], response)
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
        """Return the response of each request, which has some rows of the network's output.

        A function in place of a response computes it slowly.
        """
        try:
            with torch.inference_mode():
                if self.renders:
                    return self._image_responses(result, spans, options)
                output = copy_to_host(result)
            return [_response({self.output: output[rows]}) for rows in spans]
        except Exception as error:
            return [batching.failure("PyTorch", error) for _ in spans]

    def _image_responses(
        self, result: Tensor, spans: Sequence[slice], options: Sequence[RenderOptions]
    ) -> list[Any]:
        qualities = [
            quality
            for each, rows in zip(options, spans, strict=True)
            for quality in each.jpeg_qualities(rows.stop - rows.start)
        ]
        files = jpeg.encode(result, qualities)
        responses = []
        for each, rows in zip(options, spans, strict=True):
            file = None if each.render_quality is None else files[rows.start]
            names = [name for name in each.names if name != PICTURE]
            named = jpeg_outputs.build_outputs(names, result[rows], file)
            if not each.files:
                responses.append(_response(named))
                continue
            slow = None in qualities[rows]
            pixels = copy_to_host(result[rows]) if slow else None
            respond = partial(self._picture_response, each, named, files[rows], pixels)
            responses.append(respond if slow else respond())
        return responses

    def _picture_response(
        self,
        options: RenderOptions,
        named: dict[str, Any],
        files: Sequence[jpeg.JpegFile | None],
        pixels: NDArray[np.uint8] | None,
    ) -> Any:
        """Return the response of a request for PICTURE, and for the other outputs in `named`."""
        start = time.monotonic()
        failed: Exception | None = None
        self.file_metrics.begin_request(options.request_id)
        try:
            pictures = encode_files(files, pixels, options.files, self.domain.name, self.signer)
            response = _response({**named, PICTURE: pictures})
            for file in options.files:
                self.file_metrics.count_image(file.format)
        except StyleclipError as error:
            failed, response = error, refusal(error)
        except Exception as error:
            failed, response = error, batching.failure(self.name, error)
        if failed:
            self.file_metrics.count_error(failed)
        request_log.log_request(self.name, options.request_id, time.monotonic() - start, {}, failed)
        return response

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


def _response(named: Mapping[str, Any]) -> Any:
    return triton.InferenceResponse([triton.Tensor(*item) for item in named.items()])


def _options(requests: Sequence[Any], spans: Sequence[slice]) -> list[RenderOptions]:
    options = []
    for request, span in zip(requests, spans, strict=True):
        names, rows = request.requested_output_names(), span.stop - span.start
        render_quality = (
            jpeg_outputs.requested_jpeg_quality(rows, *_arrays(request, jpeg_outputs.INPUTS))
            if RENDER in names
            else None
        )
        files = (
            file_options(rows, *_arrays(request, picture_outputs.INPUTS))
            if PICTURE in names
            else []
        )
        options.append(RenderOptions(names, render_quality, files, request.request_id()))
    return options


def _arrays(request: Any, tensors: Sequence[wire.Tensor]) -> Iterator[NDArray[Any] | None]:
    """Return inputs of a request; None for those that it was sent without."""
    for tensor in tensors:
        given = triton.get_input_tensor_by_name(request, tensor.name)
        yield None if given is None else given.as_numpy()
