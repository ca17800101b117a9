"""Weights for the golden cases: the folder's fill rule under the official names.

`fill.py` beside this module is the rule as it came with the golden data, kept byte for byte. A
golden folder brings its own copy, and that is code. It is executed only where its bytes are ours
(then ours is called) or where the caller says that the folder is to be trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from styleclip_export.errors import VerificationError

if TYPE_CHECKING:
    from torch import Tensor

Fill = Callable[..., dict[str, np.ndarray]]
OURS = Path(__file__).with_name("fill.py")
BLUR = (1.0, 3.0, 3.0, 1.0)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FillRule:
    """A golden folder's rule: `path` is its fill.py, `seed` that of golden.json."""

    def __init__(self, path: Path, seed: int, trusted: bool = False) -> None:
        self.path, self.seed, self.trusted = path, seed, trusted
        self._fill: Fill | None = None

    def load(self) -> Fill:
        """The function `fill`.

        Raises:
            VerificationError: fill.py is missing, or neither known nor trusted.
        """
        if self._fill is None:
            self._fill = self._load()
        return self._fill

    def _load(self) -> Fill:
        if not self.path.is_file():
            raise VerificationError("fill.py is missing, the rule that gives the golden weights")
        source = self.path.read_bytes()
        if sha256(source) == sha256(OURS.read_bytes()):
            from styleclip_export.verify.fill import fill

            return fill
        if not self.trusted:
            raise VerificationError(
                f"{self.path} is not the rule that is known (SHA-256 {sha256(source)[:16]}…, "
                f"expected {sha256(OURS.read_bytes())[:16]}…), and it is code that would be "
                "executed; read it, then allow it with --trust-fill"
            )
        module = ModuleType("golden_fill")
        exec(compile(source, str(self.path), "exec"), module.__dict__)
        if not callable(getattr(module, "fill", None)):
            raise VerificationError(f"{self.path} defines no function `fill`")
        return cast(Fill, module.fill)

    def state(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """A state_dict as an official checkpoint has it: the rule's tensors (float32), and what
        the rule leaves out: blur kernels, and BatchNorm's counters at 0."""
        import torch

        row = np.array(BLUR, np.float32)
        kernel = torch.from_numpy(np.outer(row, row) / 64 * 4)
        filled = self.load()(dict(shapes), seed=self.seed)
        state = {name: torch.from_numpy(value) for name, value in filled.items()}
        for name in shapes:
            if name.endswith(".kernel"):
                state[name] = kernel.clone()
            elif name.endswith(".num_batches_tracked"):
                state[name] = torch.tensor(0)
        return state
