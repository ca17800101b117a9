"""NVIDIA's StyleGAN2 pickles, TensorFlow's and PyTorch's, under rosinality's parameter names.

The pickles contain the source text of their networks, which is skipped as any other text.
`nvidia_tensorflow` and `nvidia_pytorch` translate the names.
"""

from __future__ import annotations

from typing import Any

from styleclip_export.checkpoints import nvidia_pytorch, nvidia_tensorflow, torch_file
from styleclip_export.checkpoints.nvidia_common import PERSISTENCE_GLOBALS, TranslatedGenerator
from styleclip_export.checkpoints.pickled_arrays import SAVED_GLOBALS, Storage
from styleclip_export.checkpoints.unpickler import (
    AllowedGlobals,
    InertObject,
    PickleBudget,
    SafeUnpickler,
    UnsupportedFile,
)

_TENSORFLOW_NETWORK = "dnnlib.tflib.network.Network"


def read(data: memoryview) -> TranslatedGenerator:
    """Read the generator with averaged weights (`Gs`, `G_ema`) of one of NVIDIA's pickles.

    Raises:
        UnsupportedFile: it contains no StyleGAN2 with the arithmetic of ours.
    """
    budget = PickleBudget()
    content = SafeUnpickler(data, _allowed_globals(budget), budget=budget).load()
    if isinstance(content, tuple) and len(content) == 3:
        content = content[2]  # (G, D, Gs)
    if isinstance(content, InertObject) and content.class_name == _TENSORFLOW_NETWORK:
        return nvidia_tensorflow.translate_generator(content)
    if isinstance(content, dict):
        content = content.get("G_ema")
    if isinstance(content, InertObject) and isinstance(content.get("_modules"), dict):
        return nvidia_pytorch.translate_generator(content)
    raise UnsupportedFile("it contains no generator with averaged weights (Gs or G_ema)")


def _allowed_globals(budget: PickleBudget) -> AllowedGlobals:
    return {
        **SAVED_GLOBALS,
        **PERSISTENCE_GLOBALS,
        _TENSORFLOW_NETWORK: lambda *_: InertObject(_TENSORFLOW_NETWORK),
        "torch.storage._load_from_bytes": lambda stream: _storage(stream, budget),
    }


def _storage(data: Any, budget: PickleBudget) -> Storage:
    """Return the storage of a tensor, which is a PyTorch file within the pickle."""
    storage = torch_file.read_legacy(data, budget) if isinstance(data, memoryview) else None
    if not isinstance(storage, Storage):
        raise UnsupportedFile("it contains a tensor without numbers")
    return storage
