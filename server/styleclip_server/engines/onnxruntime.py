"""A network in ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from styleclip_server.engines.cpu import return_freed_memory


class OnnxNetwork:
    """The network of an ONNX file, run by ONNX Runtime.

    Args:
        path: the ONNX file.
        threads: number of threads; None means one per core.
        device: index of the GPU; None means the CPU.
        cuda_options: options of ONNX Runtime's CUDA provider, for a GPU.
        weights: by name, those that lie outside of the file's folder.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        device: int | None = None,
        cuda_options: Mapping[str, str] | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0  # 0: one per core
        # Long enough for the gap between two layers. Between requests, spinning threads would take
        # the cores from the other models.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        if weights:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(w) for w in weights.values()]
            options.add_external_initializers(list(weights), values)
        providers: list[Any] = ["CPUExecutionProvider"]
        if device is not None:
            cuda_options = {"device_id": str(device), **(cuda_options or {})}
            providers.insert(0, ("CUDAExecutionProvider", cuda_options))
        # Resolved, so that a linked file's external weights are those beside the file itself.
        self._session = onnxruntime.InferenceSession(str(path.resolve()), options, providers)
        return_freed_memory()  # the parsed file: 2 GiB of e4e at full size
        self.inputs = [entry.name for entry in self._session.get_inputs()]
        self.outputs = [entry.name for entry in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the network: inputs (N, …) by name → outputs (N, …), as in `self.outputs`."""
        results: list[NDArray[Any]] = self._session.run(self.outputs, dict(inputs))
        return results
