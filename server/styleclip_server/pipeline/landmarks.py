"""dlib's 68 facial landmarks: where their model is, and the landmarks of a detected face."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract.errors import LandmarksMissing
from styleclip_server.pipeline.dlib_detector import INSTALL_HINT, import_dlib
from styleclip_server.pipeline.image_pyramid import Box

LANDMARK_MODEL = "shape_predictor_68_face_landmarks.dat"


def find_landmark_model(domain_folder: Path | None = None) -> Path:
    """Find dlib's 68-landmark model in the domain, else in the package face_recognition_models.

    Args:
        domain_folder: a domain's folder, in which `styleclip-export convert` may have placed one.

    Raises:
        LandmarksMissing: there is no model.
    """
    folders = [domain_folder] if domain_folder else []
    # The package is located and not imported: its __init__ needs setuptools' pkg_resources.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec and spec.submodule_search_locations:
        folders += [Path(location, "models") for location in spec.submodule_search_locations]
    for folder in folders:
        if (path := folder / LANDMARK_MODEL).is_file():
            return path
    raise LandmarksMissing(
        f"the 68-landmark model is not installed, so photos cannot be aligned: {INSTALL_HINT} "
        "(its license excludes commercial use), or send an aligned face crop with ALIGN false"
    )


class LandmarkPredictor:
    """Predicts the 68 landmarks of a face; the model is loaded on first use.

    Args:
        domain_folder: see `find_landmark_model`.
    """

    def __init__(self, domain_folder: Path | None = None) -> None:
        self._domain_folder = domain_folder

    @functools.cached_property
    def _predictor(self) -> Any:
        return import_dlib().shape_predictor(str(find_landmark_model(self._domain_folder)))

    def load(self) -> None:
        """Load the model.

        Raises:
            LandmarksMissing: dlib or the model is not installed.
        """
        _ = self._predictor

    def predict(self, image: Image.Image, box: Box) -> NDArray[np.float64]:
        """Predict the landmarks of the face in `box` of an RGB image.

        Returns:
            (68, 2): (x, y) in integer pixels of the image.

        Raises:
            LandmarksMissing: dlib or the model is not installed.
        """
        left, top, right, bottom = box
        region, (x, y) = crop_around(image, box)
        face = import_dlib().rectangle(left - x, top - y, right - x, bottom - y)
        shape = self._predictor(np.asarray(region), face)
        return np.array([(point.x + x, point.y + y) for point in shape.parts()], np.float64)


def crop_around(image: Image.Image, box: Box) -> tuple[Image.Image, tuple[int, int]]:
    """Crop what the landmarks of the face in `box` depend on; copying a large photo takes 0.5 s.

    Returns:
        The crop, and its (left, top) in the image.
    """
    left, top, right, bottom = box
    margin = max(right - left, bottom - top)
    x, y = max(left - margin, 0), max(top - margin, 0)
    edges = (x, y, min(right + margin, image.width), min(bottom + margin, image.height))
    return image.crop(edges), (x, y)
