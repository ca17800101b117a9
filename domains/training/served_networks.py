"""A domain's networks as they are served, in this process: for quality reports.

Images are uint8 (N, r, r, 3), RGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from domains.training.text_pairs import TextPair
from styleclip_contract import wire
from styleclip_contract.edits import Edit
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.features import FeatureEditor
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving.domain_folder import load_domain

BATCH = 16
CACHED_FACES = 64 << 20  # bytes; 1 MiB a face
Images = NDArray[np.uint8]


class ServedNetworks:
    """The domain's networks as they are served, in this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._e4e = _open_session(folder, "e4e")
        self._stylegan2 = _open_session(folder, "stylegan2")
        self._clip_text = _open_session(folder, "clip_text")
        self._statistics = load_statistics(folder, load_domain(folder).style_channels)
        self._embeddings: dict[str, np.ndarray] = {}

    def invert(self, images: Images) -> NDArray[np.float32]:
        """Invert images to W+, float32 (N, L, 512)."""
        faces = _to_faces(images)
        return np.concatenate(
            [self._e4e.run(None, {"FACE_CROP": batch})[0] for batch in _batches(faces)]
        )

    def edit(
        self, w_plus: NDArray[np.float32], pair: TextPair, strength: float, threshold: float
    ) -> Images:
        """Generate images of latents (N, L, 512), edited by a text pair."""
        return self.generate(w_plus, self.offset(pair, strength, threshold))

    def reconstruct(self, w_plus: NDArray[np.float32]) -> Images:
        """Generate images of latents (N, L, 512)."""
        return self.generate(w_plus, self.no_offset)

    def offset(self, pair: TextPair, strength: float, threshold: float) -> NDArray[np.float32]:
        """Return the offset (S,) of an edit by a text pair."""
        edit = Edit(pair.neutral, pair.target, strength, threshold)
        delta, _ = directions.style_offset(self._statistics, [edit], self._embed_text)
        return delta

    @property
    def no_offset(self) -> NDArray[np.float32]:
        """The offset (S,) that changes nothing."""
        return np.zeros_like(self._statistics.style_std)

    def generate_features(
        self, images: Images, w_plus: NDArray[np.float32], delta: NDArray[np.float32]
    ) -> Images:
        """Edit images by their features, as FIDELITY `features` does.

        Args:
            w_plus: (N, L, 512), of `invert`.
            delta: (S,).
        """
        results = []
        for face, latent in zip(_to_faces(images), w_plus, strict=True):
            key = hashlib.sha256(face.tobytes()).digest()
            results.append(self._features.edit(latent, delta, key, lambda face=face: face))
        return np.stack(results)

    @cached_property
    def _features(self) -> FeatureEditor:
        folder = self._folder / wire.FEATURES.name / "1"
        return FeatureEditor(folder, None, CACHED_FACES, openvino=supports_bfloat16())

    def generate(self, w_plus: NDArray[np.float32], delta: NDArray[np.float32]) -> Images:
        """Generate images of latents (N, L, 512) with an offset (S,)."""
        parts = []
        for batch in _batches(w_plus):
            inputs = {"W_PLUS": batch, "DELTA": np.repeat(delta[None], len(batch), 0)}
            parts.append(self._stylegan2.run(None, inputs)[0])
        return np.concatenate(parts)

    def _embed_text(self, text: str) -> np.ndarray:
        if text not in self._embeddings:
            (self._embeddings[text],) = directions.class_embeddings(
                [text], lambda tokens: self._clip_text.run(None, {"TOKENS": tokens})[0]
            )
        return self._embeddings[text]


def _open_session(folder: Path, name: str) -> onnxruntime.InferenceSession:
    path = folder / name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _to_faces(images: Images) -> NDArray[np.float32]:
    return images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1


def _batches(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[start : start + BATCH] for start in range(0, len(array), BATCH))
