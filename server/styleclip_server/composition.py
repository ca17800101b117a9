"""The synthesised face as an encoded picture, alone or put back into the photo.

The way back undoes `alignment.crop`: a perspective map takes pixels of the photo to pixels of the
face, and a feathered mask keeps the crop's border and everything beyond it as the photo has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from styleclip_client.errors import InvalidInput

from styleclip_server import images

# The mask is a rounded square (a superellipse of degree 4) in the crop's own square from -1 to 1:
# the face alone within _SOLID, the photo alone from _GONE, which keeps clear of the crop's edge.
_SOLID, _GONE = 0.72, 0.96
_FARTHEST = 1e5  # pixels; beyond any photo that holds a face, and still exact in float32


def compose(
    image: NDArray[np.uint8],
    photo: Image.Image | None = None,
    quad: NDArray[np.floating] | None = None,
    paste: bool = False,
    format: str = "JPEG",
    quality: int = 95,
) -> bytes:
    """The encoded face `image` (H, W, 3) uint8, or with `paste` the photo with the face in it.

    `photo` is upright RGB, `quad` (4, 2) as `alignment` gives it; both count only with `paste`.
    Raises UnknownFormat, ImageTooLarge, NotAnImage (an empty image), InvalidInput (paste without
    photo or quad, a quad that is not convex, turned over or beside the photo).
    """
    images.check_encoding(format, quality)  # before the work
    images.check_pixels(image.shape[1], image.shape[0])
    if not paste:
        return images.encode(image, format, quality)
    if photo is None or quad is None:
        raise InvalidInput("PASTE needs PHOTO and QUAD: send both, or PASTE false")
    return images.encode(np.asarray(paste_back(image, photo, quad)), format, quality)


def paste_back(
    image: NDArray[np.uint8], photo: Image.Image, quad: NDArray[np.floating]
) -> Image.Image:
    """A copy of the RGB `photo` with the face `image` (H, W, 3) uint8 at `quad` (4, 2).

    Pixels where the mask is 0 are the photo's own. Raises InvalidInput for an unusable quad.
    """
    corners = _checked(quad)
    face = Image.fromarray(np.ascontiguousarray(image))
    # Pillow's transform does not filter: a face larger than its place is reduced first.
    edges = np.roll(corners, -1, axis=0) - corners
    side = max(1, round(float(np.hypot(*edges.T).max())))
    face = face.resize((min(face.width, side), min(face.height, side)), Image.Resampling.LANCZOS)

    left, top = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)), photo.size).astype(int).tolist()
    if left >= right or top >= bottom:
        raise InvalidInput(
            f"QUAD lies beside the photo of {photo.width} x {photo.height} pixels: send the QUAD "
            "that came with this photo"
        )
    region = (right - left, bottom - top)
    to_face = _perspective(corners - (left, top), face.width, face.height)
    perspective = Image.Transform.PERSPECTIVE
    warped = face.transform(region, perspective, to_face, Image.Resampling.BICUBIC)
    mask = _mask(face.width, face.height)
    mask = mask.transform(region, perspective, to_face, Image.Resampling.BILINEAR)
    result = photo.copy()
    result.paste(warped, (left, top), mask)
    return result


def _checked(quad: NDArray[np.floating]) -> NDArray[np.float64]:
    """The corners (4, 2) counted from the corner of the first pixel, as Pillow does."""
    corners = np.asarray(quad, np.float64)
    if corners.shape != (4, 2) or not (np.abs(corners) < _FARTHEST).all():  # NaN fails too
        raise InvalidInput("QUAD must be 4 finite corners (x, y) in the photo")
    edges = np.roll(corners, -1, axis=0) - corners
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    if not (turns < -0.5).all():  # not degenerate, and every corner turns the same way
        raise InvalidInput(
            "QUAD must be a convex quadrangle: top-left, bottom-left, bottom-right, top-right"
        )
    return corners + 0.5


def _perspective(corners: NDArray[np.float64], width: int, height: int) -> tuple[float, ...]:
    """Pillow's 8 numbers that take `corners` in the photo to those of a width x height face.

    (x, y) goes to ((ax + by + c) / (gx + hy + 1), (dx + ey + f) / (gx + hy + 1)); four pairs of
    points make eight linear equations.
    """
    # Solved about the quad's centre and in units of its size, where the equations are well
    # conditioned; then moved to the region's own pixels.
    centre, scale = corners.mean(axis=0), float(np.ptp(corners))
    unit = (corners - centre) / scale
    rows, values = [], []
    targets = [(0, 0), (0, height), (width, height), (width, 0)]
    for (x, y), (u, v) in zip(unit, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    homography = np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3)
    x, y = centre / scale
    matrix = homography @ np.array([[1 / scale, 0, -x], [0, 1 / scale, -y], [0, 0, 1]])
    if abs(matrix[2, 2]) < 1e-9:  # the horizon runs through the region's first pixel
        raise InvalidInput("QUAD is too slanted to hold a face: send the QUAD that align gave")
    return tuple((matrix / matrix[2, 2]).ravel()[:8].tolist())


def _mask(width: int, height: int) -> Image.Image:
    """Mode L: 255 in the middle, 0 at the border, a smooth step between."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    radius = (x[None, :] ** 4 + y[:, None] ** 4) ** 0.25
    t = np.clip((_GONE - radius) / (_GONE - _SOLID), 0, 1)
    return Image.fromarray(np.rint(t * t * (3 - 2 * t) * 255).astype(np.uint8))
