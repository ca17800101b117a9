"""Compilation of functions that are hundreds of small kernels otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def compiled_on_gpu(function: Callable[..., Result]) -> Callable[..., Result]:
    """Compile a function of tensors of any size, where its first argument is on a GPU."""
    compiled = torch.compile(function, dynamic=True)

    @wraps(function)
    def call(first: Tensor, *arguments: object) -> Result:
        return (compiled if first.is_cuda else function)(first, *arguments)

    return call
