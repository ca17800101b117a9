"""Alignment cases: `align/align.json` and its photos, one case for each photo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from styleclip_export.errors import VerificationError
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Case, Folder
from styleclip_export.verify.report import Pair, Row, compare, same
from styleclip_server.pipeline import alignment, detection

INDEX = "align/align.json"
SIZES = {"aligned_256": 256, "aligned_1024": 1024}
# Up to this long side the server's search is the official one. Larger photos it searches in copies
# and parts: what it finds must be official, with the largest face among it, but may be less.
SEARCHED_WHOLE = detection.WHOLE_UP_TO
Entry = dict[str, Any]
Box = tuple[int, int, int, int]


def cases(folder: Folder) -> Iterator[Case]:
    if not folder.has(INDEX):
        return
    entries: dict[str, Entry] = folder.json(INDEX)
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise VerificationError(f"{INDEX}: {name} is no JSON object")
        files = [INDEX, f"align/{name}.png"]
        files += [f"align/{f[k]}" for f in entry.get("faces", []) for k in SIZES if k in f]
        yield Case(f"align/{name}", tuple(files), partial(_check, folder, name, entries))


def _check(folder: Folder, name: str, entries: dict[str, Entry]) -> Iterator[Row]:
    official = entries[name].get("faces", [])
    if not folder.has(f"align/{name}.png"):
        yield Row("photo", "missing", note="not in the folder")
        return
    photo = folder.picture(f"align/{name}.png")
    faces = alignment.find_faces(photo)
    boxes = [face.box for face in faces]
    expected = {tuple(face["rect_ltrb"]): face for face in official}
    both = [(f, expected[f.box]) for f in faces if f.box in expected]
    if max(photo.size) > SEARCHED_WHOLE and _has_the_largest(boxes, list(expected)):
        note = f"{len(boxes)} of {len(expected)}, the largest among them"
        yield replace(same("boxes", boxes, [f.box for f, _ in both]), note=note)
    else:
        yield same("boxes", boxes, [tuple(face["rect_ltrb"]) for face in official])
    if both:
        scores = [(f"face {f.box}", f.score, o["score"]) for f, o in both]
        yield compare("scores", scores, bounds.SCORE)
        landmarks = [(f"face {f.box}", f.landmarks, o["landmarks"]) for f, o in both]
        yield compare("landmarks", landmarks, bounds.EXACT)
        quads: list[Pair] = []
        for face, given in both:
            quad = alignment.quad_of(face.landmarks)
            quads.append((f"face {face.box}", quad, given["quad"]))
            if "qsize" in given:
                side = np.hypot(*(quad[3] - quad[0]))
                quads.append((f"face {face.box}, side", side, given["qsize"]))
        yield compare("quads", quads, bounds.QUAD)
    for key, size in SIZES.items():
        yield from _crops(folder, name, entries, photo, key, size)


def _has_the_largest(boxes: list[Box], expected: list[Box]) -> bool:
    areas = {(right - left) * (bottom - top) for left, top, right, bottom in boxes}
    return bool(expected) and areas >= {max((r - x) * (b - y) for x, y, r, b in expected)}


def _crops(
    folder: Folder, name: str, entries: dict[str, Entry], photo: Image.Image, key: str, size: int
) -> Iterator[Row]:
    """Crops of the official quads, so that another landmark does not hide another crop."""
    compared: list[tuple[str, np.ndarray, np.ndarray]] = []
    for i, face in enumerate(entries[name].get("faces", [])):
        file = face.get(key) or _twin(folder, name, entries, photo, key, i)
        if file is None:
            continue
        if not folder.has(f"align/{file}"):
            yield Row(f"aligned, {size} px", "missing", note=f"{file} not in the folder")
            continue
        ours = alignment.crop(photo, np.array(face["quad"], np.float64), size)
        compared.append((file, _levels(ours), _levels(folder.picture(f"align/{file}"))))
    if not compared:
        return
    if not any(file.endswith(".jpg") for file, _, _ in compared):
        yield compare(f"aligned, {size} px", compared, bounds.ALIGNED)
        return
    yield compare(f"aligned, {size} px, JPEG", compared, bounds.JPEG_LARGEST)
    means = [(file, np.abs(a - b).mean(), np.zeros(())) for file, a, b in compared]
    yield compare(f"aligned, {size} px, mean", means, bounds.JPEG_MEAN)


def _twin(
    folder: Folder, name: str, entries: dict[str, Entry], photo: Image.Image, key: str, face: int
) -> str | None:
    """The aligned file of the photo with the same RGB pixels.

    The official code cannot pad transparent pictures: what is expected of `rgba_border` is the
    picture that it makes of `border`.
    """
    other = name.partition("_")[2]
    if other not in entries or not folder.has(f"align/{other}.png"):
        return None
    picture = folder.picture(f"align/{other}.png")
    faces = entries[other].get("faces", [])
    if picture.size != photo.size or ImageChops.difference(picture, photo).getbbox():
        return None
    return faces[face].get(key) if face < len(faces) else None


def _levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float64)
