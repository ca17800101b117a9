"""ONNX Runtime as a Python-based Triton backend, for servers without the native one.

Models with `backend: "onnxruntime"` run natively in NVIDIA's container and by this file on the
server from PyPI. Requests that Triton batches dynamically run together. The file opened is the
config's `default_model_filename`, or model.onnx if that does not exist.
"""

import json
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

from styleclip_server import parent_watch
from styleclip_server.engines.cpu import core_quota
from styleclip_server.engines.flavours import MODEL_FILE

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
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = core_quota() or 0  # 0: one for each core
        for name, value in config.get("parameters", {}).items():
            if name == "intra_op_thread_count":
                options.intra_op_num_threads = int(value["string_value"])
        # Long enough for the gap between two layers. Between requests, spinning threads would take
        # the cores from the other models.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        providers: list = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            device = {"device_id": args["model_instance_device_id"]}
            providers.insert(0, ("CUDAExecutionProvider", device))
        self.session = onnxruntime.InferenceSession(str(path), options, providers)
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]

    def execute(self, requests):
        columns = [
            [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.inputs
        ]
        feed = {
            name: column[0] if len(column) == 1 else np.concatenate(column)
            for name, column in zip(self.inputs, columns, strict=True)
        }
        try:
            results = self.session.run(self.outputs, feed)
        except Exception as error:
            failure = triton.TritonError(f"ServerError: ONNX Runtime failed: {error}")
            return [triton.InferenceResponse(error=failure) for _ in requests]
        ends = [0, *accumulate(len(array) for array in columns[0])]
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(name, array[start:stop])
                    for name, array in zip(self.outputs, results, strict=True)
                ]
            )
            for start, stop in pairwise(ends)
        ]
