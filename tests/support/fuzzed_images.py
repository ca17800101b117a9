"""Malformed images, derived from real files by a seeded fuzzer; run as a script, it decodes them.

    python tests/support/fuzzed_images.py PHOTO.png COUNT SEED

Seed files have EXIF, XMP and ICC profiles, so that their parsers are tested too. Every input must
give an image or a named error. The process has hard limits of memory and CPU time. It prints a line
of JSON: the number of each outcome, and the peak memory.
"""

import collections
import io
import json
import random
import re
import resource
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

import icc_profiles
from styleclip_contract.errors import StyleclipError
from styleclip_server.pipeline import composition, images

MEMORY = 2 * 2**30  # bytes of address space, libraries included
SECONDS = 120  # CPU time for all inputs
SEED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")


def seed_files(photo: Image.Image) -> list[bytes]:
    """Encode a photo in every format and in several modes."""
    photo = photo.resize((120, 96))
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif[0x8769] = {0x9003: "2024:05:06 07:08:09", 0x829A: 0.01}
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}
    extra = {
        "exif": exif.tobytes(),
        "icc_profile": icc_profiles.wide_rgb(),
        "xmp": b"<x:xmpmeta/>",
    }
    deep = Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257)
    seeds = [
        *((photo, name, extra) for name in SEED_FORMATS if name in Image.SAVE),
        (photo, "JPEG", {"progressive": True, "quality": 40} | extra),
        (photo.convert("CMYK"), "JPEG", {"icc_profile": icc_profiles.gray_inks()}),
        (photo.convert("CMYK"), "TIFF", {"icc_profile": icc_profiles.gray_inks()}),
        (photo.convert("L"), "PNG", {"icc_profile": icc_profiles.linear_gray()}),
        (photo.quantize(32), "PNG", {"transparency": 3}),
        (photo.convert("RGBA"), "WEBP", {"lossless": True}),
        (photo.convert("RGBA"), "TIFF", {"compression": "tiff_lzw"}),
        (photo, "TIFF", {"compression": "jpeg"}),
        (photo, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (deep, "PNG", {}),
        (deep, "TIFF", {}),
        (photo, "GIF", {"save_all": True, "append_images": [photo.rotate(90)]}),
        (photo, "WEBP", {"save_all": True, "append_images": [photo.rotate(90)]}),
    ]
    files = []
    for image, name, options in seeds:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        files.append(buffer.getvalue())
    return files


def malformed(data: bytes, rng: random.Random) -> bytes:
    """Corrupt `data` in one to four places, as broken disks and networks do."""
    corrupted = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        # Half of the faults are in the header, which contains sizes, types and tables.
        reach = len(corrupted) if rng.random() < 0.5 else min(len(corrupted), 200)
        at = rng.randrange(max(reach, 1))
        length = min(rng.choice((1, 2, 4, 16, 200)), len(corrupted) - at)
        kind = rng.randrange(8)
        if kind == 0 and len(corrupted) > 8:
            del corrupted[max(at, 8) :]
        elif kind == 1:
            del corrupted[at : at + length]
        elif kind == 2:
            corrupted[at:at] = rng.randbytes(length)
        elif kind == 3:
            corrupted[at : at + length] = bytes(length)
        elif kind == 4:
            corrupted[at : at + length] = b"\xff" * length
        elif kind == 5:
            corrupted[at:at] = corrupted[at : at + length]
        elif kind == 6:  # a number of two or four bytes: a size, an offset, a count
            number = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
            width, order = rng.choice((2, 4)), rng.choice(("big", "little"))
            corrupted[at : at + width] = (number % 256**width).to_bytes(width, order)
        elif length:
            corrupted[at] ^= 1 << rng.randrange(8)
    return bytes(corrupted)


def outcome(data: bytes) -> str:
    """Return "decoded" for an image that was decoded and encoded again, else the error's name."""
    try:
        image = images.decode(data)
    except StyleclipError as error:
        return type(error).__name__
    assert type(image) is Image.Image and image.mode == "RGB"
    face = np.zeros((32, 32, 3), np.uint8)
    side = min(image.size)
    quad = np.array([(0, 0), (0, side), (side, side), (side, 0)]) - 0.5
    for name in ("JPEG", "PNG", "WEBP"):
        composition.compose(face, image, quad, True, name)
    return "decoded"


def main() -> None:
    path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    warnings.simplefilter("ignore")  # Pillow warns of corrupted files
    rng = random.Random(seed)
    files = seed_files(Image.open(Path(path)).convert("RGB"))
    for file in files:
        assert outcome(file) == "decoded"
    outcomes = collections.Counter(outcome(malformed(rng.choice(files), rng)) for _ in range(count))
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024
    print(json.dumps({"outcomes": outcomes, "peak_mib": peak}))


if __name__ == "__main__":
    main()
