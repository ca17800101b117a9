"""ICC profiles built byte by byte (ICC.1:2001-04); Pillow only creates sRGB and Lab."""

import struct


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(space: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"test profile\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(12 + 67)
    white = b"XYZ \0\0\0\0" + _fixed(0.9642, 1, 0.8249)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0free\0", b"wtpt": white} | tags
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        table += tag + struct.pack(">II", start + len(data), len(content))
        data += content
    connection = b"Lab " if b"A2B0" in tags else b"XYZ "
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"test", 0x02100000, kind, space,
                         connection)  # fmt: skip
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += _fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + table + data


def wide_rgb() -> bytes:
    """Build a profile with Display P3's primaries and a gamma of 2.2."""
    red, green, blue = (0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)
    tags = {}
    for letter, primary in zip(b"rgb", (red, green, blue), strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*primary)
        tags[bytes([letter]) + b"TRC"] = _curve(2.2)
    return _profile(b"RGB ", b"mntr", tags)


def linear_gray() -> bytes:
    return _profile(b"GRAY", b"mntr", {b"kTRC": _curve(1)})


def gray_inks() -> bytes:
    """Build a CMYK profile with four gray inks; each full ink lowers L* by a quarter."""
    grid = b"".join(
        bytes([round(255 * (4 - bin(corner).count("1")) / 4), 128, 128]) for corner in range(16)
    )
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"CMYK", b"prtr", {b"A2B0": table + 4 * ramp + grid + 3 * ramp})
