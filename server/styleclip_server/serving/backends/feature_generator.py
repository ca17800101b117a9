"""The Triton model `stylegan2` of a domain with networks that edit features.

Requests with FIDELITY `latent` run as in the models of ONNX Runtime and OpenVINO, in this process.
The others go to the model `features`, whose single process has the cache.
"""

from __future__ import annotations

import json

import triton_python_backend_utils as triton

from styleclip_contract import limits, wire
from styleclip_contract.errors import InvalidInput, from_wire
from styleclip_server.engines.model_files import OPENVINO_FILE
from styleclip_server.serving import config_parameters
from styleclip_server.serving.backends import onnxruntime, openvino
from styleclip_server.serving.backends.feature_requests import refusal, requested_fidelity

_IMAGE = wire.IMAGE.name
_FORWARDED = [tensor.name for tensor in wire.FEATURES.inputs]


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: p["string_value"] for name, p in config["parameters"].items()}
        file = parameters[config_parameters.NETWORK_FILE]
        backend = openvino if file == OPENVINO_FILE else onnxruntime
        config["default_model_filename"] = file
        self.latent_model = backend.TritonPythonModel()
        self.latent_model.initialize({**args, "model_config": json.dumps(config)})
        self.domain = json.loads(parameters[config_parameters.DOMAIN])["name"]

    def execute(self, requests):
        responses = {}
        latent_requests = []
        for i, request in enumerate(requests):
            try:
                if requested_fidelity(request, self.domain) == limits.LATENT:
                    latent_requests.append(i)
                else:
                    responses[i] = _edit_features(request)
            except InvalidInput as error:
                responses[i] = refusal(error)
        if latent_requests:
            latent = self.latent_model.execute([requests[i] for i in latent_requests])
            responses |= zip(latent_requests, latent, strict=True)
        return [responses[i] for i in range(len(requests))]


def _edit_features(request):
    """Return the response of the model `features`."""
    inputs = (triton.get_input_tensor_by_name(request, name) for name in _FORWARDED)
    response = triton.InferenceRequest(
        model_name=wire.FEATURES.name,
        request_id=request.request_id(),
        correlation_id=request.correlation_id(),
        requested_output_names=[_IMAGE],
        inputs=[tensor for tensor in inputs if tensor is not None],
    ).exec()
    if response.has_error():
        return refusal(from_wire(response.error().message()))
    return triton.InferenceResponse([triton.get_output_tensor_by_name(response, _IMAGE)])
