"""Evaluation of the served people: photo to aligned crop to latent to edited image.

A real server does all of it. A classifier that was trained apart reads the images, and dlib's face
descriptor compares persons. An attribute counts only where the classifier sees it in the crop: most
crops end above the clothes.

Images are uint8 (N, 256, 256, 3), RGB; labels int64 (N, attributes), -1 where not visible.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
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
from domains.people.text_pairs import HIDES, find_hidden
from domains.training.checkpoints import require_weights
from domains.training.classifier import Classifier
from domains.training.fidelity_quality import FidelityTest
from domains.training.frechet import frechet_distance
from domains.training.images import resize
from domains.training.seams import measure_seam, weight_of_face
from domains.training.served_networks import BATCH, Images
from domains.training.server_networks import ServerNetworks
from domains.training.text_pairs import TextPair
from styleclip_client import Inverted
from styleclip_contract.errors import NoChannelLeft
from styleclip_contract.wire import FACE_SIZE
from styleclip_server.pipeline.ffhq_crop import crop_quad

GROUPS = ("sex", "age", "skin")
_FACE = dlib.rectangle(44, 62, 212, 230)  # of an aligned crop, as the detector would give it


class AttributeReader:
    """The classifier that was trained apart."""

    def __init__(self, path: Path) -> None:
        self.classifier = Classifier(TABLE).eval()
        require_weights(self.classifier, path)
        self.classifier.float()

    def read(self, images: Images) -> Tensor:
        """Classify images; return labels (N, attributes)."""
        return self._apply(lambda batch: TABLE.strongest(self.classifier(batch)), images)

    def features(self, images: Images) -> Tensor:
        """Return the mean features (N, d) of the classifier's last layer."""
        return self._apply(lambda batch: self.classifier.body(batch).mean((2, 3)), images)

    @torch.no_grad()
    def _apply(self, function: Callable[[Tensor], Tensor], images: Images) -> Tensor:
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(BATCH)
        inputs = (resize(batch.float() / 127.5 - 1, FACE_SIZE) for batch in batches)
        return torch.cat([function(batch) for batch in inputs])


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
    """Photos that training never drew, in which a face was found, and their latents.

    Attributes:
        images: aligned crops; persons: their descriptors.
        faces: (N,), an `Inverted` each; the domain's default fidelity applies to their edits.
        missed: labels (M, attributes) of the photos in which no face was found.
        visible: bool (N, attributes), which labels the classifier reads in the crops.
    """

    images: Images
    labels: Tensor
    persons: NDArray[np.float64]
    faces: NDArray[np.object_]
    missed: Tensor
    visible: Tensor

    @property
    def w_plus(self) -> NDArray[np.float32]:
        """The latents (N, L, 512)."""
        return np.stack([face.w_plus for face in self.faces])


@dataclass(frozen=True)
class Pasting:
    """Photos to paste faces back into: encoded, and their faces."""

    photos: Sequence[bytes]
    faces: Sequence[Inverted]


@dataclass(frozen=True)
class Judgment:
    """How n images were read.

    Attributes:
        right, known: bool (n, attributes): it is read as labeled; it counts.
        distance: of the descriptors to those of the photos, (n,).
        hit: bool (n,), the target is read; None for inversions.
    """

    right: Tensor
    known: Tensor
    distance: NDArray[np.float64]
    hit: Tensor | None = None

    @property
    def all_rates(self) -> list[float | None]:
        """How often each attribute is kept; None where it counts nowhere."""
        columns = zip(self.right.T, self.known.T, strict=True)
        return [
            float(right[known].float().mean()) if known.any() else None for right, known in columns
        ]

    @property
    def rates(self) -> list[float]:
        """How often each attribute is kept, of those that count."""
        return [rate for rate in self.all_rates if rate is not None]


def read_test_set(
    folder: Path, count: int, networks: ServerNetworks, reader: AttributeReader, pasted: int
) -> tuple[EvaluationSet, Pasting]:
    """Align and invert up to `count` rendered photos of a folder of shards; keep the first ones."""
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    heads = [head for path in folders for head in read_shards(path)][:count]
    labels = torch.tensor([TABLE.encode(record["labels"]) for _, record in heads])
    photos = [jpeg for jpeg, _ in heads]
    inverted = networks.invert(photos)
    faces = [(photo, face) for photo, face in zip(photos, inverted, strict=True) if face]
    if not faces:
        raise click.ClickException(f"no face was found in {len(photos)} photos of {folder}")
    images = np.stack([np.asarray(crop_quad(_decode(jpeg), face.quad)) for jpeg, face in faces])
    found = torch.tensor([face is not None for face in inverted])
    visible = reader.read(images) == labels[found]
    test = EvaluationSet(
        images,
        labels[found],
        describe_persons(images),
        np.array([face for _, face in faces], np.object_),
        labels[~found],
        visible,
    )
    chosen = faces[:pasted]
    return test, Pasting([photo for photo, _ in chosen], [face for _, face in chosen])


def _decode(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def judge_inversions(reader: AttributeReader, test: EvaluationSet, images: Images) -> Judgment:
    """Judge inversions of all photos."""
    distance = np.linalg.norm(describe_persons(images) - test.persons, axis=1)
    return Judgment(reader.read(images) == test.labels, test.visible, distance)


def summarize_inversions(judgment: Judgment, test: EvaluationSet) -> dict[str, Any]:
    """Return the figures of detection and inversion."""
    return {
        "detected": len(test.images) / (len(test.images) + len(test.missed)),
        "visible": float(test.visible[test.labels >= 0].float().mean()),
        "kept": float(np.mean(judgment.rates)),
        "by_attribute": dict(zip(TABLE.names, judgment.all_rates, strict=True)),
        "distance": float(np.median(judgment.distance)),
    }


def measure_groups(
    test: EvaluationSet, inversions: Judgment, edits: Sequence[tuple[Tensor, Judgment]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure each group of people, by the attribute that defines it.

    Args:
        edits: the rows of the photos that an edit was applied to, and how the results were read.
    """
    return {
        name: {
            label: _measure_group(test, inversions, edits, TABLE.names.index(name), value)
            for value, label in enumerate(TABLE[name].names)
            if (test.labels[:, TABLE.names.index(name)] == value).any()
        }
        for name in GROUPS
    }


def _measure_group(
    test: EvaluationSet,
    inversions: Judgment,
    edits: Sequence[tuple[Tensor, Judgment]],
    column: int,
    value: int,
) -> dict[str, float]:
    members = test.labels[:, column] == value
    photos = int(members.sum()) + int((test.missed[:, column] == value).sum())
    hits, others = [], []
    for rows, judgment in edits:
        chosen = members[rows]
        assert judgment.hit is not None
        hits.append(judgment.hit[chosen])
        others.append(judgment.right[chosen][judgment.known[chosen]])
    return {
        "photos": photos,
        "detected": int(members.sum()) / photos,
        "inverted": float(inversions.right[members][inversions.known[members]].float().mean()),
        "distance": float(np.median(inversions.distance[members.numpy()])),
        "hit": float(torch.cat(hits).float().mean()),
        "kept": float(torch.cat(others).float().mean()),
    }


def fidelity_test(reader: AttributeReader, test: EvaluationSet) -> FidelityTest:
    """Return the test photos for a comparison of the fidelities."""

    def judge(pair: TextPair, rows: Tensor, images: Images) -> dict[str, float]:
        result = summarize_edit(judge_edit(reader, test, pair, rows, images))
        return {name: result[name] for name in ("hit", "kept", "distance")}

    def judge_inversion(images: Images) -> dict[str, float]:
        judgment = judge_inversions(reader, test, images)
        kept = judgment.right[judgment.known].float().mean()
        return {"kept": float(kept), "distance": float(np.median(judgment.distance))}

    return FidelityTest(
        test.images,
        test.w_plus,
        reader.classifier,
        lambda pair: find_rows(test, pair),
        judge,
        judge_inversion,
    )


def apply_edit(
    networks: ServerNetworks,
    faces: NDArray[np.object_],
    pair: TextPair,
    strength: float,
    threshold: float,
) -> Images:
    """Return edited images; unchanged where no channel reaches the threshold, as a user's stay."""
    try:
        return networks.edit(faces, pair, strength, threshold)
    except NoChannelLeft:
        return networks.reconstruct(faces)


def find_rows(test: EvaluationSet, pair: TextPair) -> Tensor:
    """Return the heads that show the attribute and lack the target, bool (N,)."""
    return (test.labels[:, pair.column] >= 0) & ~pair.matches(test.labels)


def judge_edit(
    reader: AttributeReader, test: EvaluationSet, pair: TextPair, rows: Tensor, images: Images
) -> Judgment:
    """Judge edited images of the heads `rows`.

    The edited attribute does not count, nor what its target hides. The latter does not count where
    the target is missed, either: these few heads alone would be the attribute's rate.
    """
    labels, read, known = test.labels[rows], reader.read(images), test.visible[rows]
    for (attribute, value), hidden in HIDES.items():
        column = TABLE.names.index(attribute)
        appears = read[:, column] == TABLE[attribute].index(value)
        for name in hidden:
            known[:, TABLE.names.index(name)] &= ~appears
    for name in (pair.attribute, *find_hidden(pair)):
        known[:, TABLE.names.index(name)] = False
    distance = np.linalg.norm(describe_persons(images) - test.persons[rows.numpy()], axis=1)
    return Judgment(read == labels, known, distance, pair.matches(read))


def summarize_edit(judgment: Judgment) -> dict[str, float]:
    """Return `hit`, and of the other attributes `kept` and `worst`; `distance` is the median."""
    assert judgment.hit is not None
    return {
        "hit": float(judgment.hit.float().mean()),
        "kept": float(np.mean(judgment.rates)),
        "worst": min(judgment.rates),
        "distance": float(np.median(judgment.distance)),
    }


def evaluate_removal(
    networks: ServerNetworks,
    reader: AttributeReader,
    test: EvaluationSet,
    pair: TextPair,
    strength: float,
    threshold: float,
) -> float | None:
    """Return the part of the heads with the target that lose it with the opposite strength.

    Only inversions in which it is recognized count; None where there is none.
    """
    with_target = test.faces[pair.matches(test.labels).numpy()]
    if not len(with_target):
        return None
    recognized = pair.matches(reader.read(networks.reconstruct(with_target)))
    if not recognized.any():
        return None
    opposite = apply_edit(networks, with_target[recognized.numpy()], pair, -strength, threshold)
    return float((~pair.matches(reader.read(opposite))).float().mean())


def measure_seams(
    networks: ServerNetworks, pasting: Pasting, pair: TextPair, strength: float, threshold: float
) -> list[float]:
    """Return the seams in levels of an edit that is pasted back; none where nothing is edited."""
    seams = []
    for photo, face in zip(pasting.photos, pasting.faces, strict=True):
        try:
            result = networks.paste(photo, face, pair, strength, threshold)
        except NoChannelLeft:
            continue
        image = _decode(photo)
        seams.append(measure_seam(result, image, weight_of_face(image, face.quad)))
    return seams


def measure_samples(networks: ServerNetworks, reader: AttributeReader, images: Images) -> float:
    """Return the Fréchet distance of the classifier's features: crops to as many samples."""
    samples = networks.sample(len(images))
    return frechet_distance(reader.features(images), reader.features(samples))
