"""What the tests of the GPU networks share."""

import torch
from torch import nn


def to_weights(module: nn.Module):
    """Return a module's state_dict as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference relative to that of `expected`."""
    return ((output - expected).norm() / expected.norm()).item()
