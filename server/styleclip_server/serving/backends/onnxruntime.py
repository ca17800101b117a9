"""ONNX Runtime as a Python-based Triton backend, for servers without the native one.

Models with `backend: "onnxruntime"` run natively in NVIDIA's container and by this file on the
server from PyPI. Requests that Triton batches dynamically run together. The file opened is the
config's `default_model_filename`, or model.onnx if that does not exist.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton

from styleclip_server.engines.cpu import core_quota
from styleclip_server.engines.model_files import MODEL_FILE
from styleclip_server.engines.onnxruntime import OnnxNetwork
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
        path = folder / (config.get("default_model_filename") or MODEL_FILE)
        if not path.is_file():
            path = folder / MODEL_FILE
        if not path.is_file():
            raise triton.TritonModelException(f"{path} does not exist")
        threads = core_quota()
        if parameter := config.get("parameters", {}).get("intra_op_thread_count"):
            threads = int(parameter["string_value"])
        gpu = args["model_instance_kind"] == "GPU"
        device = int(args["model_instance_device_id"]) if gpu else None
        self.network = OnnxNetwork(path, threads, device, _cuda_options(config))

    def execute(self, requests):
        columns = [
            [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.network.inputs
        ]
        batch = {
            name: column[0] if len(column) == 1 else np.concatenate(column)
            for name, column in zip(self.network.inputs, columns, strict=True)
        }
        try:
            results = self.network(batch)
        except Exception as error:
            return [batching.failure("ONNX Runtime", error) for _ in requests]
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(name, array[rows])
                    for name, array in zip(self.network.outputs, results, strict=True)
                ]
            )
            for rows in batching.row_slices(columns[0])
        ]


def _cuda_options(config):
    """Return the options of the CUDA provider, from where the native backend reads them."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    options: dict[str, str] = {}
    for accelerator in accelerators.get("gpu_execution_accelerator", ()):
        options |= accelerator.get("parameters", {})
    return options
