"""The alignment of a batch of photos on a GPU, for the step `align`.

The result is that of `pipeline.alignment`, which takes over what is not aligned here: photos too
large or too small for a GPU's search, and all photos of a batch if something fails.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract import color_profiles
from styleclip_contract.errors import StyleclipError
from styleclip_server.engines.cuda import kernel_cache, prebuilt
from styleclip_server.engines.cuda.cuda_graphs import captured_batch_sizes
from styleclip_server.engines.cuda.faces.cropping import crop_quads
from styleclip_server.engines.cuda.faces.decoding import Photo, decode_photos
from styleclip_server.engines.cuda.faces.detector import FaceDetector
from styleclip_server.engines.cuda.faces.landmarks import FaceLandmarks, read_model
from styleclip_server.engines.cuda.host_memory import copy_to_host
from styleclip_server.pipeline import images
from styleclip_server.pipeline.alignment import (
    LARGEST_FACE,
    LONG_SIDE,
    FaceCrop,
    map_to_full_size,
    select_face,
)
from styleclip_server.pipeline.detection import MIN_PHOTO, OFFICIAL_SEARCH_UP_TO, Detection
from styleclip_server.pipeline.ffhq_crop import quad_from_landmarks
from styleclip_server.pipeline.landmarks import find_landmark_model

_WARM_UP_PHOTOS = (640, 800, 1000, 1280, 1920)  # long sides that are captured ahead
_WARM_UP_FACE = 200  # pixels of its sides; landmarks of all sizes are captured at once

# Two processes with their captured graphs need 9 GiB; a smaller GPU is left to the networks.
_LEAST_GPU_BYTES = 20 << 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aligned:
    """An aligned face, and how many faces were detected in its photo."""

    face: FaceCrop
    detected: int


Outcome = Aligned | StyleclipError | None


def load_aligner(
    domain_folder: Path | None, device: torch.device, max_batch: int, nvjpeg: bool
) -> CudaAligner | None:
    """Load an aligner of batches of up to `max_batch`; None: it cannot run, as the log says."""
    if torch.cuda.get_device_properties(device).total_memory < _LEAST_GPU_BYTES:
        log.warning("photos are aligned by dlib on the CPU: the GPU has less than 20 GiB")
        return None
    torch.set_num_threads(1)  # small copies on all cores cost more than they save
    try:
        aligner = CudaAligner(domain_folder, device, nvjpeg)
        aligner.warm_up(max_batch)
    except Exception:
        log.exception("photos are aligned by dlib on the CPU")
        return None
    return aligner


class CudaAligner:
    """Aligns faces in batches, in one thread.

    Args:
        domain_folder: a domain's folder, which may contain the landmark model.
        nvjpeg: let nvJPEG decode ordinary JPEGs; faster, but its pixels are not Pillow's.

    Raises:
        LandmarksMissing: dlib or the landmark model is not installed.
        NotADlibModel: dlib has another detector, or the model is none.
    """

    def __init__(
        self, domain_folder: Path | None, device: torch.device, nvjpeg: bool = False
    ) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)  # it refuses "cuda" without a number
            kernel_cache.use_prebuilt_kernels(prebuilt.prebuilt_folder())
        self._device, self._nvjpeg = device, nvjpeg
        self._detector = FaceDetector(device)
        self._landmarks = FaceLandmarks(read_model(find_landmark_model(domain_folder)), device)

    def warm_up(self, max_batch: int) -> None:
        """Do and capture what photos of common sizes need, in batches of up to `max_batch`."""
        for side, batch in itertools.product(_WARM_UP_PHOTOS, captured_batch_sizes(max_batch)):
            file = images.encode(np.zeros((side, side, 3), np.uint8))
            # The first call imports torchvision and loads nvJPEG.
            decoded = decode_photos([file] * batch, self._device, LONG_SIDE, self._nvjpeg)
            pixels = [photo.pixels for photo in decoded if isinstance(photo, Photo)]
            self._detector.search_small_levels(pixels)
        side = _WARM_UP_FACE
        for batch in captured_batch_sizes(max_batch):
            photo = torch.zeros(3, 3 * side, 3 * side, dtype=torch.uint8, device=self._device)
            box = (side, side, 2 * side, 2 * side)
            (points, *_) = self._landmarks.predict([photo] * batch, [box] * batch)
            crop_quads([photo] * batch, [quad_from_landmarks(points)] * batch)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # of calls before each capture

    def align(self, files: Sequence[bytes], indices: Sequence[int]) -> list[Outcome]:
        """Align one face of each photo, as `Aligner.decode_and_align` does.

        Args:
            files: encoded photos.
            indices: which face of each.

        Returns:
            For each photo its face; the error that `decode_and_align` raises; or None, if that has
            to align it.
        """
        try:
            return self._align(files, indices)
        except Exception:
            log.exception("%d photo(s) are aligned on the CPU", len(files))
            return [None] * len(files)

    @torch.inference_mode()
    def _align(self, files: Sequence[bytes], indices: Sequence[int]) -> list[Outcome]:
        outcomes: list[Outcome] = [None] * len(files)
        photos: dict[int, Photo] = {}
        decoded = decode_photos(files, self._device, LONG_SIDE, self._nvjpeg)
        for row, photo in enumerate(decoded):
            if isinstance(photo, StyleclipError):
                outcomes[row] = photo
            else:
                photos[row] = photo
        chosen: dict[int, Detection] = {}
        detected = self._detect(photos, indices)
        for row, faces in detected.items():
            try:
                chosen[row] = select_face(faces, indices[row])
            except StyleclipError as error:
                outcomes[row] = error
        aligned = self._crop([photos[row] for row in chosen], list(chosen.values()))
        for row, face in zip(chosen, aligned, strict=True):
            outcomes[row] = Aligned(face, len(detected[row]))
        return outcomes

    def _detect(
        self, photos: dict[int, Photo], indices: Sequence[int]
    ) -> dict[int, list[Detection]]:
        """Detect the faces of photos by row, but for those whose search does not fit a GPU."""
        found: dict[int, list[Detection]] = {}
        sides = {row: photo.pixels.shape[1:] for row, photo in photos.items()}
        large = [
            row
            for row, side in sides.items()
            if indices[row] == LARGEST_FACE and min(side) >= MIN_PHOTO and max(side) <= LONG_SIDE
        ]
        for row, search in zip(
            large,
            self._detector.search_small_levels([photos[row].pixels for row in large]),
            strict=True,
        ):
            if search.sure:
                found[row] = search.faces
        rest = [
            row
            for row, side in sides.items()
            if row not in found and min(side) >= MIN_PHOTO and max(side) <= OFFICIAL_SEARCH_UP_TO
        ]
        found |= zip(
            rest,
            self._detector.detect_all_faces([photos[row].pixels for row in rest]),
            strict=True,
        )
        return found

    def _crop(self, photos: Sequence[Photo], faces: Sequence[Detection]) -> list[FaceCrop]:
        """Crop one face out of each photo."""
        if not photos:
            return []
        pixels = [photo.pixels for photo in photos]
        points = self._landmarks.predict(pixels, [face.box for face in faces])
        quads = list(quad_from_landmarks(points))
        crops = copy_to_host(crop_quads(pixels, quads))
        return [
            (_to_srgb(crop, photo.profile), _full_size_quad(photo, quad))
            for crop, photo, quad in zip(crops, photos, quads, strict=True)
        ]


def _to_srgb(crop: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    if profile is None:
        return crop
    return np.array(color_profiles.to_srgb(Image.fromarray(crop), profile))


def _full_size_quad(photo: Photo, quad: NDArray[np.float64]) -> NDArray[np.float32]:
    size = photo.pixels.shape[2], photo.pixels.shape[1]
    return map_to_full_size(quad.astype(np.float32), size, photo.full_size).astype(np.float32)
