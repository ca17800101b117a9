"""OpenVINO as a Python-based Triton backend, for CPUs that multiply bfloat16.

Models have `backend: "openvino"` and their file in `default_model_filename`. A batch is computed
row by row, which costs the same on a CPU.
"""

import json
from pathlib import Path

import triton_python_backend_utils as triton

from styleclip_server.engines.cpu import core_quota
from styleclip_server.engines.openvino import OpenvinoNetwork
from styleclip_server.serving import parent_watch
from styleclip_server.serving.backends import batching

parent_watch.die_with_triton()


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        path = folder / config["default_model_filename"]
        if not path.is_file():
            raise triton.TritonModelException(f"{path} does not exist")
        self.network = OpenvinoNetwork(path, core_quota())

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        inputs = {
            name: triton.get_input_tensor_by_name(request, name).as_numpy()
            for name in self.network.inputs
        }
        try:
            results = self.network(inputs)
        except Exception as error:
            return batching.failure("OpenVINO", error)
        return triton.InferenceResponse(
            [
                triton.Tensor(name, array)
                for name, array in zip(self.network.outputs, results, strict=True)
            ]
        )
