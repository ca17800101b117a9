"""Networks in float16 as ONNX files for GPUs, compared with float32 on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from styleclip_export.convert.comparison import Reference, compare, run_onnx
from styleclip_export.convert.float16_on_cpu import Float16OnCPU
from styleclip_export.convert.float16_variants import is_float16
from styleclip_export.convert.network_variants import NetworkVariants
from styleclip_export.convert.onnx_export import TRACED_BATCH, store_as_float16, to_onnx
from styleclip_export.errors import ConversionError
from styleclip_export.progress import ReportLine
from styleclip_server.engines.model_files import FLOAT16_FILE


def write(
    variants: NetworkVariants,
    references: Sequence[Reference],
    folder: Path,
    report: ReportLine,
) -> dict[str, Any]:
    """Write FLOAT16_FILE into `folder`: the dtypes of the served model outside, float16 inside.

    Returns:
        What provenance.json says about it.

    Raises:
        ConversionError: it is not accurate enough, in ONNX Runtime or in PyTorch; no file is
            written.
    """
    model = variants.model
    module = variants.build_float16().eval()
    last = references[-1]
    rows = min(variants.float16_rows, last.batch)
    with torch.no_grad(), Float16OnCPU():
        graph = to_onnx(module, model, variants.draw_inputs(TRACED_BATCH))
        in_pytorch = module(*(x[:rows] for x in last.inputs)).numpy()
    del module
    store_as_float16(graph, is_float16)
    data = graph.SerializeToString()
    del graph
    # A CPU has no fast float16, and needs twice the memory for it.
    small = [reference for reference in references if reference.batch <= variants.float16_rows]
    in_onnxruntime = np.concatenate(list(run_onnx(data, model, small)))
    expected = np.concatenate([reference.expected for reference in small])
    batches = [reference.batch for reference in small]
    errors = [
        _compare(variants, "PyTorch", [rows], in_pytorch, last.expected[:rows], report),
        _compare(variants, "ONNX Runtime", batches, in_onnxruntime, expected, report),
    ]
    (folder / FLOAT16_FILE).write_bytes(data)
    return {
        "quantity": variants.accuracy.quantity,
        "bound": variants.accuracy.bound,
        "errors": errors,
        "measured_on": "CPU: convolutions in float32 from float16 operands",
    }


def _compare(
    variants: NetworkVariants,
    runtime: str,
    batches: list[int],
    output: np.ndarray,
    expected: np.ndarray,
    report: ReportLine,
) -> dict[str, Any]:
    """Compare the output of one runtime; return what provenance.json says about it."""
    accuracy = variants.accuracy
    value, difference = accuracy.measure(output, expected), compare(output, expected)
    measured = f"{variants.name} in float16, {runtime}: {accuracy.quantity} {value:.4g}"
    if not accuracy.accepts(value):
        raise ConversionError(
            f"{measured}, {accuracy.bound:g} was expected; nothing was written; `--no-half` "
            "converts to float32 alone"
        )
    report(f"{measured} ({accuracy.bound:g}), {difference}")
    return {"runtime": runtime, "batches": batches, "value": value, **asdict(difference)}
