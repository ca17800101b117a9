"""dlib's detector and landmarks in PyTorch, compared with dlib: the same faces, and the time.

`python -m tools.bench.alignment --device cuda` runs it. Most of a few minutes goes into dlib's own
search, whose answers can be kept in a file.
"""

import hashlib
import json
import time
from collections import Counter
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from styleclip_contract.errors import LandmarksMissing
from styleclip_server.engines.cuda.faces.detector import FaceDetector
from styleclip_server.engines.cuda.faces.landmarks import (
    FaceLandmarks,
    Forest,
    LandmarkParameters,
    read_model,
)
from styleclip_server.pipeline.detection import (
    Detection,
    detect_all_faces,
    detect_large_faces,
    select_largest,
)
from styleclip_server.pipeline.ffhq_crop import quad_from_landmarks
from styleclip_server.pipeline.image_pyramid import worker_pool
from styleclip_server.pipeline.landmarks import LandmarkPredictor, find_landmark_model
from tools.bench.derived_photos import generate_photos, load_astronaut

SECOND_SET = 83  # photos of another seed
BATCH = 8


def print_comparison(device, photos, repeat, kept=None, domain=None):
    """Print how many photos have dlib's answer on `device`, and how long it takes.

    `kept` is a file with dlib's answers, written if it does not exist; `domain` the folder of
    a domain that has landmarks.
    """
    use = use_prebuilt_kernels() if torch.device(device).type == "cuda" else None
    detector = FaceDetector(torch.device(device))
    try:
        model, predictor = read_model(find_landmark_model(domain)), LandmarkPredictor(domain)
    except LandmarksMissing:
        print("without the landmark model: a random one of its size is timed, none is compared")
        model, predictor = random_model(), None
    landmarks = FaceLandmarks(model, torch.device(device))
    for count, seed in ((photos, 0), (min(SECOND_SET, photos), 1)):
        images = [variant.image for variant in generate_photos(count, seed)]
        print_answers(detector, landmarks, predictor, images, official_answers(images, kept))
    print_times(detector, landmarks, repeat)
    if use:
        print(f"{torch.cuda.get_device_name()}: {use}")


def use_prebuilt_kernels():
    """Let Triton take the kernels that STYLECLIP_KERNELS names, as the server does."""
    from styleclip_server.engines.cuda import kernel_cache, prebuilt  # need Triton

    return kernel_cache.use_prebuilt_kernels(prebuilt.prebuilt_folder())


def random_model():
    """Build a model of the size of the 68-landmark model, with random numbers."""
    rng = np.random.default_rng(0)
    levels, trees, splits, pixels, points = 15, 500, 15, 500, 68
    forests = [
        Forest(
            *rng.integers(0, pixels, (2, trees, splits)),
            rng.uniform(-50, 50, (trees, splits)).astype(np.float32),
            rng.normal(0, 1e-4, (trees, splits + 1, 2 * points)).astype(np.float32),
            rng.integers(0, points, pixels),
            rng.normal(0, 0.1, (pixels, 2)).astype(np.float32),
        )
        for _ in range(levels)
    ]
    return LandmarkParameters(rng.uniform(0, 1, 2 * points).astype(np.float32), forests)


def to_tensor(image, device):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(device)


def official_answers(images, kept):
    """Return what dlib's official search detects in each photo: as kept in a file, else computed
    and kept. A photo is known by its pixels."""
    answers = json.loads(kept.read_text()) if kept and kept.exists() else {}
    names = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    missing = [row for row, name in enumerate(names) if name not in answers]
    searched = worker_pool().map(detect_all_faces, [images[row] for row in missing])
    for row, faces in zip(missing, searched, strict=True):
        answers[names[row]] = [(face.box, face.score, face.level) for face in faces]
    if kept and missing:
        kept.write_text(json.dumps(answers))
    return [
        [Detection(tuple(box), score, level) for box, score, level in answers[name]]
        for name in names
    ]


def print_answers(detector, landmarks, predictor, images, official):
    """Compare with dlib's official search of the same photos."""
    counter, score_errors, distances = Counter(), [0.0], [0.0]
    before = detector.decided_by_dlib
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        photos = [to_tensor(image, detector.device) for image in images[rows]]
        for theirs, ours in zip(official[rows], detector.detect_all_faces(photos), strict=True):
            counter["photos"] += 1
            counter["with a face"] += bool(theirs)
            if boxes_and_scores(ours)[0] == boxes_and_scores(theirs)[0]:
                counter["all boxes are dlib's"] += 1
                errors = np.subtract(boxes_and_scores(ours)[1], boxes_and_scores(theirs)[1])
                score_errors += np.abs(errors).tolist()
        large = detector.detect_large_faces(photos)
        for image, photo, theirs, ours in zip(
            images[rows], photos, official[rows], large, strict=True
        ):
            counter["largest face, or none, is dlib's"] += is_same_largest(ours, theirs)
            if ours and theirs and predictor:
                (points,) = landmarks.predict([photo], [select_largest(ours).box])
                expected = predictor.predict(image, select_largest(theirs).box)
                counter["its landmarks are dlib's"] += np.array_equal(points, expected)
                distances.append(quad_distance(points, expected))
    print("; ".join(f"{name}: {number}" for name, number in counter.items()), end="; ")
    decided = detector.decided_by_dlib - before
    print(
        f"scores differ by {max(score_errors):.1e} at most, quads by {max(distances):.2%} of "
        f"the face; searches left to dlib: {decided}"
    )


def quad_distance(landmarks, expected):
    """Return the largest distance of two corners, relative to the face's width."""
    ours, theirs = quad_from_landmarks(landmarks), quad_from_landmarks(expected)
    return np.hypot(*(ours - theirs).T).max() / (np.hypot(*(theirs[3] - theirs[0])) / 2)


def boxes_and_scores(faces):
    return [face.box for face in faces], [face.score for face in faces]


def is_same_largest(ours, theirs):
    if not ours or not theirs:
        return not ours and not theirs
    return select_largest(ours).box == select_largest(theirs).box


def print_times(detector, landmarks, repeat):
    """Print the time of photos of 1000 pixels whose face has 18% and 30% of their width."""
    astronaut = load_astronaut()
    for share, crop in (("18%", astronaut), ("30%", astronaut.crop((60, 0, 360, 300)))):
        image = crop.resize((1000, 1000), Image.Resampling.BICUBIC)
        title = f"1000 px, face of {share}"
        for batch in (1, BATCH):
            photos = [to_tensor(image, detector.device)] * batch
            boxes = [select_largest(detect_large_faces(image)).box] * batch
            for name, call, arguments in (
                ("largest face", detector.detect_large_faces, (photos,)),
                ("all faces", detector.detect_all_faces, (photos,)),
                ("landmarks", landmarks.predict, (photos, boxes)),
            ):
                seconds = time_median(repeat, detector.device, call, *arguments)
                kernels = count_kernels(detector.device, call, *arguments)
                print(
                    f"{title}, batch {batch}, {name}: p50 {seconds * 1e3:.2f} ms, "
                    f"{seconds / batch * 1e3:.2f} each, {kernels} kernels"
                )
        seconds = time_median(repeat, torch.device("cpu"), detect_large_faces, image)
        print(f"{title}, dlib on this CPU, largest face: p50 {seconds * 1e3:.1f} ms")


def time_median(repeat, device, call, *arguments):
    """Return the median time of a call in seconds, after two calls that are not counted."""
    times = []
    for _ in range(repeat + 2):
        start = time.perf_counter()
        call(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[2:])


def count_kernels(device, call, *arguments):
    """Return the number of kernels and copies of a call on a GPU, of operators on a CPU."""
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        call(*arguments)
    return sum(event.count for event in profiled.key_averages())
