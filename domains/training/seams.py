"""How visible the seam is where an edited face is pasted back into its photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

from styleclip_server.pipeline.pasting import paste_back


def weight_of_face(photo: Image.Image, quad: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the weight (h, w) of the pasted face in each pixel of a photo, 0 to 255."""
    white = np.full((64, 64, 3), 255, np.uint8)
    return np.asarray(paste_back(white, Image.new("RGB", photo.size), quad, False))[..., 0]


def measure_seam(result: ArrayLike, photo: ArrayLike, mask: NDArray[np.uint8]) -> float:
    """Return the mean step in levels that pasting adds in the seam; 0 if it is invisible.

    The difference from the photo is blurred first, so that detail does not count.

    Args:
        result, photo: RGB (h, w, 3), levels from 0 to 255, after and before pasting.
        mask: (h, w), as of `weight_of_face`.
    """
    change = np.asarray(result, float) - np.asarray(photo, float)
    sigma = max(1.0, float(np.sqrt((mask > 0).sum())) / 60)
    change = ndimage.gaussian_filter(change, (sigma, sigma, 0))
    steps = np.maximum(*(np.abs(g).max(axis=-1) for g in np.gradient(change, axis=(0, 1))))
    return float(steps[(mask > 0) & (mask < 255)].mean() * sigma)
