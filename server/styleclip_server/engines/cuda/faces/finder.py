"""Faces of photos on a GPU, for the step `align`; dlib takes over whatever fails there."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styleclip_server.engines.cuda import kernel_cache, prebuilt
from styleclip_server.engines.cuda.faces.detector import FaceDetector
from styleclip_server.engines.cuda.faces.gathering import Gathered
from styleclip_server.engines.cuda.faces.landmarks import FaceLandmarks, read_model
from styleclip_server.pipeline.cancellation import check_cancelled
from styleclip_server.pipeline.detection import MIN_PHOTO, OFFICIAL_SEARCH_UP_TO, Detection
from styleclip_server.pipeline.dlib_detector import Pixels
from styleclip_server.pipeline.face_finder import DlibFaceFinder, FaceFinder
from styleclip_server.pipeline.image_pyramid import Box
from styleclip_server.pipeline.landmarks import crop_around, find_landmark_model

_WARM_UP_FACES = (100, 200, 300, 450)  # pixels; for each one another CUDA graph is captured

log = logging.getLogger(__name__)


class _Models:
    """The detector and the landmarks, each with the calls of all threads gathered.

    One thread at a time uses the GPU: while a CUDA graph is captured no other may.
    """

    def __init__(self, detector: FaceDetector, landmarks: FaceLandmarks, limit: int) -> None:
        self._landmarks, self._device, self._lock = landmarks, detector.device, threading.Lock()
        self.large_faces = Gathered(partial(self._detect, detector.detect_large_faces), limit)
        self.all_faces = Gathered(partial(self._detect, detector.detect_all_faces), limit)
        self.landmarks = Gathered(self._predict, limit)

    def _detect(
        self, call: Callable[[list[Tensor]], list[list[Detection]]], photos: Sequence[Pixels]
    ) -> list[list[Detection]]:
        with self._lock:
            return call([self._upload(photo) for photo in photos])

    def _predict(self, faces: Sequence[tuple[Pixels, Box]]) -> list[NDArray[np.float64]]:
        with self._lock:
            regions = [self._upload(region) for region, _ in faces]
            return list(self._landmarks.predict(regions, [box for _, box in faces]))

    def _upload(self, pixels: Pixels) -> Tensor:
        return torch.from_numpy(pixels).to(self._device).permute(2, 0, 1).contiguous()


class CudaFaceFinder(FaceFinder):
    """dlib's detector and landmarks on `device`, for several threads.

    Args:
        domain_folder: a domain's folder, which may contain the landmark model.
        threads: how many threads call it.
    """

    def __init__(self, domain_folder: Path | None, device: torch.device, threads: int = 1) -> None:
        self._domain_folder, self._device, self._threads = domain_folder, device, threads
        self._dlib = DlibFaceFinder(domain_folder)
        self._models: _Models | None = None

    def load(self) -> None:
        self._dlib.load()
        if self._device.type == "cuda":
            kernel_cache.use_prebuilt_kernels(prebuilt.prebuilt_folder())
        try:
            model = read_model(find_landmark_model(self._domain_folder))
            detector, landmarks = FaceDetector(self._device), FaceLandmarks(model, self._device)
            detector.detect_all_faces([torch.zeros(3, 64, 64, dtype=torch.uint8)])
            for side, faces in itertools.product(_WARM_UP_FACES, range(1, self._threads + 1)):
                region = torch.zeros(3, 3 * side, 3 * side, dtype=torch.uint8)
                landmarks.predict([region] * faces, [(side, side, 2 * side, 2 * side)] * faces)
            self._models = _Models(detector, landmarks, self._threads)
        except Exception:
            log.exception("faces are found by dlib on the CPU")

    def detect_large_faces(self, image: Image.Image) -> list[Detection]:
        on_gpu = self._models.large_faces if self._models else None
        return self._detect(image, on_gpu, self._dlib.detect_large_faces)

    def detect_all_faces(self, image: Image.Image) -> list[Detection]:
        on_gpu = self._models.all_faces if self._models else None
        return self._detect(image, on_gpu, self._dlib.detect_all_faces)

    def _detect(
        self,
        image: Image.Image,
        on_gpu: Callable[[Pixels], list[Detection]] | None,
        by_dlib: Callable[[Image.Image], list[Detection]],
    ) -> list[Detection]:
        check_cancelled()
        if on_gpu and _fits(image):
            try:
                return on_gpu(np.array(image))
            except Exception:
                log.exception("dlib detects the faces of this photo on the CPU")
        return by_dlib(image)

    def predict_landmarks(self, image: Image.Image, box: Box) -> NDArray[np.float64]:
        if self._models:
            region, (x, y) = crop_around(image, box)
            face = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
            try:
                points = self._models.landmarks((np.array(region), face))
                return points + np.array((x, y))
            except Exception:
                log.exception("dlib predicts the landmarks of this photo on the CPU")
        return self._dlib.predict_landmarks(image, box)


def _fits(image: Image.Image) -> bool:
    """Return whether the official search of the photo fits a GPU, and dlib would run it too."""
    return min(image.size) >= MIN_PHOTO and max(image.size) <= OFFICIAL_SEARCH_UP_TO
