"""Random latents: seed → z → w, by the generator's mapping network in NumPy.

Source: Karras et al. 2019, "A Style-Based Generator Architecture for GANs" (mapping network;
truncation, appendix B). A seed gives the z that `generate.py` of NVlabs/stylegan2-ada-pytorch
draws for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from styleclip_contract import limits
from styleclip_contract.errors import InvalidSeed, SamplingUnavailable
from styleclip_networks.constants import PIXEL_NORM_EPS
from styleclip_server.pipeline.fully_connected import fully_connected

MAPPING_FILE = "mapping.npz"


@dataclass(frozen=True)
class Mapping:
    """A mapping network.

    Attributes:
        weights: (layers, w_dim, w_dim) float32, scaled for equalized learning rate; None if the
            domain has no mapping network.
        biases: (layers, w_dim) float32, scaled.
        w_avg: (w_dim,) float32, the average latent.
    """

    weights: np.ndarray | None
    biases: np.ndarray
    w_avg: np.ndarray

    def sample(self, seed: int, truncation: float, num_latents: int) -> np.ndarray:
        """Return the latent of a seed, (num_latents, w_dim) float32, all rows alike.

        Args:
            truncation: ψ; 1 keeps the latent, 0 gives the average one.

        Raises:
            SamplingUnavailable: the domain has no mapping network.
            InvalidSeed: seed or truncation is out of range.
        """
        if self.weights is None:
            raise SamplingUnavailable(
                "the domain has no mapping network, so seeds give no latents: convert it again "
                "(`styleclip-export convert`)"
            )
        if not 0 <= seed <= limits.SEED:
            raise InvalidSeed(f"the seed is {seed}; 0 to {limits.SEED} is expected")
        if not 0 <= truncation <= 1:
            raise InvalidSeed(f"the truncation is {truncation:g}; a number from 0 to 1 is expected")
        z = np.random.RandomState(seed).randn(1, self.weights.shape[1]).astype(np.float32)
        x = z / np.sqrt(np.mean(z * z) + np.float32(PIXEL_NORM_EPS))
        x = fully_connected(x, zip(self.weights, self.biases, strict=True))
        w = self.w_avg + truncation * (x - self.w_avg)
        return np.repeat(w.astype(np.float32), num_latents, axis=0)


def load_mapping(domain_folder: Path) -> Mapping:
    """Load a domain's `mapping.npz`, in float32 or float16.

    A domain without one has a mapping that samples nothing.

    Raises:
        ValueError: its arrays do not fit together.
    """
    path = domain_folder / MAPPING_FILE
    if not path.is_file():
        return Mapping(None, np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
    with np.load(path, allow_pickle=False) as data:
        weights, biases, w_avg = (
            data[name].astype(np.float32) for name in ("weights", "biases", "w_avg")
        )
    layers, width = biases.shape
    if weights.shape != (layers, width, width) or w_avg.shape != (width,):
        raise ValueError(f"{path} is damaged: convert the domain again")
    return Mapping(weights, biases, w_avg)
