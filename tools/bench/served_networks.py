"""A network as it is served on this CPU: in OpenVINO if it multiplies bfloat16, else in ONNX
Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from torch import Tensor

from styleclip_contract import wire
from styleclip_export.convert import onnx_export, openvino_export
from styleclip_export.convert.comparison import compute_references
from styleclip_export.convert.network_variants import NetworkVariants
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.model_files import MODEL_FILE, OPENVINO_FILE
from styleclip_server.engines.openvino import OpenvinoNetwork

Run = Callable[..., np.ndarray]


def export_as_served(
    variants: NetworkVariants, threads: int | None = None, *, allow_openvino: bool = True
) -> tuple[Run, str]:
    """Export a network as the server runs it.

    Args:
        threads: None means one per core.
        allow_openvino: False means ONNX Runtime in any case.

    Returns:
        a function from input tensors to the output, and a description of what computes it.
    """
    references = compute_references(variants.reference.eval(), variants.draw_inputs, (1, 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx_export.write(variants, references, folder, _ignore)
        provenance = None
        if allow_openvino and variants.name in openvino_export.NETWORKS and supports_bfloat16():
            provenance = openvino_export.write(variants, references, folder, _ignore)
        if provenance is None:
            data = (folder / MODEL_FILE).read_bytes()
            return _in_onnxruntime(data, variants.model, threads), "ONNX Runtime"
        network = OpenvinoNetwork(folder / OPENVINO_FILE, threads)

    def run(*inputs: Tensor) -> np.ndarray:
        return network(_feed(variants.model, inputs))[0]

    return run, openvino_export.summarize(provenance)


def _ignore(line: str) -> None:
    """Report no progress."""


def _in_onnxruntime(data: bytes, model: wire.Model, threads: int | None) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads or 0
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> np.ndarray:
        return session.run(None, _feed(model, inputs))[0]

    return run


def _feed(model: wire.Model, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Return the inputs of `model` by name."""
    return {t.name: x.numpy() for t, x in zip(model.inputs, inputs, strict=True)}
