"""FFHQ's face crop: an oriented square around the eyes and the mouth, cut out of the photo.

Source: https://github.com/NVlabs/ffhq-dataset, `recreate_aligned_images`, in the form that
encoder4editing uses at 256 pixels (`utils/alignment.py`): shrink, crop, pad, one transform.

A quad is (4, 2): (x, y) of the top-left, bottom-left, bottom-right and top-right corner in the
upright photo, where (0, 0) is the center of the first pixel, as in dlib's landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract.wire import FACE_SIZE

Quad = NDArray[np.float64]


def quad_from_landmarks(landmarks: NDArray[np.float64]) -> Quad:
    """Compute FFHQ's oriented squares (..., 4, 2) from 68 landmarks each (..., 68, 2).

    Landmarks 36 to 41 and 42 to 47 are the eyes, 48 and 54 the corners of the mouth.
    """
    points = np.asarray(landmarks, np.float64)
    left_eye, right_eye = points[..., 36:42, :].mean(axis=-2), points[..., 42:48, :].mean(axis=-2)
    eyes = (left_eye + right_eye) * 0.5
    across = right_eye - left_eye
    down = (points[..., 48, :] + points[..., 54, :]) * 0.5 - eyes
    # Half of the square's width. Its direction averages the line of the eyes and the perpendicular
    # to the line from eyes to mouth, so that a turned head tilts the square less.
    x = across - _quarter_turn(down)
    half = np.maximum(_length(across) * 2.0, _length(down) * 1.8) / _length(x)
    x *= half[..., None]
    y = _quarter_turn(x)
    center = eyes + down * 0.1
    return np.stack([center - x - y, center - x + y, center + x + y, center + x - y], axis=-2)


def _length(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length: NDArray[np.float64] = np.hypot(vector[..., 0], vector[..., 1])
    return length


def _quarter_turn(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([-vector[..., 1], vector[..., 0]], axis=-1)


@dataclass(frozen=True)
class CropPlan:
    """What FFHQ does to a photo before one transform; all points and sizes are (x, y).

    Attributes:
        shrunk_size: of the photo, which is shrunk first if the face is large.
        low, high: the part of the shrunk photo that is used.
        before, after: the margins that the part is padded by, 0 for none.
        blur: the standard deviation, in pixels, of the Gaussian that blurs the margins.
        quad: in the padded part (4, 2).
    """

    shrunk_size: tuple[int, int]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    blur: float
    quad: Quad

    @property
    def is_padded(self) -> bool:
        return bool(self.before.any() or self.after.any())

    @property
    def corners(self) -> Quad:
        """The quad, counted from the corner of the first pixel and not from its center."""
        return self.quad + 0.5


def plan_crop(photo_size: tuple[int, int], quad: Quad, size: int = FACE_SIZE) -> CropPlan:
    """Plan the crop of `quad` out of a photo (width, height) as `size` x `size` pixels."""
    quad = np.array(quad, np.float64)
    side = float(np.hypot(*(quad[3] - quad[0])))
    shrink = int(side / size * 0.5)
    shrunk_size = photo_size
    if shrink > 1:  # the transform does not filter, so large faces are shrunk first
        width, height = (max(1, round(pixels / shrink)) for pixels in photo_size)
        shrunk_size = (width, height)
        quad /= shrink
        side /= shrink
    border = max(round(side * 0.1), 3)

    low = np.maximum(np.floor(quad.min(axis=0)).astype(int) - border, 0)
    high = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + border, shrunk_size)
    quad -= low

    before = np.maximum(border - np.floor(quad.min(axis=0)).astype(int), 0)
    after = np.maximum(np.ceil(quad.max(axis=0)).astype(int) - (high - low) + border, 0)
    if max(*before, *after) > border - 4:
        margin = round(side * 0.3)
        before, after = np.maximum(before, margin), np.maximum(after, margin)
        quad += before
    else:
        before = after = np.zeros(2, int)
    return CropPlan(shrunk_size, low, high, before, after, side * 0.02, quad)


def crop_quad(image: Image.Image, quad: Quad, size: int = FACE_SIZE) -> Image.Image:
    """Crop the square `quad` out of an RGB image as `size` x `size` pixels, as FFHQ does.

    Parts of the quad outside the image are filled with its blurred reflection.
    """
    plan = plan_crop(image.size, quad, size)
    image = _shrink_and_crop(image, plan.shrunk_size, plan.low, plan.high)
    if plan.is_padded:
        image = _pad_with_reflection(image, plan.before, plan.after, plan.blur)
    corners = tuple(plan.corners.ravel().tolist())
    return image.transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def _shrink_and_crop(
    image: Image.Image, size: tuple[int, int], low: NDArray[np.int64], high: NDArray[np.int64]
) -> Image.Image:
    """Crop (x, y) from `low` to `high` of the image resized to `size`, resampling only the crop."""
    if size == image.size:
        return image.crop((*low.tolist(), *high.tolist()))
    scale = np.divide(image.size, size)
    box = (*(low * scale).tolist(), *np.minimum(high * scale, image.size).tolist())
    width, height = (high - low).tolist()
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _pad_with_reflection(
    image: Image.Image, before: NDArray[np.int64], after: NDArray[np.int64], blur: float
) -> Image.Image:
    """Pad by margins (x, y) `before` and `after` the image, so that no hard edge enters the crop.

    The margins are its reflection, blurred more and more, and fade to the median color.
    """
    margins = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    pixels = np.pad(np.asarray(image, np.float32), margins, "reflect")
    height, width = pixels.shape[:2]
    y = np.arange(height, dtype=np.float32)[:, None, None]
    x = np.arange(width, dtype=np.float32)[None, :, None]
    # 1 at the outermost pixels, 0 where the photo begins, negative inside it.
    depth = np.maximum(
        1 - np.minimum(x / np.float32(before[0]), (width - 1 - x) / np.float32(after[0])),
        1 - np.minimum(y / np.float32(before[1]), (height - 1 - y) / np.float32(after[1])),
    )
    pixels += (_gaussian_blur(pixels, blur) - pixels) * np.clip(depth * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
    return Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))


def _gaussian_blur(pixels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur (H, W, C) by a Gaussian truncated at 4 sigma, mirrored at the edges.

    Gives the same numbers as `scipy.ndimage.gaussian_filter` without the dependency. One matmul
    per axis is fast, since a sigma of 20 pixels has 160 taps; it runs in blocks of rows, since the
    rest of the band matrix is 0.
    """
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    block = 2 * radius + 32
    for _ in range(2):
        n, other, channels = pixels.shape
        sources = np.pad(np.arange(n), radius, "symmetric")
        blurred = np.empty((n, other * channels), np.float32)
        for start in range(0, n, block):
            rows = min(block, n - start)
            band = np.zeros((rows, rows + 2 * radius), np.float32)
            for row in range(rows):
                band[row, row : row + len(offsets)] = weights
            near = pixels[sources[start : start + rows + 2 * radius]]
            blurred[start : start + rows] = band @ near.reshape(len(near), other * channels)
        pixels = np.ascontiguousarray(blurred.reshape(n, other, channels).swapaxes(0, 1))
    return pixels
