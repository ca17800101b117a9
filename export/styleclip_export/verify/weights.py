"""Weights for the golden cases: a golden folder's fill rule.

`fill.py` in this package is the rule as it came with the golden data, byte for byte. A golden
folder contains its own copy, which is code: it is executed only if the caller trusts the folder,
and if its bytes are those of ours, ours is called instead.
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
KNOWN_RULE = Path(__file__).with_name("fill.py")
BLUR_TAPS = (1.0, 3.0, 3.0, 1.0)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FillRule:
    """The fill rule of a golden folder.

    Args:
        path: its fill.py.
        seed: the seed in golden.json.
        trusted: execute fill.py even if it is not the known rule.
    """

    def __init__(self, path: Path, seed: int, trusted: bool = False) -> None:
        self.path, self.seed, self.trusted = path, seed, trusted
        self._fill: Fill | None = None

    def load(self) -> Fill:
        """Return the rule's function `fill`.

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
        if sha256(source) == sha256(KNOWN_RULE.read_bytes()):
            from styleclip_export.verify.fill import fill

            return fill
        if not self.trusted:
            raise VerificationError(
                f"{self.path} is not the rule that is known (SHA-256 {sha256(source)[:16]}…, "
                f"expected {sha256(KNOWN_RULE.read_bytes())[:16]}…), and it is code that would be "
                "executed; read it, then allow it with --trust-fill"
            )
        module = ModuleType("golden_fill")
        exec(compile(source, str(self.path), "exec"), module.__dict__)
        if not callable(getattr(module, "fill", None)):
            raise VerificationError(f"{self.path} defines no function `fill`")
        return cast(Fill, module.fill)

    def state_dict(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Fill a state_dict of these names and shapes with float32 tensors.

        The rule leaves out blur kernels and BatchNorm's counters, which are added here.
        """
        import torch

        row = np.array(BLUR_TAPS, np.float32)
        kernel = torch.from_numpy(np.outer(row, row) / 64 * 4)
        filled = self.load()(dict(shapes), seed=self.seed)
        state = {name: torch.from_numpy(value) for name, value in filled.items()}
        for name in shapes:
            if name.endswith(".kernel"):
                state[name] = kernel.clone()
            elif name.endswith(".num_batches_tracked"):
                state[name] = torch.tensor(0)
        return state
