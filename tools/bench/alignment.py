"""Alignment beside the official function: time, quads, and the faces that each finds.

    python -m tools.bench.alignment [--sizes 160 512 ...] [--photos 120] [--repeat 3]

The official function is e4e's (`utils/alignment.py` of encoder4editing, called as its inference
notebook calls it): for each photo it loads the landmark model, makes the detector, searches the
photo enlarged twice, keeps the last detection, reads the file a second time and crops. It is
written anew here from that description, on the same dlib and Pillow. Photos are derived from
scikit-image's astronaut, a public-domain portrait.
"""

import argparse
import io
import time
from collections import Counter

import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage
from skimage import data

from styleclip_contract.errors import NoFaceFound
from styleclip_server.pipeline import images
from styleclip_server.pipeline.alignment import LARGEST_FACE, Aligner, select_face
from styleclip_server.pipeline.detection import detect_all_faces, detect_large_faces
from styleclip_server.pipeline.dlib_detector import import_dlib
from styleclip_server.pipeline.ffhq_crop import quad_from_landmarks
from styleclip_server.pipeline.landmarks import LandmarkPredictor, find_landmark_model

ALIGNER, LANDMARKS = Aligner(), LandmarkPredictor()
FACE = (175, 76, 265, 166)  # the astronaut's, in the photo of 512 pixels


def jpeg(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def official(data, clock):
    """The official steps; `clock` keeps the least seconds of those that need not be repeated."""
    dlib = import_dlib()
    begin = time.perf_counter()
    predictor = dlib.shape_predictor(str(find_landmark_model()))
    clock["predictor"] = min(time.perf_counter() - begin, clock.get("predictor", 9))
    begin = time.perf_counter()
    detector = dlib.get_frontal_face_detector()
    clock["detector"] = min(time.perf_counter() - begin, clock.get("detector", 9))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    found = detector(pixels, 1)
    if not found:
        return None
    shape = predictor(pixels, found[-1])
    quad = quad_from_landmarks(np.array([(p.x, p.y) for p in shape.parts()], np.float64))
    official_crop(Image.open(io.BytesIO(data)).convert("RGB"), quad)
    return [(r.left(), r.top(), r.right(), r.bottom()) for r in found]


def official_crop(picture, quad, size=256):
    """FFHQ's crop with the whole photo reduced and padded, as the official code does it."""
    side = np.hypot(*(quad[3] - quad[0]))
    shrink = int(np.floor(side / size * 0.5))
    if shrink > 1:
        reduced = [int(np.rint(pixels / shrink)) for pixels in picture.size]
        picture, quad, side = picture.resize(reduced, Image.LANCZOS), quad / shrink, side / shrink
    border = max(int(np.rint(side * 0.1)), 3)
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    box = (*np.maximum(low - border, 0), *np.minimum(high + border, picture.size))
    picture, quad = picture.crop([int(x) for x in box]), quad - box[:2]
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    pad = np.maximum([*(border - low), *(high + border - picture.size)], 0)
    if pad.max() > border - 4:
        pad = np.maximum(pad, int(np.rint(side * 0.3)))
        pixels = np.pad(
            np.float32(picture), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect"
        )
        height, width = pixels.shape[:2]
        y, x = np.ogrid[:height, :width]
        near_x = np.minimum(x / pad[0], (width - 1 - x) / pad[2])
        near_y = np.minimum(y / pad[1], (height - 1 - y) / pad[3])
        depth = np.maximum(1 - near_x, 1 - near_y)[..., None]
        blurred = ndimage.gaussian_filter(pixels, [side * 0.02, side * 0.02, 0])
        pixels += (blurred - pixels) * np.clip(depth * 3 + 1, 0, 1)
        pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
        picture = Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255)), "RGB")
        quad = quad + pad[:2]
    return picture.transform((size, size), Image.QUAD, (quad + 0.5).ravel(), Image.BILINEAR)


def ours(data):
    return ALIGNER.align_file(data)


def best_of(repeat, function, *arguments):
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        result = function(*arguments)
        times.append(time.perf_counter() - begin)
    return result, min(times)


def speed(sizes, repeat):
    """A row for each size: the astronaut, one clear face, as a JPEG file."""
    astronaut = Image.fromarray(data.astronaut())
    ALIGNER.align(astronaut)  # dlib and its models are loaded once, not for each photo
    print("decode, find, landmarks, quad and crop of a JPEG file; milliseconds, best of", repeat)
    print("  pixels  official   ours   times  | without predictor / any set-up | quad differs")
    for size in sizes:
        photo = jpeg(astronaut.resize((size, size), Image.Resampling.BICUBIC))
        clock = {}
        theirs, official_time = best_of(repeat, official, photo, clock)
        try:
            mine, time_ours = best_of(repeat, ours, photo)
        except NoFaceFound:
            mine = None
            time_ours = best_of(repeat, count, photo)[1]
        bare = official_time - clock["predictor"]
        barest = bare - clock["detector"]
        note = "no face, both" if theirs is None and mine is None else ""
        if theirs is not None and mine is not None:
            picture = images.decode(photo)
            quads = [quad_in(picture, box) for box in theirs]  # of the same face, last or not
            note = f"{min(differing(quad, mine[1]) for quad in quads):.2%} of the face"
        print(
            f"  {size:6} {official_time * 1e3:9.0f} {time_ours * 1e3:6.0f} "
            f"{official_time / time_ours:7.1f}  |        {bare / time_ours:5.1f} / "
            f"{barest / time_ours:4.1f}             | {note}"
        )


def quad_in(picture, box):
    return quad_from_landmarks(LANDMARKS.predict(picture, box))


def count(photo):
    return len(detect_all_faces(images.decode(photo)))


def differing(official_quad, quad):
    """The largest corner distance, of the quad's side over 2: about the width of the face."""
    side = np.hypot(*(official_quad[3] - official_quad[0]))
    return np.hypot(*(official_quad - quad).T).max() / (side / 2)


def variants(count):
    """`count` photos (kind, picture, centre of the true face, its width)."""
    rng = np.random.default_rng(0)
    astronaut = Image.fromarray(data.astronaut())
    centre = np.array([FACE[0] + FACE[2], FACE[1] + FACE[3]]) / 2
    kinds = ["rotated", "small face", "cropped", "brightness", "large photo"]
    for i in range(count):
        kind = kinds[i % len(kinds)]
        picture, at, width = astronaut, centre, 90.0
        if kind == "rotated":
            degrees = rng.uniform(-40, 40)
            picture = picture.rotate(degrees, Image.Resampling.BICUBIC)
            turn = np.deg2rad(degrees)
            x, y = at - 255.5
            at = 255.5 + np.array([x * np.cos(turn) + y * np.sin(turn),
                                   y * np.cos(turn) - x * np.sin(turn)])  # fmt: skip
        if kind == "cropped":
            left, top = rng.uniform(0, (170, 70)).astype(int)
            right, bottom = (rng.uniform((270, 172), (512, 512))).astype(int)
            picture, at = picture.crop((left, top, right, bottom)), at - (left, top)
        if kind == "brightness":
            picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.1, 2.5))
            picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.2, 1.5))
        scale = rng.uniform(0.6, 3)
        if kind == "small face":
            scale = rng.uniform(0.4, 1.1)
        if kind == "large photo":
            scale = rng.uniform(2, 4)
        sides = [max(1, round(side * scale)) for side in picture.size]
        picture, at, width = picture.resize(sides, Image.BICUBIC), at * scale, width * scale
        if kind == "small face":  # in a large photo
            canvas = Image.new("RGB", (1400, 1100), (90, 110, 100))
            grain = rng.integers(0, 60, (1100, 1400, 3)).astype(np.uint8)
            canvas = Image.fromarray(np.asarray(canvas) + grain)
            corner = tuple(
                int(rng.integers(0, c - p)) for c, p in zip(canvas.size, sides, strict=True)
            )
            canvas.paste(picture, corner)
            picture, at = canvas, at + corner
        yield kind, picture, at, width


def recall(photos):
    """Official rule beside ours: is a face found, is the one taken the astronaut's, same quad?"""
    rows, apart = {}, []
    detector = import_dlib().get_frontal_face_detector()
    for kind, picture, at, width in variants(photos):
        row = rows.setdefault(kind, Counter())
        row["photos"] += 1
        rectangles = detector(np.asarray(picture), 1)
        boxes = [(r.left(), r.top(), r.right(), r.bottom()) for r in rectangles]
        row["official: any"] += bool(boxes)
        row["official: the last is hers"] += bool(boxes) and hers(boxes[-1], at, width)
        row["official: hers is among them"] += any(hers(box, at, width) for box in boxes)
        found = detect_large_faces(picture)
        row["ours: any"] += bool(found)
        if not found:
            continue
        taken = select_face(found, LARGEST_FACE).box
        row["ours: taken is hers"] += hers(taken, at, width)
        same = [box for box in boxes if hers(box, at, width)]
        if same and hers(taken, at, width):
            row["both hers"] += 1
            row["box identical"] += taken in same
            apart.append(differing(*[quad_in(picture, box) for box in (same[0], taken)]))
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    total = sum(rows.values(), Counter())
    print(f"\n{'':30}" + "".join(f"{kind:>13}" for kind in [*rows, "all"]))
    for name in names:
        cells = [row[name] for row in [*rows.values(), total]]
        print(f"{name:30}" + "".join(f"{cell:13}" for cell in cells))
    apart = np.array(apart)
    print(
        f"quads of the same face: {np.mean(apart == 0):.1%} identical, "
        f"{np.mean(apart <= 0.01):.1%} within 1% of the face, largest {apart.max():.2%}"
    )


def hers(box, at, width):
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    size = box[2] - box[0]
    return bool(np.hypot(*(centre - at)) < 0.5 * width and 0.5 < size / width < 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [160, 320, 512, 1000, 1500, 2000, 3000, 4000]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes)
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    speed(options.sizes, options.repeat)
    if options.photos:
        recall(options.photos)


if __name__ == "__main__":
    main()
