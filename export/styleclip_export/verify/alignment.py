"""Alignment cases: `align/align.json` and its photos, one case for each photo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import ImageChops

from styleclip_export.errors import VerificationError
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Case, Folder
from styleclip_export.verify.report import Comparison, Row, compare, compare_lists
from styleclip_server.pipeline.detection import OFFICIAL_SEARCH_UP_TO, detect_all_faces
from styleclip_server.pipeline.ffhq_crop import crop_quad, quad_from_landmarks
from styleclip_server.pipeline.landmarks import LandmarkPredictor

INDEX = "align/align.json"
CROP_SIZES = {"aligned_256": 256, "aligned_1024": 1024}
Entry = dict[str, Any]
Box = tuple[int, int, int, int]


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the cases of the golden folder."""
    if not folder.has(INDEX):
        return
    entries: dict[str, Entry] = folder.json(INDEX)
    predictor = LandmarkPredictor()  # loaded once, by the first case with a face
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise VerificationError(f"{INDEX}: {name} is not a JSON object")
        files = [INDEX, _photo_file(name)]
        files += [
            f"align/{face[key]}"
            for face in entry.get("faces", [])
            for key in CROP_SIZES
            if key in face
        ]
        check = partial(_check, folder, name, entries, predictor)
        yield Case(f"align/{name}", tuple(files), check)


def _photo_file(name: str) -> str:
    return f"align/{name}.png"


def _check(
    folder: Folder, name: str, entries: dict[str, Entry], predictor: LandmarkPredictor
) -> Iterator[Row]:
    if not folder.has(_photo_file(name)):
        yield Row("photo", "missing", note="not in the folder")
        return
    photo = _Photo(folder, name, entries)
    yield from photo.compare_faces(predictor)
    for key, size in CROP_SIZES.items():
        yield from photo.compare_crops(key, size)


@dataclass(frozen=True)
class _Face:
    """What the server computes for a detected face."""

    box: Box
    score: float
    landmarks: np.ndarray


class _Photo:
    """A photo of the golden folder with the official faces in it."""

    def __init__(self, folder: Folder, name: str, entries: dict[str, Entry]) -> None:
        self.folder, self.name, self.entries = folder, name, entries
        self.image = folder.image(_photo_file(name))
        self.official: list[Entry] = entries[name].get("faces", [])

    def compare_faces(self, predictor: LandmarkPredictor) -> Iterator[Row]:
        """Compare boxes, and for the same boxes scores, landmarks and quads."""
        faces = [
            _Face(face.box, face.score, predictor.predict(self.image, face.box))
            for face in detect_all_faces(self.image)
        ]
        by_box = {tuple(face["rect_ltrb"]): face for face in self.official}
        matches = [(face, by_box[face.box]) for face in faces if face.box in by_box]
        yield self._compare_boxes([face.box for face in faces])
        if not matches:
            return
        scores = [(f"face {f.box}", f.score, o["score"]) for f, o in matches]
        yield compare("scores", scores, bounds.SCORE)
        landmarks = [(f"face {f.box}", f.landmarks, o["landmarks"]) for f, o in matches]
        yield compare("landmarks", landmarks, bounds.EXACT)
        quads = [pair for face, entry in matches for pair in _quad_comparisons(face, entry)]
        yield compare("quads", quads, bounds.QUAD)

    def _compare_boxes(self, boxes: list[Box]) -> Row:
        official = [tuple(face["rect_ltrb"]) for face in self.official]
        # The server runs the official search up to a certain size. In larger photos it searches
        # tiles: each of its boxes must be official, and the largest face must be among them.
        tiled = max(self.image.size) > OFFICIAL_SEARCH_UP_TO
        if not tiled or not _contains_largest(boxes, official):
            return compare_lists("boxes", boxes, official)
        common = [box for box in boxes if box in official]
        note = f"{len(boxes)} of {len(official)}, the largest among them"
        return replace(compare_lists("boxes", boxes, common), note=note)

    def compare_crops(self, key: str, size: int) -> Iterator[Row]:
        """Compare crops of the official quads, so that differing landmarks do not matter."""
        pairs: list[tuple[str, np.ndarray, np.ndarray]] = []
        for i, face in enumerate(self.official):
            file = face.get(key) or self._crop_of_same_pixels(key, i)
            if file is None:
                continue
            if not self.folder.has(f"align/{file}"):
                yield Row(f"aligned, {size} px", "missing", note=f"{file} not in the folder")
                continue
            ours = crop_quad(self.image, np.array(face["quad"], np.float64), size)
            official = self.folder.image(f"align/{file}")
            pairs.append((file, np.asarray(ours, np.float64), np.asarray(official, np.float64)))
        if not pairs:
            return
        if not any(file.endswith(".jpg") for file, _, _ in pairs):
            yield compare(f"aligned, {size} px", pairs, bounds.ALIGNED)
            return
        yield compare(f"aligned, {size} px, JPEG", pairs, bounds.JPEG_LARGEST)
        means = [(file, np.abs(a - b).mean(), np.zeros(())) for file, a, b in pairs]
        yield compare(f"aligned, {size} px, mean", means, bounds.JPEG_MEAN)

    def _crop_of_same_pixels(self, key: str, face: int) -> str | None:
        """The aligned file of another photo with the same RGB pixels.

        The official code cannot pad transparent images, so `rgba_border` is compared with the crop
        of `border`.
        """
        other = self.name.partition("_")[2]
        if other not in self.entries or not self.folder.has(_photo_file(other)):
            return None
        image = self.folder.image(_photo_file(other))
        if image.size != self.image.size or ImageChops.difference(image, self.image).getbbox():
            return None
        faces = self.entries[other].get("faces", [])
        return faces[face].get(key) if face < len(faces) else None


def _quad_comparisons(face: _Face, official: Entry) -> Iterator[Comparison]:
    quad = quad_from_landmarks(face.landmarks)
    yield f"face {face.box}", quad, official["quad"]
    if "qsize" in official:
        yield f"face {face.box}, side", np.hypot(*(quad[3] - quad[0])), official["qsize"]


def _contains_largest(boxes: list[Box], official: list[Box]) -> bool:
    areas = {_area(box) for box in boxes}
    return bool(official) and max(map(_area, official)) in areas


def _area(box: Box) -> int:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)
