"""Evaluation of the served avatars: image to latent to edited image, read by the classifier.

The networks are the ONNX files of the model repository, and the directions the server's own code.
An attribute counts only where it is visible: eyes under sunglasses are not, nor hair under a hijab.

Images are uint8 (N, 256, 256, 3), RGB; labels int64 (N, attributes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.attributes import NAMES, SIZES, TABLE
from domains.avatars.renders import Composer, build_layers, render, sample_labels
from domains.avatars.text_pairs import TEXT_PAIRS, TextPair
from domains.training.checkpoints import load_weights
from domains.training.classifier import Classifier
from styleclip_contract.edits import Edit
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving.domain_folder import load_domain

BATCH = 16
VISIBLE_PIXELS = 10  # of 64 x 64 that change with every other value of a visible attribute
GOALS = {"hit": 0.85, "kept": 0.90}
Images = NDArray[np.uint8]


class ServedNetworks:
    """The domain's networks as they are served, in this process."""

    def __init__(self, folder: Path) -> None:
        self._e4e = _open_session(folder, "e4e")
        self._stylegan2 = _open_session(folder, "stylegan2")
        self._clip_text = _open_session(folder, "clip_text")
        self._statistics = load_statistics(folder, load_domain(folder).style_channels)
        self._embeddings: dict[str, np.ndarray] = {}

    def invert(self, images: Images) -> NDArray[np.float32]:
        """Invert images to W+, float32 (N, L, 512)."""
        faces = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1
        return np.concatenate(
            [self._e4e.run(None, {"FACE_CROP": batch})[0] for batch in _batches(faces)]
        )

    def edit(
        self, w_plus: NDArray[np.float32], pair: TextPair, strength: float, threshold: float
    ) -> Images:
        """Generate images of latents (N, L, 512), edited by a text pair."""
        edit = Edit(pair.neutral, pair.target, strength, threshold)
        delta, _ = directions.style_offset(self._statistics, [edit], self._embed_text)
        return self._generate(w_plus, delta)

    def reconstruct(self, w_plus: NDArray[np.float32]) -> Images:
        """Generate images of latents (N, L, 512)."""
        return self._generate(w_plus, np.zeros_like(self._statistics.style_std))

    def _generate(self, w_plus: NDArray[np.float32], delta: NDArray[np.float32]) -> Images:
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


class AttributeReader:
    """The classifier, and the renders that its answers are compared with."""

    def __init__(self, classifier: Path, layers: Path) -> None:
        if not layers.exists():
            print("rendering the layers (once, some minutes) ...", flush=True)
            build_layers(layers)
        self._classifier = Classifier(TABLE).eval()
        if not load_weights(self._classifier, classifier):
            raise FileNotFoundError(f"{classifier} is missing")
        self._classifier.float()
        self._composer = Composer(layers, "cpu")
        self._small_composer = Composer(layers, "cpu", 64)

    @torch.no_grad()
    def read(self, images: Images) -> Tensor:
        """Classify images; return labels (N, attributes)."""
        return torch.cat(
            [TABLE.strongest(self._classifier(x)) for x in _to_tensor(images).split(BATCH)]
        )

    def find_visible(self, labels: Tensor) -> Tensor:
        """Return which attributes are visible, bool (N, attributes).

        An attribute is visible if each of its other values would change the render.
        """
        visible = torch.zeros(labels.shape, dtype=torch.bool)
        for rows in torch.arange(len(labels)).split(64):
            renders = self._small_composer(labels[rows])
            for a, size in enumerate(SIZES):
                fewest = torch.full((len(rows),), 10**9)
                for value in range(size):
                    other = labels[rows].clone()
                    other[:, a] = value
                    differs = (self._small_composer(other) - renders).abs().amax(1) > 0.2
                    changed = differs.flatten(1).sum(1)
                    same = other[:, a] == labels[rows, a]
                    fewest = torch.where(same, fewest, torch.minimum(fewest, changed))
                visible[rows, a] = fewest >= VISIBLE_PIXELS
        return visible

    def psnr_to_nearest_render(self, images: Images, labels: Tensor) -> NDArray[np.float32]:
        """Return the PSNR to the nearest render in dB, float32 (N,).

        The search begins at `labels`; each attribute in turn takes the value that comes closest.
        """
        targets = _to_tensor(images)
        small = F.interpolate(targets, size=(64, 64), mode="area")
        best = labels.clone()
        error = (self._small_composer(best) - small).square().mean((1, 2, 3))
        for a, size in enumerate(SIZES):
            for value in range(size):
                other = best.clone()
                other[:, a] = value
                other_error = (self._small_composer(other) - small).square().mean((1, 2, 3))
                better = other_error < error - 1e-7
                best[better], error[better] = other[better], other_error[better]
        errors = [
            (self._composer(x) - target).square().mean((1, 2, 3))
            for x, target in zip(best.split(BATCH), targets.split(BATCH), strict=True)
        ]
        return (10 * torch.log10(4 / torch.cat(errors).clamp(min=1e-9))).numpy()


@dataclass(frozen=True)
class EvaluationSet:
    """Avatars that training never drew, rendered completely, and their latents."""

    images: Images
    labels: Tensor
    visible: Tensor
    w_plus: NDArray[np.float32]


@dataclass(frozen=True)
class EditAccuracy:
    """How well an edit works, on the avatars that lack its target and show its attribute.

    Attributes:
        hit: part of the avatars that have the target afterwards.
        kept, worst: part of the avatars that keep another attribute; mean and minimum over the
            attributes.
        avatars: their number.
    """

    hit: float
    kept: float
    worst: float
    avatars: int

    @property
    def reaches_goals(self) -> bool:
        return self.hit >= GOALS["hit"] and self.kept >= GOALS["kept"]


def draw_test_set(
    count: int, seed: int, networks: ServedNetworks, reader: AttributeReader
) -> EvaluationSet:
    """Render and invert `count` avatars."""
    labels = sample_labels(count, torch.Generator().manual_seed(seed))
    images = np.stack([np.asarray(render(row)) for row in labels.numpy()])
    return EvaluationSet(images, labels, reader.find_visible(labels), networks.invert(images))


def measure_accuracy(
    networks: ServedNetworks,
    reader: AttributeReader,
    test: EvaluationSet,
    pair: TextPair,
    strength: float,
    threshold: float,
) -> tuple[EditAccuracy, Images, Tensor]:
    """Apply an edit; return its accuracy, the edited images and the labels read from them."""
    rows = ~pair.matches(test.labels) & test.visible[:, pair.column]
    labels = test.labels[rows]
    images = networks.edit(test.w_plus[rows.numpy()], pair, strength, threshold)
    read = reader.read(images)
    # What the edit itself covers does not count: eyes under new sunglasses.
    after = labels.clone()
    after[:, pair.column] = torch.where(
        pair.matches(read), read[:, pair.column], labels[:, pair.column]
    )
    visible = test.visible[rows] & reader.find_visible(after)
    correct = read == labels
    rates = [
        correct[visible[:, a], a].float().mean().item()
        for a in range(len(NAMES))
        if a != pair.column and visible[:, a].any()
    ]
    accuracy = EditAccuracy(
        hit=pair.matches(read).float().mean().item(),
        kept=float(np.mean(rates)),
        worst=min(rates),
        avatars=int(rows.sum()),
    )
    return accuracy, images, read


def evaluate_edit(
    networks: ServedNetworks,
    reader: AttributeReader,
    test: EvaluationSet,
    pair: TextPair,
    strength: float,
    threshold: float,
) -> dict[str, float]:
    """Evaluate an edit: `EditAccuracy`, image quality, and the opposite edit.

    Returns:
        The fields of `EditAccuracy`; `clean` and `clean10`, median and 10th percentile of the PSNR
        to the nearest render; `removed`, the part of the avatars with the target that lose it when
        the strength is negated.
    """
    accuracy, images, read = measure_accuracy(networks, reader, test, pair, strength, threshold)
    psnr = reader.psnr_to_nearest_render(images, read)
    with_target = test.w_plus[pair.matches(test.labels).numpy()]
    recognized = pair.matches(reader.read(networks.edit(with_target, pair, 0, threshold)))
    removed = ~pair.matches(reader.read(networks.edit(with_target, pair, -strength, threshold)))
    return asdict(accuracy) | {
        "clean": float(np.median(psnr)),
        "clean10": float(np.quantile(psnr, 0.1)),
        "removed": removed[recognized].float().mean().item(),
    }


def evaluate_inversion(
    networks: ServedNetworks, reader: AttributeReader, test: EvaluationSet
) -> dict[str, object]:
    """Evaluate the inversion: which attributes it keeps, and its PSNR."""
    images = networks.reconstruct(test.w_plus)
    read = reader.read(images)
    correct = read == test.labels
    by_attribute = {
        name: correct[test.visible[:, a], a].float().mean().item() for a, name in enumerate(NAMES)
    }
    error = ((images.astype(np.float32) - test.images) ** 2).mean((1, 2, 3))
    psnr = 10 * np.log10(255**2 / error)
    return {
        "kept": float(np.mean(list(by_attribute.values()))),
        "by_attribute": by_attribute,
        "psnr": {
            "mean": float(psnr.mean()),
            "median": float(np.median(psnr)),
            "10%": float(np.quantile(psnr, 0.1)),
        },
        "clean": float(np.median(reader.psnr_to_nearest_render(images, read))),
    }


def choose_parameters(
    networks: ServedNetworks, reader: AttributeReader, test: EvaluationSet
) -> tuple[float, float]:
    """Return the strength and threshold for which most text pairs reach both goals."""
    pairs = [pair for pair in TEXT_PAIRS if pair.in_captions]
    best = (-1.0, 0.0, 0.0)
    for threshold in (0.1, 0.15, 0.2):
        for strength in (4.0, 5.0, 6.0, 7.0):
            accuracies = [
                measure_accuracy(networks, reader, test, pair, strength, threshold)[0]
                for pair in pairs
            ]
            reached = sum(accuracy.reaches_goals for accuracy in accuracies)
            # Below 1: it decides between parameters that reach as many goals.
            score = sum(min(a.hit, 0.95) + min(a.kept, 0.97) for a in accuracies) / len(accuracies)
            print(
                f"α {strength:g}, β {threshold:g}: {reached} of {len(pairs)} pairs reach both; "
                f"hit {np.mean([a.hit for a in accuracies]):.3f}, "
                f"kept {np.mean([a.kept for a in accuracies]):.3f}",
                flush=True,
            )
            best = max(best, (reached + score, strength, threshold))
    return best[1], best[2]


def _open_session(folder: Path, name: str) -> onnxruntime.InferenceSession:
    path = folder / name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _batches(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[start : start + BATCH] for start in range(0, len(array), BATCH))


def _to_tensor(images: Images) -> Tensor:
    """Convert images to float32 (N, 3, 256, 256) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
