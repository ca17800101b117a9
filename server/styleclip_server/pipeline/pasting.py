"""Pasting a face back into the photo it was cropped from.

This inverts `ffhq_crop.crop_quad`: a perspective transform maps pixels of the photo to pixels of
the face, and a feathered mask in the shape of a head leaves the rest of the photo unchanged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from styleclip_contract import color_profiles
from styleclip_contract.errors import InvalidInput
from styleclip_server.pipeline import images
from styleclip_server.pipeline.ffhq_crop import Quad, crop_quad

# Outlines of the mask in the crop's own coordinates, -1 to 1 (x to the right, y down), where FFHQ
# puts the eyes at y = -0.05, the mouth at 0.5 and the chin at 0.85. Inside the inner outline there
# is only the face, outside the outer one only the photo. Each is a superellipse: its half-width,
# half-heights up and down, and for both the degree (2 is an ellipse, 4 a rounded square).
_HEAD = ((0.64, 0.70, 0.80), (0.93, 0.93, 0.92), 2.3)
_HEAD_CENTER_Y = 0.04
_CENTER_CROP = ((0.72, 0.72, 0.72), (0.96, 0.96, 0.96), 4.0)  # the subject may fill the crop

_MAX_COORDINATE = 1e5  # pixels; beyond any photo, and still exact in float32
_COMPARED_SIZE = 128  # pixels of the reduced copies in which colors are compared without detail
_MIN_SHIFT = 1.5  # levels; less is rounding and JPEG
_MAX_RESIDUAL = 12  # levels; beyond, face and photo show different things
_CHANGE = (4, 14)  # levels; a face is unchanged up to the first and edited from the second on


def paste_back(
    face: NDArray[np.uint8],
    photo: Image.Image,
    quad: NDArray[np.floating],
    match_colors: bool = True,
) -> Image.Image:
    """Paste a face into a copy of the photo.

    Args:
        face: (H, W, 3) uint8 RGB in sRGB.
        photo: RGB, in the color space of its profile. Pixels where the mask is 0 stay the same.
        quad: (4, 2), the corners of the face's crop in the photo.
        match_colors: remove a shift in color between face and photo.

    Raises:
        InvalidInput: the quad is not convex, turned over, or outside the photo.
    """
    corners = _check_quad(quad)
    left, top = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)), photo.size).astype(int).tolist()
    if left >= right or top >= bottom:
        raise InvalidInput(
            f"QUAD lies beside the photo of {photo.width} x {photo.height} pixels: send the QUAD "
            "that came with this photo"
        )
    height, width = face.shape[:2]
    center_crop = _is_center_crop(corners, photo.size, width, height)
    region = photo.crop((left, top, right, bottom))
    edges = np.roll(corners, -1, axis=0) - corners
    scale = min(1, float(np.hypot(*edges.T).max()) / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    coefficients = _perspective(corners - (left, top), *size)

    def warp(image: Image.Image) -> Image.Image:
        # Pillow's transform does not filter: a face larger than its quad is reduced first.
        image = image.resize(size, Image.Resampling.LANCZOS)
        perspective, bicubic = Image.Transform.PERSPECTIVE, Image.Resampling.BICUBIC
        return image.transform(region.size, perspective, coefficients, bicubic)

    mask = warp(_mask(*size, center_crop))
    pixels = Image.fromarray(np.ascontiguousarray(face))
    edited = warp(color_profiles.from_srgb(pixels, color_profiles.read_profile(photo, "RGB")))
    original = warp(_crop(photo, np.asarray(quad, np.float64), (width, height), center_crop))
    if match_colors:
        edited = _match_colors(edited, original, mask)
    edited = _restore_detail(edited, original, region)
    result = photo.copy()
    result.paste(edited, (left, top), mask)
    return result


def _crop(photo: Image.Image, quad: Quad, size: tuple[int, int], center_crop: bool) -> Image.Image:
    """Crop the photo as it was cropped for the networks, to `size` (or a square around it)."""
    if not center_crop:
        return crop_quad(photo, quad, max(size))
    left, top = (quad[0] + 0.5).round().astype(int).tolist()
    width, height = images.largest_crop(photo.size, *size)
    box = (left, top, left + width, top + height)
    return photo.crop(box).resize(size, Image.Resampling.LANCZOS)


def _restore_detail(edited: Image.Image, original: Image.Image, photo: Image.Image) -> Image.Image:
    """Add the photo's detail, which resampling removed, where the face is not edited.

    `original` is the photo after the same resampling, so an unedited face becomes the photo itself.
    At an edit and around it nothing is added: the old detail would show through as a ghost.
    """
    changes = ImageChops.difference(edited, original)
    small = [min(side, _COMPARED_SIZE) for side in edited.size]
    red, green, blue = changes.resize(small).split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    largest = largest.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.BoxBlur(2))
    weight = largest.point([round(255 * w) for w in np.interp(range(256), _CHANGE, (1, 0))])
    weight = weight.resize(edited.size, Image.Resampling.BILINEAR)

    result = edited.copy()
    rows = max(1, 2**20 // edited.width)  # in strips, since the sums need six times the memory
    for top in range(0, edited.height, rows):
        box = (0, top, edited.width, min(top + rows, edited.height))
        pixels, resampled, sharp, share = (
            np.asarray(image.crop(box), np.float32) for image in (edited, original, photo, weight)
        )
        pixels += (sharp - resampled) * (share / 255)[..., None]
        result.paste(Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8)), box)
    return result


def _is_center_crop(
    corners: NDArray[np.float64], photo_size: tuple[int, int], width: int, height: int
) -> bool:
    """Return whether the quad is the largest crop of the photo in the shape of width x height, so
    not from a detected face."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    upright = np.array([(left, top), (left, bottom), (right, bottom), (right, top)])
    width, height = images.largest_crop(photo_size, width, height)
    largest = abs(right - left - width) < 2 and abs(bottom - top - height) < 2
    return bool(largest and np.abs(corners - upright).max() < 1)


def _check_quad(quad: NDArray[np.floating]) -> NDArray[np.float64]:
    """Check a quad, and return its corners (4, 2) as Pillow counts: from the first pixel's corner.

    Raises:
        InvalidInput: it is not finite, not convex, or turned over.
    """
    corners = np.asarray(quad, np.float64)
    if corners.shape != (4, 2) or not (np.abs(corners) < _MAX_COORDINATE).all():  # NaN fails too
        raise InvalidInput("QUAD must be 4 finite corners (x, y) in the photo")
    edges = np.roll(corners, -1, axis=0) - corners
    next_edges = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * next_edges[:, 1] - edges[:, 1] * next_edges[:, 0]
    if not (turns < -0.5).all():  # not degenerate, and every corner turns the same way
        raise InvalidInput(
            "QUAD must be a convex quadrangle: top-left, bottom-left, bottom-right, top-right"
        )
    return corners + 0.5


def _perspective(corners: NDArray[np.float64], width: int, height: int) -> tuple[float, ...]:
    """Compute Pillow's 8 coefficients that map `corners` to those of a width x height face.

    (x, y) maps to ((ax + by + c) / (gx + hy + 1), (dx + ey + f) / (gx + hy + 1)); four pairs of
    points give eight linear equations.
    """
    # Solved relative to the quad's center and size, where the equations are well conditioned.
    center, scale = corners.mean(axis=0), float(np.ptp(corners))
    normalized = (corners - center) / scale
    rows, values = [], []
    targets = [(0, 0), (0, height), (width, height), (width, 0)]
    for (x, y), (u, v) in zip(normalized, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    homography = np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3)
    x, y = center / scale
    matrix = homography @ np.array([[1 / scale, 0, -x], [0, 1 / scale, -y], [0, 0, 1]])
    if abs(matrix[2, 2]) < 1e-9:  # the horizon runs through the region's first pixel
        raise InvalidInput("QUAD is too slanted for a face: send the QUAD of `align`")
    return tuple((matrix / matrix[2, 2]).ravel()[:8].tolist())


def _mask(width: int, height: int, center_crop: bool) -> Image.Image:
    """Draw the mask, mode L: 255 in the inner outline, 0 outside the outer one, smooth between."""
    inner, outer, degree = _CENTER_CROP if center_crop else _HEAD
    center_y = 0 if center_crop else _HEAD_CENTER_Y
    x = np.abs((np.arange(width) + 0.5) / width * 2 - 1)[None, :]
    y = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None] - center_y
    # Where the ray from the center through a pixel crosses each outline, in units of the pixel's
    # distance from the center: the mask falls off along the ray.
    crossings = []
    for across, up, down in (inner, outer):
        radius = (x / across) ** degree + (np.abs(y) / np.where(y < 0, up, down)) ** degree
        crossings.append(1 / np.maximum(radius, 1e-9) ** (1 / degree))
    start, end = crossings
    t = np.clip((end - 1) / np.maximum(end - start, 1e-9), 0, 1)  # 1 at the center
    return Image.fromarray(np.rint(t * t * (3 - 2 * t) * 255).astype(np.uint8))


def _match_colors(edited: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """Give the face the photo's mean and standard deviation in each channel, compared in the seam.

    The face stays as it is if it agrees with the photo there, and also if the two show different
    things (other hair, a hat): then the difference is the edit and not a shift in color.
    """
    size = (min(edited.width, _COMPARED_SIZE), min(edited.height, _COMPARED_SIZE))
    box = Image.Resampling.BOX
    weight = np.asarray(mask.resize(size, box))
    seam = (weight > 8) & (weight < 247)
    face, photo = (
        np.asarray(image.resize(size, box), np.float64)[seam] for image in (edited, original)
    )
    unclipped = ((face > 2) & (face < 253) & (photo > 2) & (photo < 253)).all(axis=-1)
    face, photo = face[unclipped], photo[unclipped]
    if len(face) < 200:
        return edited
    shift = np.median(photo - face, axis=0)
    similar = (np.abs(photo - face - shift) <= _MAX_RESIDUAL).all(axis=-1)
    if np.abs(shift).max() < _MIN_SHIFT or similar.mean() < 0.5:
        return edited
    face, photo = face[similar], photo[similar]
    std = face.std(axis=0)
    gain = np.where(std > 8, photo.std(axis=0) / np.maximum(std, 1), 1).clip(0.8, 1.25)
    offset = photo.mean(axis=0) - gain * face.mean(axis=0)
    levels = gain[:, None] * np.arange(256) + offset[:, None]
    return edited.point(np.rint(levels.clip(0, 255)).astype(int).ravel().tolist())
