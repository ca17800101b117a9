"""How faces and their landmarks are found: by dlib, unless an engine brings a finder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_server.pipeline import detection
from styleclip_server.pipeline.detection import Detection
from styleclip_server.pipeline.dlib_detector import load_detector
from styleclip_server.pipeline.image_pyramid import Box
from styleclip_server.pipeline.landmarks import LandmarkPredictor


class FaceFinder(Protocol):
    """Detects faces in RGB images and predicts their landmarks."""

    def load(self) -> None:
        """Load the models (LandmarksMissing: one is not installed)."""

    def detect_large_faces(self, image: Image.Image) -> list[Detection]:
        """Detect the largest face; see `detection.detect_large_faces`."""

    def detect_all_faces(self, image: Image.Image) -> list[Detection]:
        """Detect every face; see `detection.detect_all_faces`."""

    def predict_landmarks(self, image: Image.Image, box: Box) -> NDArray[np.float64]:
        """Predict a face's landmarks; see `LandmarkPredictor.predict`."""


class DlibFaceFinder(FaceFinder):
    """dlib on the CPU.

    Args:
        domain_folder: a domain's folder, which may contain the landmark model.
    """

    def __init__(self, domain_folder: Path | None = None) -> None:
        self._landmarks = LandmarkPredictor(domain_folder)

    def load(self) -> None:
        load_detector()
        self._landmarks.load()

    def detect_large_faces(self, image: Image.Image) -> list[Detection]:
        return detection.detect_large_faces(image)

    def detect_all_faces(self, image: Image.Image) -> list[Detection]:
        return detection.detect_all_faces(image)

    def predict_landmarks(self, image: Image.Image, box: Box) -> NDArray[np.float64]:
        return self._landmarks.predict(image, box)
