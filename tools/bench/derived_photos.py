"""Photos derived from scikit-image's astronaut, a public-domain portrait, with her face's place."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

_ASTRONAUT = Path(__file__).parents[2] / "tests/golden/align/astronaut.png"
FACE = (175, 76, 265, 166)  # the astronaut's, in the photo of 512 pixels


def load_astronaut():
    """Return the portrait, 512 x 512 RGB."""
    with Image.open(_ASTRONAUT) as image:
        return image.convert("RGB")


@dataclass(frozen=True)
class Variant:
    """A photo derived from the astronaut, and where her face is in it."""

    kind: str
    image: Image.Image
    center: np.ndarray
    width: float

    def contains(self, box):
        """Return whether `box` is a detection of the astronaut's face."""
        center = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        near = np.hypot(*(center - self.center)) < 0.5 * self.width
        return bool(near and 0.5 < (box[2] - box[0]) / self.width < 2)


def generate_photos(count, seed=0):
    """Yield `count` photos, of each kind in turn."""
    rng = np.random.default_rng(seed)
    astronaut = load_astronaut()
    face_center = np.array([FACE[0] + FACE[2], FACE[1] + FACE[3]]) / 2
    kinds = ["rotated", "small face", "cropped", "brightness", "large photo"]
    for i in range(count):
        kind = kinds[i % len(kinds)]
        image, center, width = astronaut, face_center, 90.0
        if kind == "rotated":
            image, center = rotate(image, center, rng.uniform(-40, 40))
        if kind == "cropped":
            left, top = rng.uniform(0, (170, 70)).astype(int)
            right, bottom = (rng.uniform((270, 172), (512, 512))).astype(int)
            image, center = image.crop((left, top, right, bottom)), center - (left, top)
        if kind == "brightness":
            image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.1, 2.5))
            image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.2, 1.5))
        scale = rng.uniform(0.6, 3)
        if kind == "small face":
            scale = rng.uniform(0.4, 1.1)
        if kind == "large photo":
            scale = rng.uniform(2, 4)
        size = [max(1, round(side * scale)) for side in image.size]
        image, center, width = image.resize(size, Image.BICUBIC), center * scale, width * scale
        if kind == "small face":
            image, corner = paste_into_noise(image, rng)
            center = center + corner
        yield Variant(kind, image, center, width)


def rotate(image, point, degrees):
    """Rotate the photo of 512 pixels and a point in it."""
    angle = np.deg2rad(degrees)
    x, y = point - 255.5
    rotated = (x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))
    return image.rotate(degrees, Image.Resampling.BICUBIC), 255.5 + np.array(rotated)


def paste_into_noise(image, rng):
    """Paste the image at a random place of a large noisy photo, and return that place too."""
    canvas = Image.new("RGB", (1400, 1100), (90, 110, 100))
    noise = rng.integers(0, 60, (1100, 1400, 3)).astype(np.uint8)
    canvas = Image.fromarray(np.asarray(canvas) + noise)
    corner = tuple(
        int(rng.integers(0, c - p)) for c, p in zip(canvas.size, image.size, strict=True)
    )
    canvas.paste(image, corner)
    return canvas, corner
