"""StyleFeatureEditor on a CPU: a face to features, which are cached, and features to an image.

docs/notes/feature-editing.md says why the networks are split so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from styleclip_contract import wire
from styleclip_contract.wire import DELTA, FACE_CROP, IMAGE, W_PLUS, Tensor
from styleclip_server.engines.feature_cache import FeatureCache
from styleclip_server.engines.model_files import (
    FACE_TO_FEATURES_FILE,
    FEATURES_TO_IMAGE_FILE,
    OPENVINO_FEATURE_FILES,
    SHARED_WEIGHTS_FILE,
)
from styleclip_server.engines.onnxruntime import OnnxNetwork
from styleclip_server.engines.openvino import OpenvinoNetwork
from styleclip_server.engines.shared_weights import read_shared_weights

# The second network has no such input where the inverter's latent is W_PLUS, e4e's.
LATENT = Tensor("LATENT", "FP32", (-1, wire.W_DIM), "the inverter's latent")
FEATURES = Tensor("FEATURES", "FP32", (-1, -1, -1), "what the editor's first layer gives")
FACE_TO_FEATURES = wire.Model(
    "face_to_features", "onnxruntime", (FACE_CROP, W_PLUS), (LATENT, FEATURES)
)
FEATURES_TO_IMAGE = wire.Model(
    "features_to_image", "onnxruntime", (W_PLUS, DELTA, LATENT, FEATURES), (IMAGE,)
)
_LARGEST_HALF = float(np.finfo(np.float16).max)


class Features(NamedTuple):
    """What the second network needs of a face: latent (1, L, w_dim), features (1, C, r, r)."""

    latent: NDArray[np.float32]
    features: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        return self.latent.nbytes + self.features.nbytes


class FeatureEditor:
    """Edits faces by their features.

    Args:
        folder: where the ONNX files are; a generator stored as float16 is that of `stylegan2`.
        threads: number of threads; None means one per core.
        cache_bytes: of the features that are kept.
        openvino: run the networks in OpenVINO where the folder has its files.
    """

    def __init__(
        self, folder: Path, threads: int | None, cache_bytes: int, *, openvino: bool = False
    ) -> None:
        self._face_to_features, self._features_to_image = (
            _open(folder, file, threads, openvino)
            for file in (FACE_TO_FEATURES_FILE, FEATURES_TO_IMAGE_FILE)
        )
        self.cache: FeatureCache[Features] = FeatureCache(cache_bytes)

    def edit(
        self,
        w_plus: NDArray[np.float32],
        delta: NDArray[np.float32],
        key: bytes,
        read_face: Callable[[], NDArray[np.float32]],
    ) -> NDArray[np.uint8]:
        """Edit one face.

        Args:
            w_plus: (L, w_dim), e4e's latent.
            delta: (S,), the edit.
            key: of the face and its latent.
            read_face: returns the face, (3, H, W) RGB in [-1, 1]; called on a miss.

        Returns:
            The image (H, W, 3) RGB, the same on a hit as on a miss.
        """
        latents = w_plus[None]
        cached = self.cache.get(key, lambda: self._invert(read_face()[None], latents))
        inputs = {
            W_PLUS.name: latents,
            DELTA.name: delta[None],
            LATENT.name: cached.latent,
            FEATURES.name: cached.features.astype(np.float32),
        }
        network = self._features_to_image
        image: NDArray[np.uint8] = network({name: inputs[name] for name in network.inputs})[0][0]
        return image

    def _invert(self, faces: NDArray[np.float32], latents: NDArray[np.float32]) -> Features:
        outputs = self._face_to_features({FACE_CROP.name: faces, W_PLUS.name: latents})
        latent, features = outputs
        return Features(latent, to_half(features))


def to_half(features: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round features as they are kept, without infinities."""
    return features.clip(-_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)


def _open(
    folder: Path, file: str, threads: int | None, openvino: bool
) -> OnnxNetwork | OpenvinoNetwork:
    """Open one of the two networks; OpenVINO takes it from a file of its own."""
    shared, other = folder / SHARED_WEIGHTS_FILE, OPENVINO_FEATURE_FILES[file]
    if openvino and (folder / other).is_file():
        return OpenvinoNetwork(folder / other, threads, weights=read_shared_weights(shared, other))
    return OnnxNetwork(folder / file, threads, weights=read_shared_weights(shared, file))
