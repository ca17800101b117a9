"""From an upright photo to the aligned face crop that e4e and StyleGAN2 were trained on.

Faces are aligned as FFHQ's are (`ffhq_crop`), with two deliberate differences from the official
code: the caller selects the face (the official code takes the detector's last, which is its
weakest), and the largest face is searched for first (`detection`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract import color_profiles
from styleclip_contract.errors import FaceIndexOutOfRange, LandmarksMissing, NoFaceFound
from styleclip_contract.wire import FACE_SIZE
from styleclip_server.pipeline import images
from styleclip_server.pipeline.detection import (
    Detection,
    detect_all_faces,
    detect_large_faces,
    select_largest,
)
from styleclip_server.pipeline.dlib_detector import load_detector
from styleclip_server.pipeline.ffhq_crop import crop_quad, quad_from_landmarks
from styleclip_server.pipeline.landmarks import LandmarkPredictor

LARGEST_FACE = -1
LONG_SIDE = 4096  # pixels at which landmarks are precise enough; larger JPEGs are decoded reduced

FaceCrop = tuple[NDArray[np.uint8], NDArray[np.float32]]


class Aligner:
    """Detects a face, predicts its landmarks and crops it; safe to share between threads.

    Args:
        domain_folder: a domain's folder, which may contain the landmark model.
    """

    def __init__(self, domain_folder: Path | None = None) -> None:
        self._landmarks = LandmarkPredictor(domain_folder)

    def preload(self) -> None:
        """Load the models where they are installed, so that the first photo does not wait."""
        with contextlib.suppress(LandmarksMissing):
            load_detector()
            self._landmarks.load()

    def align(
        self,
        image: Image.Image,
        face_index: int = LARGEST_FACE,
        on_detected: Callable[[int], None] | None = None,
    ) -> FaceCrop:
        """Align one face of an upright RGB photo.

        Args:
            face_index: which face, best score first. The largest face, -1, is much faster, since
                the search ends before it has detected all faces.
            on_detected: called with the number of detected faces, before one is selected.

        Returns:
            The face (256, 256, 3) uint8 RGB in sRGB, and its quad (4, 2) float32 in the photo.

        Raises:
            NoFaceFound, FaceIndexOutOfRange, LandmarksMissing
        """
        faces = (detect_large_faces if face_index == LARGEST_FACE else detect_all_faces)(image)
        if on_detected:
            on_detected(len(faces))
        face = select_face(faces, face_index)
        quad = quad_from_landmarks(self._landmarks.predict(image, face.box))
        profile = color_profiles.read_profile(image, "RGB")
        crop = color_profiles.to_srgb(crop_quad(image, quad), profile)
        return np.array(crop), quad.astype(np.float32)

    def decode_and_align(
        self,
        data: bytes,
        face_index: int = LARGEST_FACE,
        on_detected: Callable[[int], None] | None = None,
    ) -> FaceCrop:
        """Align one face of an encoded photo, as `align` does.

        A JPEG with a long side of 8192 pixels or more is decoded at a fraction of its size; the
        quad refers to the full size.

        Raises:
            NotAnImage, ImageTruncated, ImageTooLarge: see `images.decode`.
            NoFaceFound, FaceIndexOutOfRange, LandmarksMissing: see `align`.
        """
        image = images.decode(data, min_long_side=LONG_SIDE)
        face, quad = self.align(image, face_index, on_detected)
        full_size = image.info.get("full_size", image.size)
        return face, map_to_full_size(quad, image.size, full_size).astype(np.float32)


def decode_and_detect(data: bytes) -> NDArray[np.float32]:
    """Detect every face of an encoded photo.

    Returns:
        (N, 5), best score first: left, top, right, bottom in pixels of the full-size upright
        photo, and the score.
    """
    image = images.decode(data, min_long_side=LONG_SIDE)
    full_size = image.info.get("full_size", image.size)
    rows = [
        (
            *map_to_full_size(np.reshape(face.box, (2, 2)), image.size, full_size).ravel(),
            face.score,
        )
        for face in detect_all_faces(image)
    ]
    return np.array(rows, np.float32).reshape(-1, 5)


def select_face(faces: Sequence[Detection], index: int) -> Detection:
    """Select face `index`, or for -1 the largest clear one (`detection.select_largest`).

    Raises:
        NoFaceFound: the list is empty.
        FaceIndexOutOfRange: the index is neither -1 nor that of a face.
    """
    if not faces:
        raise NoFaceFound(
            "the detector found 0 faces in the photo: send a frontal, well lit face of at least "
            "80 pixels, or a face crop with ALIGN false"
        )
    if index == LARGEST_FACE:
        return select_largest(faces)
    if not 0 <= index < len(faces):
        raise FaceIndexOutOfRange(
            f"FACE is {index}, but the detector found {len(faces)} face(s): expected 0 to "
            f"{len(faces) - 1}, or -1 for the largest"
        )
    return faces[index]


def crop_center(
    image: Image.Image, crop_size: tuple[int, int] = (FACE_SIZE, FACE_SIZE)
) -> FaceCrop:
    """Crop the largest centered part of an RGB image, which is a face crop already.

    Args:
        crop_size: height and width of the result.

    Returns:
        The crop (height, width, 3) uint8 RGB in sRGB, and its quad (4, 2) float32. The quad's
        corners are the outer corners of the crop's pixels, half a pixel beyond their centers: -0.5
        and 255.5 for a 256 x 256 image.
    """
    size = crop_size[1], crop_size[0]
    width, height = images.largest_crop(image.size, *size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    box = (left, top, left + width, top + height)
    if (width, height) == size:
        crop = image.crop(box)
    else:
        crop = image.resize(size, Image.Resampling.LANCZOS, box=box)
    corners = [(0, 0), (0, height), (width, height), (width, 0)]
    quad = np.array(corners, np.float32) + np.array((left - 0.5, top - 0.5), np.float32)
    profile = color_profiles.read_profile(image, "RGB")
    return np.array(color_profiles.to_srgb(crop, profile)), quad


def to_face_crop(face: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert a face (H, W, 3) uint8 RGB to e4e's input (3, H, W) in [-1, 1]."""
    return face.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)


def map_to_full_size(
    points: NDArray[Any], size: tuple[int, int], full_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Map points (N, 2) in a photo that was decoded to `size` (width, height) to its full size."""
    return (points + 0.5) * np.divide(full_size, size) - 0.5
