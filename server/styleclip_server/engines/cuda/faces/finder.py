"""Faces of photos on a GPU, for the step `align`; dlib takes over whatever fails there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styleclip_server.engines.cuda import kernel_cache, prebuilt
from styleclip_server.engines.cuda.faces.detector import FaceDetector
from styleclip_server.engines.cuda.faces.landmarks import FaceLandmarks, read_model
from styleclip_server.pipeline.cancellation import check_cancelled
from styleclip_server.pipeline.detection import MIN_PHOTO, OFFICIAL_SEARCH_UP_TO, Detection
from styleclip_server.pipeline.face_finder import DlibFaceFinder, FaceFinder
from styleclip_server.pipeline.image_pyramid import Box
from styleclip_server.pipeline.landmarks import crop_around, find_landmark_model

_WARM_UP_FACES = (100, 200, 300, 450)  # pixels; for each one another CUDA graph is captured

log = logging.getLogger(__name__)


class CudaFaceFinder(FaceFinder):
    """dlib's detector and landmarks on `device`.

    Args:
        domain_folder: a domain's folder, which may contain the landmark model.
    """

    def __init__(self, domain_folder: Path | None, device: torch.device) -> None:
        self._domain_folder, self._device = domain_folder, device
        self._dlib = DlibFaceFinder(domain_folder)
        self._models: tuple[FaceDetector, FaceLandmarks] | None = None

    def load(self) -> None:
        self._dlib.load()
        if self._device.type == "cuda":
            kernel_cache.use_prebuilt_kernels(prebuilt.prebuilt_folder())
        try:
            model = read_model(find_landmark_model(self._domain_folder))
            models = FaceDetector(self._device), FaceLandmarks(model, self._device)
            models[0].detect_all_faces([torch.zeros(3, 64, 64, dtype=torch.uint8)])
            for side in _WARM_UP_FACES:
                region = torch.zeros(3, 3 * side, 3 * side, dtype=torch.uint8)
                models[1].predict([region], [(side, side, 2 * side, 2 * side)])
            self._models = models
        except Exception:
            log.exception("faces are found by dlib on the CPU")

    def detect_large_faces(self, image: Image.Image) -> list[Detection]:
        on_gpu, by_dlib = FaceDetector.detect_large_faces, self._dlib.detect_large_faces
        return self._detect(image, on_gpu, by_dlib)

    def detect_all_faces(self, image: Image.Image) -> list[Detection]:
        on_gpu, by_dlib = FaceDetector.detect_all_faces, self._dlib.detect_all_faces
        return self._detect(image, on_gpu, by_dlib)

    def _detect(
        self,
        image: Image.Image,
        on_gpu: Callable[[FaceDetector, list[Tensor]], list[list[Detection]]],
        by_dlib: Callable[[Image.Image], list[Detection]],
    ) -> list[Detection]:
        check_cancelled()
        if self._models and _fits(image):
            try:
                return on_gpu(self._models[0], [self._upload(image)])[0]
            except Exception:
                log.exception("dlib detects the faces of this photo on the CPU")
        return by_dlib(image)

    def predict_landmarks(self, image: Image.Image, box: Box) -> NDArray[np.float64]:
        if self._models:
            region, (x, y) = crop_around(image, box)
            face = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
            try:
                return self._models[1].predict([self._upload(region)], [face])[0] + (x, y)
            except Exception:
                log.exception("dlib predicts the landmarks of this photo on the CPU")
        return self._dlib.predict_landmarks(image, box)

    def _upload(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).to(self._device)
        return pixels.permute(2, 0, 1).contiguous()


def _fits(image: Image.Image) -> bool:
    """Return whether the official search of the photo fits a GPU, and dlib would run it too."""
    return min(image.size) >= MIN_PHOTO and max(image.size) <= OFFICIAL_SEARCH_UP_TO
