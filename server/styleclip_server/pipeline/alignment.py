"""From an upright photo to the aligned face that e4e and StyleGAN2 were trained on.

The geometry is FFHQ's (https://github.com/NVlabs/ffhq-dataset, `recreate_aligned_images`), in the
form that encoder4editing uses at 256 pixels (`utils/alignment.py`): dlib's frontal detector, 68
landmarks, an oriented square from eyes and mouth, then shrink, crop, pad and one transform.
Two things differ on purpose: the caller chooses the face (the official code keeps the detector's
last, so its weakest), and the largest face is searched for first (`detection`).

A quad is (4, 2): (x, y) of the top-left, bottom-left, bottom-right and top-right corner, in the
upright photo, where (0, 0) is the centre of the first pixel, as for dlib's landmarks.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract.errors import FaceIndexOutOfRange, LandmarksMissing, NoFaceFound
from styleclip_contract.wire import FACE_SIZE
from styleclip_server.pipeline import color_profiles, detection, images
from styleclip_server.pipeline.detection import Box, Detection

Quad = NDArray[np.float64]
LANDMARKS = "shape_predictor_68_face_landmarks.dat"

_ENOUGH = 4096  # pixels of the long side that landmarks are read from

_folders: list[Path] = []  # see `look_in`

_Found = TypeVar("_Found", Detection, "Face")


@dataclass(frozen=True)
class Face:
    """A detected face: `box` (left, top, right, bottom) in pixels, `landmarks` (68, 2) (x, y)."""

    box: Box
    score: float
    landmarks: NDArray[np.float64]

    @property
    def area(self) -> int:
        left, top, right, bottom = self.box
        return (right - left + 1) * (bottom - top + 1)  # dlib's right and bottom are inside


def look_in(folder: Path) -> None:
    """Take the landmark model of a domain's `folder`, where `styleclip-export convert` puts it."""
    _folders[:] = [folder]
    _predictor.cache_clear()


def landmark_model() -> Path:
    """dlib's 68-landmark model: the domain's own, else that of the package
    face_recognition_models. Raises LandmarksMissing when there is none."""
    # The package is found, not imported: its __init__ needs setuptools' old pkg_resources.
    spec = importlib.util.find_spec("face_recognition_models")
    package = (spec and spec.submodule_search_locations) or ()
    for folder in (*_folders, *(Path(place, "models") for place in package)):
        if (path := folder / LANDMARKS).is_file():
            return path
    raise LandmarksMissing(
        f"the 68-landmark model is not installed, so photos cannot be aligned: {detection.REMEDY} "
        "(its licence excludes commercial use), or send an aligned face crop with ALIGN false"
    )


@functools.cache
def _predictor() -> Any:
    return detection.dlib().shape_predictor(str(landmark_model()))


def prepare() -> None:
    """Loads dlib's detector and the landmark model, where they are installed: the first photo
    would wait for it for a second."""
    with contextlib.suppress(LandmarksMissing):
        detection.prepare()
        _predictor()


def landmarks_of(picture: Image.Image, box: Box) -> NDArray[np.float64]:
    """The 68 landmarks (68, 2) (x, y), whole pixels, of the face in `box` of an RGB picture."""
    # dlib compares pixels in and near the box; the copy of a whole photo can take 0.5 s.
    left, top, right, bottom = box
    margin = max(right - left, bottom - top)
    x, y = max(left - margin, 0), max(top - margin, 0)
    part = picture.crop(
        (x, y, min(right + margin, picture.width), min(bottom + margin, picture.height))
    )
    face = detection.dlib().rectangle(left - x, top - y, right - x, bottom - y)
    shape = _predictor()(np.asarray(part), face)
    return np.array([(point.x + x, point.y + y) for point in shape.parts()], np.float64)


def find_faces(picture: Image.Image) -> list[Face]:
    """The faces of an RGB picture from about 40 pixels on, best score first; none: an empty list.

    Raises LandmarksMissing when there is a face but no landmark model, or no dlib.
    """
    return [
        Face(found.box, found.score, landmarks_of(picture, found.box))
        for found in detection.every_face(picture)
    ]


def choose(faces: Sequence[_Found], index: int) -> _Found:
    """Face `index`, or for -1 the largest one that is clear (`detection.largest`).

    Raises NoFaceFound for an empty list, FaceIndexOutOfRange for another index.
    """
    if not faces:
        raise NoFaceFound(
            "the detector found 0 faces in the photo: send a frontal, well lit face of at least "
            "80 pixels, or a face crop with ALIGN false"
        )
    if index == -1:
        return detection.largest(faces)
    if not 0 <= index < len(faces):
        raise FaceIndexOutOfRange(
            f"FACE is {index}, but the detector found {len(faces)} face(s): expected 0 to "
            f"{len(faces) - 1}, or -1 for the largest"
        )
    return faces[index]


def quad_of(landmarks: NDArray[np.float64]) -> Quad:
    """FFHQ's oriented square (4, 2) float64 around a face with `landmarks` (68, 2).

    Landmarks 36 to 41 and 42 to 47 are the eyes, 48 and 54 the corners of the mouth.
    """
    points = np.asarray(landmarks, np.float64)
    left_eye, right_eye = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes = (left_eye + right_eye) * 0.5
    across = right_eye - left_eye
    down = (points[48] + points[54]) * 0.5 - eyes
    # Half of the square's width: the direction weighs the line of the eyes and the perpendicular
    # of the line from eyes to mouth, so a turned head tilts the square less.
    x = across - _quarter_turn(down)
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    y = _quarter_turn(x)
    centre = eyes + down * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _quarter_turn(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([-vector[1], vector[0]])


def crop(picture: Image.Image, quad: Quad, size: int = FACE_SIZE) -> Image.Image:
    """The square `quad` of an RGB picture as `size` x `size` pixels, as FFHQ was cropped.

    Parts of the quad beyond the picture are filled with its blurred reflection.
    """
    quad = np.array(quad, np.float64)
    side = float(np.hypot(*(quad[3] - quad[0])))
    shrink = int(side / size * 0.5)
    size_reduced = picture.size
    if shrink > 1:  # the transform does not filter, so large faces are reduced first
        width, height = (max(1, round(pixels / shrink)) for pixels in picture.size)
        size_reduced = (width, height)
        quad /= shrink
        side /= shrink
    border = max(round(side * 0.1), 3)

    low = np.maximum(np.floor(quad.min(axis=0)).astype(int) - border, 0)
    high = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + border, size_reduced)
    picture = _part(picture, size_reduced, low, high)
    quad -= low

    before = np.maximum(border - np.floor(quad.min(axis=0)).astype(int), 0)
    after = np.maximum(np.ceil(quad.max(axis=0)).astype(int) - picture.size + border, 0)
    if max(*before, *after) > border - 4:
        least = round(side * 0.3)
        before, after = np.maximum(before, least), np.maximum(after, least)
        picture = _reflected(picture, before, after, blur=side * 0.02)
        quad += before
    # Pillow counts from the corner of the first pixel, the quad from its centre.
    corners = tuple((quad + 0.5).ravel().tolist())
    return picture.transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def _part(
    picture: Image.Image, size: tuple[int, int], low: NDArray[np.int64], high: NDArray[np.int64]
) -> Image.Image:
    """Pixels (x, y) from `low` up to `high` of `picture` at `size`; only these are resampled."""
    if size == picture.size:
        return picture.crop((*low.tolist(), *high.tolist()))
    scale = np.divide(picture.size, size)
    box = (*(low * scale).tolist(), *np.minimum(high * scale, picture.size).tolist())
    width, height = (high - low).tolist()
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _reflected(
    picture: Image.Image, before: NDArray[np.int64], after: NDArray[np.int64], blur: float
) -> Image.Image:
    """`picture` with margins (x, y) `before` and `after` it: reflection, ever more blurred and
    at last its median colour, so that no hard edge enters the crop."""
    margins = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    pixels = np.pad(np.asarray(picture, np.float32), margins, "reflect")
    height, width = pixels.shape[:2]
    y = np.arange(height, dtype=np.float32)[:, None, None]
    x = np.arange(width, dtype=np.float32)[None, :, None]
    # 1 at the outermost pixels, 0 where the photo begins, below 0 in it.
    depth = np.maximum(
        1 - np.minimum(x / np.float32(before[0]), (width - 1 - x) / np.float32(after[0])),
        1 - np.minimum(y / np.float32(before[1]), (height - 1 - y) / np.float32(after[1])),
    )
    pixels += (_gaussian(pixels, blur) - pixels) * np.clip(depth * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
    return Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))


def _gaussian(pixels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur of (H, W, C), cut at 4 sigma, mirrored at the edges.

    The same numbers as `scipy.ndimage.gaussian_filter`, of which the server needs nothing else.
    A matrix product for each axis is quick because a sigma of up to 20 pixels has 160 taps; in
    blocks of rows, because all else in the matrix is 0.
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


def align(
    picture: Image.Image, face_index: int = -1, counted: Callable[[int], None] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The aligned face (256, 256, 3) uint8 RGB and its quad (4, 2) float32.

    The largest face (-1) takes a fraction of the time that it takes to find and count them all.
    `counted` is told how many faces the search found, before one is chosen.
    Raises NoFaceFound, FaceIndexOutOfRange, LandmarksMissing.
    """
    search = detection.large_faces if face_index == -1 else detection.every_face
    faces = search(picture)
    if counted:
        counted(len(faces))
    found = choose(faces, face_index)
    quad = quad_of(landmarks_of(picture, found.box))
    profile = color_profiles.profile_of(picture, "RGB")
    return np.array(color_profiles.to_srgb(crop(picture, quad), profile)), quad.astype(np.float32)


def align_file(
    data: bytes, face_index: int = -1, counted: Callable[[int], None] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What `align` gives for an encoded photo, the quad in pixels of the whole upright photo.

    A JPEG photo of twice 4096 pixels or more is decoded at half its size: the crop has 256.
    Raises what `images.decode` and `align` raise.
    """
    picture = images.decode(data, longest=_ENOUGH)
    face, quad = align(picture, face_index, counted)
    return face, ((quad + 0.5) * _scale(picture) - 0.5).astype(np.float32)


def faces_of_file(data: bytes) -> NDArray[np.float32]:
    """Every face of an encoded photo, best score first, float32 (N, 5).

    A row is left, top, right, bottom in pixels of the whole upright photo, and the score.
    """
    picture = images.decode(data, longest=_ENOUGH)
    scale = _scale(picture)
    rows = [
        (*((np.reshape(found.box, (2, 2)) + 0.5) * scale - 0.5).ravel(), found.score)
        for found in detection.every_face(picture)
    ]
    return np.array(rows, np.float32).reshape(-1, 5)


def _scale(picture: Image.Image) -> NDArray[np.float64]:
    """Pixels of the whole photo for each of `picture`, which may have been decoded reduced."""
    return np.divide(picture.info.get("full_size", picture.size), picture.size)


def whole_picture(picture: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The largest centred square (256, 256, 3) uint8 RGB and its quad (4, 2) float32.

    For pictures that are a face crop already. The quad's corners are the outer corners of the
    square's pixels, so half a pixel beyond their centres: a 256 x 256 picture has -0.5 and 255.5.
    """
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = (left, top, left + side, top + side)
    if side != FACE_SIZE:
        resized = picture.resize((FACE_SIZE, FACE_SIZE), Image.Resampling.LANCZOS, box=square)
    else:
        resized = picture.crop(square)
    corners = [(0, 0), (0, side), (side, side), (side, 0)]
    quad = np.array(corners, np.float32) + np.array((left - 0.5, top - 0.5), np.float32)
    profile = color_profiles.profile_of(picture, "RGB")
    return np.array(color_profiles.to_srgb(resized, profile)), quad
