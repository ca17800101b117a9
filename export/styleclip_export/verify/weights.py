"""Weights for the golden cases: a golden folder's fill rule.

`fill.py` in this package is the rule as it came with the golden data, byte for byte. A golden
folder contains its own copy, which is code: it is executed only if the caller trusts the folder,
and if its bytes are those of ours, ours is called instead.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from styleclip_export.errors import VerificationError
from styleclip_export.file_kinds import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

Fill = Callable[..., dict[str, np.ndarray]]
KNOWN_RULE = Path(__file__).with_name("fill.py")


@dataclass(frozen=True)
class Override:
    """Mean and standard deviation of some weights, in place of the fill rule's.

    Attributes:
        pattern: searched in a weight's name.
        std: None means 1 / sqrt(fan-in).
    """

    pattern: str
    mean: float
    std: float | None

    def fill(self, name: str, shape: Sequence[int], seed: int) -> np.ndarray:
        """Draw the weight from the numbers of the known rule."""
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        std = math.prod(shape[1:]) ** -0.5 if self.std is None else self.std
        normal = rng.standard_normal(tuple(shape), np.float32)
        return np.float32(self.mean) + np.float32(std) * normal


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

    def with_seed(self, seed: int) -> FillRule:
        """Return the same rule with another seed."""
        return FillRule(self.path, seed, self.trusted)

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
        found, known = sha256_of(self.path), sha256_of(KNOWN_RULE)
        if found == known:
            from styleclip_export.verify.fill import fill

            return fill
        if not self.trusted:
            raise VerificationError(
                f"{self.path} is not the rule that is known (SHA-256 {found[:16]}…, "
                f"expected {known[:16]}…), and it is code that would be executed; read it, then "
                "allow it with --trust-fill"
            )
        module = ModuleType("golden_fill")
        exec(compile(self.path.read_bytes(), str(self.path), "exec"), module.__dict__)
        if not callable(getattr(module, "fill", None)):
            raise VerificationError(f"{self.path} defines no function `fill`")
        return cast(Fill, module.fill)

    def state_dict(
        self, shapes: Mapping[str, Sequence[int]], overrides: Sequence[Override] = ()
    ) -> dict[str, Tensor]:
        """Fill a state_dict of these names and shapes with float32 tensors.

        The rule leaves out blur kernels and BatchNorm's counters, which are added here.

        Args:
            overrides: tried in their order, before the rule.
        """
        import torch

        from styleclip_export.checkpoints.state_dicts import RESAMPLE_KERNEL

        by_rule, filled = {}, {}
        for name, shape in shapes.items():
            override = next((o for o in overrides if re.search(o.pattern, name)), None)
            if override:
                filled[name] = override.fill(name, shape, self.seed)
            else:
                by_rule[name] = shape
        filled |= self.load()(by_rule, seed=self.seed)
        state = {name: torch.from_numpy(value) for name, value in filled.items()}
        for name in shapes:
            if name.endswith(".kernel"):
                state[name] = torch.from_numpy(RESAMPLE_KERNEL.copy())
            elif name.endswith(".num_batches_tracked"):
                state[name] = torch.tensor(0)
        return state
