"""Networks as TorchScript: the traced reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from styleclip_export.convert.comparison import Reference, compare
from styleclip_export.convert.network_variants import NetworkVariants
from styleclip_export.convert.onnx_export import TRACED_BATCH
from styleclip_export.progress import ReportLine

FILE = "model.pt"
NETWORKS = ("stylegan2", "e4e")  # CLIP's trimming of texts cannot be traced


@torch.no_grad()
def write(
    variants: NetworkVariants,
    references: Sequence[Reference],
    folder: Path,
    report: ReportLine,
) -> dict[str, Any]:
    """Write FILE into `folder`.

    Returns:
        What provenance.json says about it.

    Raises:
        ConversionError: it differs from PyTorch by more than the bound; no file is written.
    """
    inputs = variants.draw_inputs(TRACED_BATCH)
    traced = torch.jit.trace(variants.reference.eval(), inputs, check_trace=False)
    traced = torch.jit.freeze(traced.eval())
    outputs = [traced(*reference.inputs).numpy() for reference in references]
    difference = compare(
        np.concatenate(outputs), np.concatenate([reference.expected for reference in references])
    )
    difference.check(variants.bound, f"{variants.name} as TorchScript")
    torch.jit.save(traced, str(folder / FILE))
    report(f"{variants.name} as TorchScript: largest {difference.largest:.2g} from PyTorch")
    return {"largest": difference.largest}
