"""Evaluation of the served avatars: image to latent to edited image, read by the classifier.

The networks are the ONNX files of the model repository, and the directions the server's own code.
An attribute counts only where it is visible: eyes under sunglasses are not, nor hair under a hijab.

Images are uint8 (N, 256, 256, 3), RGB; labels int64 (N, attributes).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.attributes import NAMES, SIZES, TABLE
from domains.avatars.renders import Composer, build_layers, render, sample_labels
from domains.avatars.text_pairs import TEXT_PAIRS
from domains.training.checkpoints import load_weights
from domains.training.classifier import Classifier
from domains.training.fidelity_quality import FidelityTest
from domains.training.served_networks import BATCH, Images, ServedNetworks
from domains.training.text_pairs import TextPair

VISIBLE_PIXELS = 10  # of 64 x 64 that change with every other value of a visible attribute
GOALS = {"hit": 0.85, "kept": 0.90}


class AttributeReader:
    """The classifier, and the renders that its answers are compared with."""

    def __init__(self, classifier: Path, layers: Path) -> None:
        if not layers.exists():
            print("rendering the layers (once, some minutes) ...", flush=True)
            build_layers(layers)
        self.classifier = Classifier(TABLE).eval()
        if not load_weights(self.classifier, classifier):
            raise FileNotFoundError(f"{classifier} is missing")
        self.classifier.float()
        self._composer = Composer(layers, "cpu")
        self._small_composer = Composer(layers, "cpu", 64)

    @torch.no_grad()
    def read(self, images: Images) -> Tensor:
        """Classify images; return labels (N, attributes)."""
        return torch.cat(
            [TABLE.strongest(self.classifier(x)) for x in _to_tensor(images).split(BATCH)]
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


def find_rows(test: EvaluationSet, pair: TextPair) -> Tensor:
    """Return the avatars that lack the target and show its attribute, bool (N,)."""
    return ~pair.matches(test.labels) & test.visible[:, pair.column]


def judge_edit(
    reader: AttributeReader, test: EvaluationSet, pair: TextPair, rows: Tensor, images: Images
) -> tuple[EditAccuracy, Tensor]:
    """Return the accuracy of an edit of the avatars `rows`, and the labels read from `images`."""
    labels = test.labels[rows]
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
    return accuracy, read


def measure_accuracy(
    networks: ServedNetworks,
    reader: AttributeReader,
    test: EvaluationSet,
    pair: TextPair,
    strength: float,
    threshold: float,
) -> tuple[EditAccuracy, Images, Tensor]:
    """Apply an edit; return its accuracy, the edited images and the labels read from them."""
    rows = find_rows(test, pair)
    images = networks.edit(test.w_plus[rows.numpy()], pair, strength, threshold)
    accuracy, read = judge_edit(reader, test, pair, rows, images)
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


def kept_attributes(test: EvaluationSet, read: Tensor) -> dict[str, float]:
    """Return by attribute how many of the avatars that show it keep it in the labels `read`."""
    correct = read == test.labels
    return {
        name: correct[test.visible[:, a], a].float().mean().item() for a, name in enumerate(NAMES)
    }


def fidelity_test(reader: AttributeReader, test: EvaluationSet, count: int) -> FidelityTest:
    """Return the first `count` test avatars for a comparison of the fidelities."""
    some = EvaluationSet(
        test.images[:count], test.labels[:count], test.visible[:count], test.w_plus[:count]
    )

    def judge(pair: TextPair, rows: Tensor, images: Images) -> dict[str, float]:
        accuracy, _ = judge_edit(reader, some, pair, rows, images)
        return {"hit": accuracy.hit, "kept": accuracy.kept}

    def judge_inversion(images: Images) -> dict[str, float]:
        rates = list(kept_attributes(some, reader.read(images)).values())
        return {"kept": float(np.nanmean(rates))}

    return FidelityTest(
        some.images,
        some.w_plus,
        reader.classifier,
        lambda pair: find_rows(some, pair),
        judge,
        judge_inversion,
    )


def evaluate_inversion(
    networks: ServedNetworks, reader: AttributeReader, test: EvaluationSet
) -> dict[str, object]:
    """Evaluate the inversion: which attributes it keeps, and its PSNR."""
    images = networks.reconstruct(test.w_plus)
    read = reader.read(images)
    by_attribute = kept_attributes(test, read)
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


def _to_tensor(images: Images) -> Tensor:
    """Convert images to float32 (N, 3, 256, 256) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
