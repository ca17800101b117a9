"""A network as it is served on this CPU: in OpenVINO if it multiplies bfloat16, else in ONNX
Runtime."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_export.convert import onnx_export, openvino_export
from styleclip_export.convert.accuracy import Accuracy
from styleclip_export.convert.compare import make_references
from styleclip_export.convert.random_inputs import RandomInputs
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.model_files import MODEL_FILE, OPENVINO_FILE
from styleclip_server.engines.openvino import Network

Run = Callable[..., np.ndarray]


def export_as_served(
    reference: nn.Module,
    onnxruntime_form: nn.Module,
    model: wire.Model,
    random_inputs: RandomInputs,
    accuracy: Accuracy | None,
    threads: int | None = None,
) -> tuple[Run, str]:
    """Export a network as the server runs it.

    Args:
        reference: a wrapper of `styleclip_export.convert.wrappers`.
        onnxruntime_form: the wrapper as it is exported for ONNX Runtime.
        model: names of its inputs and outputs.
        random_inputs: inputs to export and compare with.
        accuracy: what bfloat16 must reach; None means ONNX Runtime in any case.
        threads: None means one per core.

    Returns:
        a function from input tensors to the output, and a description of what computes it.
    """
    references = make_references(reference.eval(), random_inputs, (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = onnx_export.export(onnxruntime_form, model, random_inputs, references, 1.0).data
    if accuracy is None or not find_spec("openvino") or not supports_bfloat16():
        return _in_onnxruntime(data, model, threads), "ONNX Runtime"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MODEL_FILE).write_bytes(data)
        provenance = openvino_export.write(
            Path(folder), reference, model, random_inputs, references, accuracy, 1.0
        )
        network = Network(Path(folder, OPENVINO_FILE), threads)
    return lambda *x: network(*(t.numpy() for t in x))[0], openvino_export.summary(provenance)


def _in_onnxruntime(data: bytes, model: wire.Model, threads: int | None) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads or 0
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> np.ndarray:
        feed = {t.name: x.numpy() for t, x in zip(model.inputs, inputs, strict=True)}
        return session.run(None, feed)[0]

    return run
