"""dlib's detector and landmarks in PyTorch, compared with dlib: the same faces, and the time.

`python -m tools.bench.alignment --device cuda` runs it; a GPU needs a few minutes, most of them for
dlib's own search.
"""

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
    detect_all_faces,
    detect_large_faces,
    select_largest,
)
from styleclip_server.pipeline.image_pyramid import worker_pool
from styleclip_server.pipeline.landmarks import LandmarkPredictor, find_landmark_model
from tools.bench.derived_photos import generate_photos, load_astronaut

SECOND_SET = 83  # photos of another seed
BATCH = 8


def print_comparison(device, photos, repeat):
    """Print how many photos have dlib's answer on `device`, and how long it takes."""
    detector = FaceDetector(torch.device(device))
    try:
        model, predictor = read_model(find_landmark_model()), LandmarkPredictor()
    except LandmarksMissing:
        print("without the landmark model: a random one of its size is timed, none is compared")
        model, predictor = random_model(), None
    landmarks = FaceLandmarks(model, torch.device(device))
    for count, seed in ((photos, 0), (min(SECOND_SET, photos), 1)):
        print_answers(detector, landmarks, predictor, count, seed)
    print_times(detector, landmarks, repeat)


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


def print_answers(detector, landmarks, predictor, count, seed):
    """Compare with dlib's official search of the same photos."""
    images = [variant.image for variant in generate_photos(count, seed)]
    official = list(worker_pool().map(detect_all_faces, images))
    counter, score_errors, before = Counter(), [0.0], detector.decided_by_dlib
    for start in range(0, count, BATCH):
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
            if ours and predictor:
                box = select_largest(ours).box
                points, expected = landmarks.predict([photo], [box]), predictor.predict(image, box)
                counter["its landmarks are dlib's"] += np.array_equal(points[0], expected)
    print("; ".join(f"{name}: {number}" for name, number in counter.items()), end="; ")
    decided = detector.decided_by_dlib - before
    print(f"scores differ by {max(score_errors):.1e} at most; searches left to dlib: {decided}")


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
