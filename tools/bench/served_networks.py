"""A network as it is served on this CPU: in OpenVINO where it multiplies bfloat16, else in ONNX
Runtime."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from styleclip_export.convert import float16, onnx_export, openvino_export
from styleclip_networks import Generator
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.flavours import MODEL_FILE, OPENVINO_FILE
from styleclip_server.engines.openvino.network import Network

Example = Callable[[int], tuple[Tensor, ...]]
Run = Callable[..., np.ndarray]


def accuracy(name: str, generator: Generator) -> float16.Half:
    """What `stylegan2` or `e4e` must reach in bfloat16."""
    no = nn.Module()
    return float16.networks(generator, no, no, torch.zeros(512))[name]  # type: ignore[arg-type]


def as_served(
    module: nn.Module,
    model: Any,
    example: Example,
    bound: float16.Half | None,
    threads: int | None = None,
) -> tuple[Run, str]:
    """Tensors → the network's answer, and in words what computes it.

    Args:
        module: a wrapper of `onnx_export`.
        model: its contract.
        example: batch → inputs to export and compare with.
        bound: what bfloat16 must reach; None: only ONNX Runtime.
        threads: None: one for each core.
    """
    references = onnx_export.make_references(module.eval(), example, (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = onnx_export.export(module, model, example, 1.0, references=references).data
    if bound is None or not find_spec("openvino") or not supports_bfloat16():
        return _in_onnxruntime(data, model, threads), "ONNX Runtime"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MODEL_FILE).write_bytes(data)
        made = openvino_export.write(
            Path(folder), module, model, example, references, bound, 1.0  # type: ignore[arg-type]
        )  # fmt: skip
        compiled = Network(Path(folder, OPENVINO_FILE), threads)
    return lambda *x: compiled(*(t.numpy() for t in x))[0], openvino_export.told(made)


def _in_onnxruntime(data: bytes, model: Any, threads: int | None) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads or 0
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> np.ndarray:
        feed = {t.name: x.numpy() for t, x in zip(model.inputs, inputs, strict=True)}
        return session.run(None, feed)[0]

    return run
