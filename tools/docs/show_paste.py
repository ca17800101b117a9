"""How well a face is pasted back into its photo: a table and docs/paste-back.jpg.

    python -m tools.docs.show_paste [--out docs/paste-back.jpg]

Photos are scikit-image's astronaut, a public-domain portrait: as it is, rotated, enlarged and dark.
Faces are its own crop (a perfect inversion), the crop with shifted colors and softer (like a real
inversion), and that crop with the corners of the mouth raised (like an edit).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from scipy import ndimage
from skimage import data

from domains.training.seams import measure_seam, weight_of_face
from styleclip_server.pipeline.alignment import LARGEST_FACE, select_face
from styleclip_server.pipeline.detection import detect_large_faces
from styleclip_server.pipeline.ffhq_crop import crop_quad, quad_from_landmarks
from styleclip_server.pipeline.landmarks import LandmarkPredictor
from styleclip_server.pipeline.pasting import paste_back

SIZE = 1024  # pixels of the face, as FFHQ's generator synthesizes it
TILE = 300


def load_photos():
    """Return the photos by name."""
    astronaut = Image.fromarray(data.astronaut())
    sides = {scale: (512 * scale, 512 * scale) for scale in (3, 6)}
    return {
        "512 px": astronaut,
        "rotated by 25°": astronaut.resize(sides[3], Image.Resampling.LANCZOS).rotate(
            25, Image.Resampling.BICUBIC
        ),
        "3072 px": astronaut.resize(sides[6], Image.Resampling.LANCZOS),
        "dark": ImageEnhance.Brightness(
            astronaut.resize(sides[3], Image.Resampling.LANCZOS)
        ).enhance(0.45),
    }


def reconstruct(face):
    """Simulate an inversion: slightly shifted colors, a little softer."""
    soft = Image.fromarray(face).filter(ImageFilter.GaussianBlur(SIZE / 350))
    levels = (np.asarray(soft, float) - 128) * 0.95 + 128 + (12, -2, -9)
    return np.rint(levels.clip(0, 255)).astype(np.uint8)


def warp_to_smile(face):
    """Warp the corners of the mouth up and apart."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    move = np.zeros((2, SIZE, SIZE))
    for side in (-1, 1):
        near = np.exp(-((x - side * 0.2) ** 2 + (y - 0.42) ** 2) / 0.012)
        move += near * np.array([0.09, -side * 0.05])[:, None, None] * SIZE / 2
    where = np.mgrid[:SIZE, :SIZE] + move
    return np.stack(
        [ndimage.map_coordinates(face[..., c], where, order=1, mode="nearest") for c in range(3)],
        axis=-1,
    )


def psnr(one, other, where):
    error = np.square(np.asarray(one, float) - np.asarray(other, float))[where].mean()
    return 10 * np.log10(255**2 / error) if error else np.inf


def tile(image, quad):
    """Crop the surroundings of the face to TILE pixels a side."""
    middle, half = quad.mean(axis=0), np.hypot(*(quad[3] - quad[0])) * 0.75
    box = (*(middle - half), *(middle + half))
    part = image.transform(
        (int(2 * half), int(2 * half)), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC
    )
    return part.resize((TILE, TILE), Image.Resampling.LANCZOS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/paste-back.jpg"))
    options = parser.parse_args()
    names = ("photo", "own face put back", "reconstructed", "colors matched", "smile")
    rows, landmarks = load_photos(), LandmarkPredictor()
    sheet = Image.new("RGB", (TILE * len(names), (TILE + 4) * len(rows) + 20), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((column * TILE + 6, 4), name, "black")
    print("photo           own face: PSNR  changed outside | seam: not matched  matched |    smile")
    for row, (name, photo) in enumerate(rows.items()):
        box = select_face(detect_large_faces(photo), LARGEST_FACE).box
        quad = quad_from_landmarks(landmarks.predict(photo, box))
        own = np.asarray(crop_quad(photo, quad, SIZE))
        face, mask = reconstruct(own), weight_of_face(photo, quad)
        results = [
            photo,
            paste_back(own, photo, quad),
            paste_back(face, photo, quad, match_colors=False),
            paste_back(face, photo, quad),
            paste_back(warp_to_smile(face), photo, quad),
        ]
        outside = sum(
            int((np.asarray(p) != np.asarray(photo))[mask == 0].sum()) for p in results[1:]
        )
        seams = [measure_seam(result, photo, mask) for result in results[2:]]
        print(
            f"{name:15} {psnr(results[1], photo, mask > 127):14.1f} dB {outside:16}"
            f" | {seams[0]:19.2f} {seams[1]:8.2f} | {seams[2]:10.2f}"
        )
        for column, result in enumerate(results):
            sheet.paste(tile(result, quad), (column * TILE, 20 + row * (TILE + 4)))
    sheet.thumbnail((1000, 1000))
    sheet.save(options.out, quality=82)
    print("written:", options.out)


if __name__ == "__main__":
    main()
