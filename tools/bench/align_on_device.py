"""The alignment of JPEG photos in PyTorch, compared with Pillow and dlib: the same faces, and the
time of each part.

    python -m tools.bench.align_on_device [--device cuda] [--nvjpeg] [--photos 120]
        [--domain FOLDER]
"""

import argparse
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from styleclip_contract.errors import StyleclipError
from styleclip_server.engines.cuda.faces.aligner import CudaAligner
from styleclip_server.engines.cuda.faces.cropping import crop_quads
from styleclip_server.engines.cuda.faces.decoding import decode_photos
from styleclip_server.pipeline import images
from styleclip_server.pipeline.alignment import LARGEST_FACE, LONG_SIDE, Aligner
from styleclip_server.pipeline.detection import select_largest
from styleclip_server.pipeline.ffhq_crop import crop_quad, quad_from_landmarks
from tools.bench.alignment import encode_jpeg, quad_distance
from tools.bench.derived_photos import generate_photos, load_astronaut
from tools.bench.faces_on_device import SECOND_SET, count_kernels, time_median

BATCH = 8


def compare(aligner, reference, files, device):
    """Print how the faces of JPEG files differ from those of Pillow and dlib."""
    counter, distances, crops, transforms, pixels = Counter(), [], [], [], []
    with ThreadPoolExecutor(8) as threads:
        expected = list(threads.map(lambda data: align_by_dlib(reference, data), files))
    for start in range(0, len(files), BATCH):
        rows = files[start : start + BATCH]
        ours = aligner.align(rows, [LARGEST_FACE] * len(rows))
        decoded = decode_photos(rows, device, LONG_SIDE, aligner._nvjpeg)
        for data, photo, one, other in zip(
            rows, decoded, ours, expected[start : start + BATCH], strict=True
        ):
            counter["photos"] += 1
            counter["left to the CPU"] += one is None
            image = images.decode(data)
            difference = np.abs(
                np.asarray(image, np.int16) - photo.pixels.permute(1, 2, 0).cpu().numpy()
            )
            pixels.append((difference.mean(), difference.max()))
            if one is None:
                continue
            if isinstance(one, StyleclipError) or isinstance(other, StyleclipError):
                counter["no face, both"] += type(one) is type(other)
                counter["no face, one of them"] += type(one) is not type(other)
                continue
            counter["a face, both"] += 1
            distance = quad_distance(np.float64(other[1]), np.float64(one.face[1]))
            distances.append(distance)
            counter["quads within 1% of the face"] += distance <= 0.01
            if distance <= 0.01:
                difference = np.abs(other[0].astype(int) - one.face[0])
                crops.append((difference.mean(), difference.max()))
            for size in (256, 1024):  # the same pixels and quad: the crop alone
                theirs = np.asarray(crop_quad(image, np.float64(other[1]), size), int)
                tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
                crop = crop_quads([tensor.to(device)], [np.float64(other[1])], size)[0]
                difference = np.abs(theirs - crop.cpu().numpy())
                transforms.append((difference.mean(), difference.max()))
    print("; ".join(f"{name}: {number}" for name, number in counter.items()))
    print(f"decoded pixels differ by {worst(pixels)}")
    print(f"crops of the same pixels and quad, 256 and 1024 px, differ by {worst(transforms)}")
    print(f"crops of the same face, decoded and aligned apart, differ by {worst(crops)}")
    print(
        f"quads: {np.mean(np.array(distances) < 1e-6):.0%} identical, "
        f"p50 {np.median(distances):.2%}, p95 {np.quantile(distances, 0.95):.2%}, largest "
        f"{max(distances):.2%} of the face"
    )


def align_by_dlib(reference, data):
    try:
        return reference.decode_and_align(data)
    except StyleclipError as error:
        return error


def worst(differences):
    means, largest = np.array(differences).T
    return f"{means.mean():.3f} levels on average ({means.max():.3f} in one), {largest.max():.0f}"


def print_times(aligner, device, repeat):
    """Print the time of each part for photos of 1000 pixels, in one thread."""
    astronaut, nvjpeg = load_astronaut(), aligner._nvjpeg
    for share, crop in (("18%", astronaut), ("30%", astronaut.crop((60, 0, 360, 300)))):
        data = encode_jpeg(crop.resize((1000, 1000), Image.Resampling.BICUBIC))
        print(f"1000 px, face of {share}; p50 in ms of a batch, (each), kernels and copies")
        for batch in (1, 2, 4, BATCH):
            files = [data] * batch
            photos = [photo.pixels for photo in decode_photos(files, device, LONG_SIDE, nvjpeg)]
            found = aligner._detector.detect_large_faces(photos)
            boxes = [select_largest(faces).box for faces in found]
            points = aligner._landmarks.predict(photos, boxes)
            quads = [quad_from_landmarks(each) for each in points]
            cells = []
            for name, call, arguments in (
                ("decode", decode_photos, (files, device, LONG_SIDE, nvjpeg)),
                ("search", aligner._detector.detect_large_faces, (photos,)),
                ("landmarks", aligner._landmarks.predict, (photos, boxes)),
                ("crop", lambda *a: crop_quads(*a).cpu(), (photos, quads)),
                ("whole", aligner.align, (files, [LARGEST_FACE] * batch)),
            ):
                seconds = time_median(repeat, device, call, *arguments)
                kernels = count_kernels(device, call, *arguments)
                cells.append(f"{name} {seconds * 1e3:.2f} ({seconds / batch * 1e3:.2f}) {kernels}")
            print(f"  batch {batch}: " + "; ".join(cells))
        image = images.decode(data)
        by_pillow = time_median(repeat, torch.device("cpu"), images.decode, data)
        cropped = time_median(repeat, torch.device("cpu"), crop_quad, image, quads[0])
        print(f"  Pillow: decode {by_pillow * 1e3:.2f}; crop {cropped * 1e3:.2f}")


def print_throughput(aligner, seconds):
    """Print how many photos a second one process aligns."""
    crop = load_astronaut().crop((60, 0, 360, 300))
    data = encode_jpeg(crop.resize((1000, 1000), Image.Resampling.BICUBIC))
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        aligner.align([data] * BATCH, [LARGEST_FACE] * BATCH)
        times.append(time.perf_counter() - start)
    print(f"batches of {BATCH} for {seconds} s: {BATCH / median(times):.0f} photos/s, p50")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--domain", type=Path, help="a domain with landmarks")
    parser.add_argument("--nvjpeg", action="store_true", help="decode by nvJPEG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    aligner, device = CudaAligner(options.domain, options.device, options.nvjpeg), options.device
    start = time.perf_counter()
    if device.type == "cuda":
        aligner.warm_up(BATCH)
    print(f"warm-up: {time.perf_counter() - start:.1f} s")
    print_times(aligner, device, options.repeat)
    print_throughput(aligner, 5)
    reference = Aligner(options.domain)
    reference.preload()
    for count, seed in ((options.photos, 0), (min(SECOND_SET, options.photos), 1)):
        files = [encode_jpeg(variant.image) for variant in generate_photos(count, seed)]
        compare(aligner, reference, files, device)


if __name__ == "__main__":
    main()
