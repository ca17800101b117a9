"""Random inputs of each network, the same at every call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_contract import wire
from styleclip_networks.stylegan2 import Generator

Inputs = tuple[Tensor, ...]
InputFactory = Callable[[int], Inputs]
"""Batch size → the input tensors of a network."""


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed PyTorch's generator on the CPU within the context and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_faces(
    batch: int, crop_size: tuple[int, int] = (wire.FACE_SIZE, wire.FACE_SIZE)
) -> Inputs:
    """Draw FACE_CROP of this height and width: images of blurred noise in [-1, 1]."""
    with seeded(batch):
        coarse = torch.rand(batch, 3, 32, 32) * 2 - 1
    return (F.interpolate(coarse, size=crop_size, mode="bilinear"),)


def random_tokens(batch: int) -> Inputs:
    """Draw TOKENS: texts of random words and random length."""
    with seeded(batch):
        tokens = torch.zeros(batch, wire.TOKENS_PER_TEXT, dtype=torch.int32)
        for row in tokens:
            length = int(torch.randint(3, 20, ()))
            row[:length] = torch.randint(300, 40_000, (length,))
            row[0], row[length] = 49406, 49407  # start and end of text
    return (tokens,)


def latent_factory(generator: Generator, style_std: Tensor | None = None) -> InputFactory:
    """Return a factory of W_PLUS from the mapping network and normally distributed DELTA.

    Args:
        style_std: (S,) standard deviations of DELTA; None means 0.1 for every channel.
    """

    def draw_latents(batch: int) -> Inputs:
        size = sum(generator.style_channels)
        with seeded(batch), torch.no_grad():
            w = generator.mapping(torch.randn(batch * generator.num_latents, generator.w_dim))
            delta = torch.randn(batch, size) * (0.1 if style_std is None else style_std)
        return w.reshape(batch, generator.num_latents, -1), delta

    return draw_latents
