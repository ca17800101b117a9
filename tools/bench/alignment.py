"""Alignment compared with the official function: speed, quads, and the faces that each detects.

    python -m tools.bench.alignment [--sizes 160 512 ...] [--photos 120] [--repeat 3]
    python -m tools.bench.alignment --device cuda: the PyTorch detector compared with dlib, whose
        answers --answers FILE keeps for the next machine, and --domain FOLDER's landmarks

The official function is e4e's (`utils/alignment.py` of encoder4editing, called as its inference
notebook does): for each photo it loads the landmark model, creates the detector, searches the photo
upsampled by two, takes the last detection, reads the file a second time and crops. It is
reimplemented here on the same dlib and Pillow. Photos are derived from scikit-image's astronaut, a
public-domain portrait.
"""

import argparse
import io
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from styleclip_contract.errors import NoFaceFound
from styleclip_server.pipeline import images
from styleclip_server.pipeline.alignment import (
    LARGEST_FACE,
    Aligner,
    decode_and_detect,
    select_face,
)
from styleclip_server.pipeline.detection import detect_large_faces
from styleclip_server.pipeline.dlib_detector import import_dlib
from styleclip_server.pipeline.ffhq_crop import quad_from_landmarks
from styleclip_server.pipeline.landmarks import LandmarkPredictor, find_landmark_model
from tools.bench.derived_photos import generate_photos, load_astronaut

LANDMARKS = LandmarkPredictor()


def encode_jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def align_officially(data, setup_seconds):
    """Run the official steps, and return the boxes of all faces, None if there is no face.

    `setup_seconds` collects the shortest times of loading the predictor and the detector, which
    need not be repeated for each photo.
    """
    dlib = import_dlib()
    start = time.perf_counter()
    predictor = dlib.shape_predictor(str(find_landmark_model()))
    seconds = time.perf_counter() - start
    setup_seconds["predictor"] = min(seconds, setup_seconds.get("predictor", seconds))
    start = time.perf_counter()
    detector = dlib.get_frontal_face_detector()
    seconds = time.perf_counter() - start
    setup_seconds["detector"] = min(seconds, setup_seconds.get("detector", seconds))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    rectangles = detector(pixels, 1)
    if not rectangles:
        return None
    shape = predictor(pixels, rectangles[-1])
    quad = quad_from_landmarks(np.array([(p.x, p.y) for p in shape.parts()], np.float64))
    crop_officially(Image.open(io.BytesIO(data)).convert("RGB"), quad)
    return to_boxes(rectangles)


def to_boxes(rectangles):
    return [(r.left(), r.top(), r.right(), r.bottom()) for r in rectangles]


def crop_officially(image, quad, size=256):
    """Crop as the official code does: reduce and pad the entire photo."""
    from scipy import ndimage  # here, so that --device needs no SciPy

    side = np.hypot(*(quad[3] - quad[0]))
    shrink = int(np.floor(side / size * 0.5))
    if shrink > 1:
        reduced = [int(np.rint(pixels / shrink)) for pixels in image.size]
        image, quad, side = image.resize(reduced, Image.LANCZOS), quad / shrink, side / shrink
    border = max(int(np.rint(side * 0.1)), 3)
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    box = (*np.maximum(low - border, 0), *np.minimum(high + border, image.size))
    image, quad = image.crop([int(x) for x in box]), quad - box[:2]
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    pad = np.maximum([*(border - low), *(high + border - image.size)], 0)
    if pad.max() > border - 4:
        pad = np.maximum(pad, int(np.rint(side * 0.3)))
        pixels = np.pad(np.float32(image), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect")
        height, width = pixels.shape[:2]
        y, x = np.ogrid[:height, :width]
        near_x = np.minimum(x / pad[0], (width - 1 - x) / pad[2])
        near_y = np.minimum(y / pad[1], (height - 1 - y) / pad[3])
        depth = np.maximum(1 - near_x, 1 - near_y)[..., None]
        blurred = ndimage.gaussian_filter(pixels, [side * 0.02, side * 0.02, 0])
        pixels += (blurred - pixels) * np.clip(depth * 3 + 1, 0, 1)
        pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
        image = Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255)), "RGB")
        quad = quad + pad[:2]
    return image.transform((size, size), Image.QUAD, (quad + 0.5).ravel(), Image.BILINEAR)


def time_fastest(repeat, function, *arguments):
    """Return the function's last result, and its shortest time in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = function(*arguments)
        times.append(time.perf_counter() - start)
    return result, min(times)


def print_speed(sizes, repeat):
    """Print a row for each size of the astronaut, one clear face, as a JPEG file."""
    astronaut = load_astronaut()
    aligner = Aligner()
    aligner.preload()
    print("decode, detect, landmarks, quad and crop of a JPEG file; milliseconds, best of", repeat)
    print("  pixels  official   ours  faster  | without predictor / any setup | quad differs by")
    for size in sizes:
        photo = encode_jpeg(astronaut.resize((size, size), Image.Resampling.BICUBIC))
        setup_seconds = {}
        boxes, official_seconds = time_fastest(repeat, align_officially, photo, setup_seconds)
        try:
            (_, quad), seconds = time_fastest(repeat, aligner.decode_and_align, photo)
        except NoFaceFound:
            quad = None
            _, seconds = time_fastest(repeat, decode_and_detect, photo)
        without_predictor = official_seconds - setup_seconds["predictor"]
        without_setup = without_predictor - setup_seconds["detector"]
        print(
            f"  {size:6} {official_seconds * 1e3:9.0f} {seconds * 1e3:6.0f} "
            f"{official_seconds / seconds:7.1f}  |        {without_predictor / seconds:5.1f} / "
            f"{without_setup / seconds:4.1f}            | {compare_quads(photo, boxes, quad)}"
        )


def compare_quads(photo, official_boxes, quad):
    """Describe how far our quad is from that of the nearest official face."""
    if official_boxes is None or quad is None:
        return "no face, both" if official_boxes is None and quad is None else ""
    image = images.decode(photo)
    distances = [quad_distance(quad_of_box(image, box), quad) for box in official_boxes]
    return f"{min(distances):.2%} of the face"


def quad_of_box(image, box):
    return quad_from_landmarks(LANDMARKS.predict(image, box))


def quad_distance(official_quad, quad):
    """Return the largest distance of two corners, relative to half the quad's side (face width)."""
    side = np.hypot(*(official_quad[3] - official_quad[0]))
    return np.hypot(*(official_quad - quad).T).max() / (side / 2)


def print_recall(photos):
    """Print whether each rule detects a face, selects the astronaut's, and gives the same quad."""
    counters, distances = {}, []
    detector = import_dlib().get_frontal_face_detector()
    for variant in generate_photos(photos):
        counter = counters.setdefault(variant.kind, Counter())
        counter["photos"] += 1
        official = to_boxes(detector(np.asarray(variant.image), 1))
        hers = [box for box in official if variant.contains(box)]
        counter["official: any face"] += bool(official)
        counter["official: selects hers"] += bool(official) and variant.contains(official[-1])
        counter["official: detects hers"] += bool(hers)
        faces = detect_large_faces(variant.image)
        counter["ours: any face"] += bool(faces)
        if not faces:
            continue
        selected = select_face(faces, LARGEST_FACE).box
        counter["ours: selects hers"] += variant.contains(selected)
        if hers and variant.contains(selected):
            counter["both detect hers"] += 1
            counter["identical box"] += selected in hers
            quads = [quad_of_box(variant.image, box) for box in (hers[0], selected)]
            distances.append(quad_distance(*quads))
    print_counters(counters)
    distances = np.array(distances)
    print(
        f"quads of the same face: {np.mean(distances == 0):.1%} identical, "
        f"{np.mean(distances <= 0.01):.1%} within 1% of the face, largest {distances.max():.2%}"
    )


def print_counters(counters):
    total = sum(counters.values(), Counter())
    names = dict.fromkeys(name for counter in counters.values() for name in counter)
    print(f"\n{'':30}" + "".join(f"{kind:>13}" for kind in [*counters, "all"]))
    for name in names:
        cells = [counter[name] for counter in [*counters.values(), total]]
        print(f"{name:30}" + "".join(f"{cell:13}" for cell in cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [160, 320, 512, 1000, 1500, 2000, 3000, 4000]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes)
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", help="compare dlib in PyTorch on cpu or cuda with dlib")
    parser.add_argument("--answers", type=Path, help="where dlib's answers are kept, for --device")
    parser.add_argument("--domain", type=Path, help="a domain with landmarks, for --device")
    options = parser.parse_args()
    if options.device:
        from tools.bench import faces_on_device  # needs PyTorch

        faces_on_device.print_comparison(
            options.device, options.photos, options.repeat, options.answers, options.domain
        )
        return
    print_speed(options.sizes, options.repeat)
    if options.photos:
        print_recall(options.photos)


if __name__ == "__main__":
    main()
