"""Train a predictor of the 68 landmarks on rendered heads, whose landmarks are known exactly.

    python -m domains.people.train_landmarks --heads build/people/heads --test build/people/test

The predictor is dlib's (Kazemi and Sullivan, 2014) in the format of the published 68-point model,
but without the license terms of that model's photos. A head that dlib's detector does not find
takes no part. Errors are those of landmarks in % of the eyes' distance, and of FFHQ's square in %
of its side: `--test` compares photos that took no part, and the published predictor on them.
"""

from __future__ import annotations

import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import dlib
import numpy as np
from PIL import Image

from domains.people.shards import read_shards
from styleclip_server.pipeline.ffhq_crop import quad_from_landmarks
from styleclip_server.pipeline.landmarks import find_landmark_model

LEFT_OUT = 0.1  # share of the heads that measures the error
_OUTER_CORNERS = (36, 45)


Face = tuple[np.ndarray, tuple[int, int, int, int], np.ndarray]  # pixels, box, landmarks


def find_face(head: tuple[bytes, dict]) -> Face | None:
    """Return a head's photo, its detected box and its landmarks, or None where dlib finds none."""
    jpeg, labels = head
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    landmarks = np.array(labels["landmarks"])
    x, y = (int(value) for value in landmarks[17:].mean(0))
    for box in dlib.get_frontal_face_detector()(pixels, 1):
        if box.contains(dlib.point(x, y)):
            return pixels, (box.left(), box.top(), box.right(), box.bottom()), landmarks
    return None


def find_faces(folder: Path, count: int, processes: int) -> list[Face]:
    """Return the faces that dlib finds in up to `count` heads of a folder, in the seeds' order."""
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    heads = [head for path in folders for head in read_shards(path)]
    heads.sort(key=lambda head: head[1]["seed"])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        found = pool.map(find_face, heads[:count], chunksize=8)
        return [face for face in found if face is not None]


def annotate(face: Face) -> Any:
    """Return dlib's record of a face and its landmarks."""
    _, box, landmarks = face
    parts = [dlib.point(round(x), round(y)) for x, y in landmarks.tolist()]
    return dlib.full_object_detection(dlib.rectangle(*box), parts)


def measure_errors(predictor: Any, face: Face) -> tuple[float, float]:
    """Return the mean distance of landmarks in % of that of the eyes' outer corners, and that of
    the corners of FFHQ's square in % of its side.
    """
    pixels, box, landmarks = face
    parts = predictor(pixels, dlib.rectangle(*box)).parts()
    predicted = np.array([(part.x, part.y) for part in parts])
    scale = np.linalg.norm(np.subtract(*landmarks[list(_OUTER_CORNERS)]))
    quads = quad_from_landmarks(predicted), quad_from_landmarks(landmarks)
    side = np.linalg.norm(quads[1][3] - quads[1][0])
    distances = (np.linalg.norm(a - b, axis=1).mean() for a, b in ((predicted, landmarks), quads))
    by_eyes, by_square = (float(d) * 100 for d in np.divide([*distances], [scale, side]))
    return by_eyes, by_square


def report(name: str, predictor: Any, faces: list[Face]) -> None:
    """Print a predictor's errors on faces."""
    marks, quads = np.array([measure_errors(predictor, face) for face in faces]).T
    print(
        f"{name}: landmarks {marks.mean():.2f} % of the eyes' distance; square {quads.mean():.2f} "
        f"% of its side, 95% of {len(faces)} faces below {np.percentile(quads, 95):.2f} %",
        flush=True,
    )


def training_options(threads: int) -> Any:
    """Return the training's options: a model of about 10 MB."""
    options = dlib.shape_predictor_training_options()
    options.cascade_depth = 10
    options.tree_depth = 3
    options.num_trees_per_cascade_level = 145
    options.nu = 0.1
    options.oversampling_amount = 12
    options.oversampling_translation_jitter = 0.05
    options.feature_pool_size = 400
    options.num_test_splits = 20
    options.num_threads = threads
    options.be_verbose = True
    return options


@click.command(context_settings={"show_default": True})
@click.option(
    "--heads",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("build/people/heads"),
    help="Folder of the shards to train on: photos, or crops.",
)
@click.option("--count", default=2500, help="Largest number of heads.")
@click.option(
    "--test",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of shards to measure the errors on; a tenth of the others by default.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/people/landmarks_68.dat"),
    help="File of the predictor.",
)
@click.option(
    "--threads", default=2, help="Processes of the detection and threads of the training."
)
def main(heads: Path, count: int, test: Path | None, out: Path, threads: int) -> None:
    """Train the predictor and print its errors on heads that took no part."""
    faces = find_faces(heads, count, threads)
    if test:
        held_out = find_faces(test, count, threads)
    else:
        share = max(1, int(len(faces) * LEFT_OUT))
        faces, held_out = faces[:-share], faces[-share:]
    if not held_out or not faces:
        raise click.ClickException(f"{heads}: {len(faces)} detected faces are too few to train on")
    print(f"{len(faces)} heads to train on, {len(held_out)} to measure", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".partial")
    predictor = dlib.train_shape_predictor(
        [face[0] for face in faces],
        [[annotate(face)] for face in faces],
        training_options(threads),
    )
    predictor.save(str(temporary))
    temporary.replace(out)
    report(f"{out}, {out.stat().st_size / 1e6:.1f} MB", predictor, held_out)
    report("published model", dlib.shape_predictor(str(find_landmark_model())), held_out)


if __name__ == "__main__":
    main()
