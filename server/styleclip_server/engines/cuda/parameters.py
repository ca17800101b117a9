"""A network's parameters on their way from `model.onnx` to a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleclip_networks.sizes import count_modules


@dataclass(frozen=True)
class Parameters:
    """The parameters of one network, read by name and moved to a device.

    A name that is missing raises KeyError, with the name in full.

    Attributes:
        arrays: by the names in `model.onnx`, float32.
        prefix: what the names of the network's parameters begin with.
        device: where the network runs.
        dtype: of its weights and features.
    """

    arrays: Mapping[str, np.ndarray]
    prefix: str
    device: torch.device
    dtype: torch.dtype

    def has(self, name: str) -> bool:
        return self.prefix + name in self.arrays

    def count(self, weight: str) -> int:
        """Count modules by a weight that each has, with {} for the number; see `count_modules`."""
        return count_modules(self.arrays, self.prefix + weight)

    def array(self, name: str) -> NDArray[np.floating]:
        """Return the parameter as stored."""
        return self.arrays[self.prefix + name]

    def tensor(self, name: str) -> Tensor:
        """Return a copy of the parameter on the CPU."""
        return torch.from_numpy(np.array(self.array(name)))

    def weight(self, values: np.ndarray | Tensor) -> Tensor:
        """Move `values` to the device, in the network's dtype."""
        return self.constant(values, self.dtype)

    def filters(self, values: Tensor) -> Tensor:
        """Move filters (out, in, k, k) to the device, in the network's dtype, channels last."""
        return self.weight(values).contiguous(memory_format=torch.channels_last)

    def constant(self, values: np.ndarray | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Move `values` to the device, contiguous."""
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
        return tensor.to(self.device, dtype).contiguous()
