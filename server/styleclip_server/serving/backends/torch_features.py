"""The Triton model `stylegan2` in PyTorch, of a domain with networks that edit features.

One process draws both fidelities and keeps the features in the GPU's memory: processes that share
a GPU take turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as triton
from numpy.typing import NDArray
from torch import Tensor

from styleclip_contract import limits, wire
from styleclip_contract.errors import StyleclipError
from styleclip_server.engines.cuda.cuda_graphs import Graphed, captured_batch_sizes
from styleclip_server.engines.cuda.feature_editor import CudaFeatureEditor, Features
from styleclip_server.engines.feature_cache import FeatureCache
from styleclip_server.engines.feature_weights import read_feature_weights
from styleclip_server.engines.model_files import FEATURES_FOLDER
from styleclip_server.pipeline.fidelities import find_face
from styleclip_server.serving.backends import batching, feature_requests
from styleclip_server.serving.backends import torch as torch_backend
from styleclip_server.serving.domain_folder import find_domain_folder, load_domain
from styleclip_server.serving.metrics import Metrics


class TritonPythonModel(torch_backend.TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        domain = load_domain(find_domain_folder(args["model_repository"]))
        self.domain, self.crop_size = domain.name, domain.crop_size
        version = Path(args["model_repository"], args["model_version"])
        with torch.inference_mode():
            weights = read_feature_weights(version / FEATURES_FOLDER)
            editor = CudaFeatureEditor(weights, self.network)
            self.invert = Graphed(editor.invert, self.device)
            self.edit = Graphed(editor.edit, self.device)
            if self.device.type == "cuda":
                self._capture_features(json.loads(args["model_config"]))
                torch.cuda.synchronize()
        self.cache: FeatureCache[Features] = FeatureCache(feature_requests.cache_bytes())
        self.metrics = Metrics(wire.FEATURES.name, domain.name)

    def _capture_features(self, config: Mapping[str, Any]) -> None:
        """Capture an inversion, and edits of the batch sizes that are served."""
        dims = {entry["name"]: [int(d) for d in entry["dims"]] for entry in config["input"]}
        face, w_plus, delta = (
            torch.zeros(1, *dims[tensor.name])
            for tensor in (wire.FACE_CROP, wire.W_PLUS, wire.DELTA)
        )
        kept = Features(*(x.clone() for x in self.invert(face, w_plus)))
        for rows in captured_batch_sizes(config["max_batch_size"]):
            self._edit([kept] * rows, [[w_plus] * rows, [delta] * rows], rows)

    def execute(self, requests):
        responses: dict[int, Any] = {}
        numbers_of: dict[str, list[int]] = {fidelity: [] for fidelity in limits.FIDELITIES}
        faces: list[Features] = []
        for i, request in enumerate(requests):
            self.metrics.begin_request(request.request_id())
            try:
                fidelity = feature_requests.requested_fidelity(request, self.domain)
                if fidelity == limits.FEATURES:
                    faces += self._find_features(request)
                numbers_of[fidelity].append(i)
            except StyleclipError as error:
                self.metrics.count_error(error)
                responses[i] = feature_requests.refusal(error)
            except Exception as error:
                responses[i] = batching.failure("PyTorch", error)
        runs: dict[str, torch_backend.Run] = {
            limits.LATENT: self._run,
            limits.FEATURES: partial(self._edit, faces),
        }
        started = [
            (numbers, self._start([requests[i] for i in numbers], runs[fidelity]))
            for fidelity, numbers in numbers_of.items()
            if numbers
        ]
        return self._respond(requests, partial(_join, responses, started))

    def _find_features(self, request: Any) -> list[Features]:
        """Return the features of each row of a request, which are computed if they are missing."""
        w_plus = _array(request, wire.W_PLUS)
        crops, faces = _array(request, wire.CROP), _array(request, wire.FACE_CROP)
        try:
            return [
                self._find_row(
                    latent,
                    None if crops is None else crops[i, 0],
                    None if faces is None else faces[i],
                )
                for i, latent in enumerate(w_plus)
            ]
        finally:
            self.metrics.count_lookups({"features": self.cache.cache_info()})

    def _find_row(
        self,
        w_plus: NDArray[np.float32],
        crop: bytes | None,
        face: NDArray[np.float32] | None,
    ) -> Features:
        found = find_face(w_plus, crop, face, self.crop_size)
        return self.cache.get(found.key, lambda: self._invert(found.read(), w_plus))

    @torch.inference_mode()
    def _invert(self, face: NDArray[np.float32], w_plus: NDArray[np.float32]) -> Features:
        with torch.cuda.stream(self.stream):
            outputs = self.invert(torch.tensor(face)[None], torch.tensor(w_plus)[None])
            return Features(*(output.clone() for output in outputs))

    @torch.inference_mode()
    def _edit(
        self, faces: Sequence[Features], columns: Sequence[Sequence[Tensor]], rows: int
    ) -> Tensor:
        with torch.cuda.stream(self.stream):
            latents, features = (torch.cat(parts) for parts in zip(*faces, strict=True))
            inputs = self._padded_batch([*columns, [latents], [features]], rows)
        return self._call(self.edit, inputs, rows)


def _array(request: Any, tensor: wire.Tensor) -> Any:
    """Return an input as an array; None: it was not sent."""
    given = triton.get_input_tensor_by_name(request, tensor.name)
    if given is None or given.is_cpu():
        return None if given is None else given.as_numpy()
    return torch.from_dlpack(given.to_dlpack()).cpu().numpy()


def _join(
    responses: dict[int, Any], started: Sequence[tuple[list[int], Callable[[], list[Any]]]]
) -> list[Any]:
    """Compute the responses that are missing; return all by the requests' numbers."""
    for numbers, compute in started:
        responses |= zip(numbers, compute(), strict=True)
    return [responses[i] for i in sorted(responses)]
