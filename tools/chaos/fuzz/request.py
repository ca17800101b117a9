"""What the generators of requests share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

TEXTS = ("a sad face", "", " ", "\0", "a" * 5000, "{}", "%s%n", "\u202e", "😀" * 80, "é" * 300,
         "<|endoftext|>", "&lt;&amp;" * 40, "\ud7ff", "ﷺ" * 90, "'; --", "a\u0301" * 200,
         "../../etc/passwd", "\r\nX: y")  # fmt: skip
NUMBERS = (0.0, 1.0, 5.0, -20.0, 1e-45, 3.4e38, float("nan"), float("inf"), -float("inf"))
SIDES = (-1, 0, 1, 2, 3, 14, 77, 256, 512, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))


@dataclass(frozen=True)
class Request:
    """A request: `send` returns its outcome in a few words."""

    kind: str
    send: Callable[[], str]


def damage(rng: random.Random, content: bytes) -> bytes:
    """Change, remove, repeat or insert some bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 4, 64, 1000)))
        match rng.randrange(4):
            case 0:
                data[at:end] = rng.randbytes(end - at)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end]
            case 3:
                data[at:at] = rng.choice((b"\0" * 9, b"\xff" * 10, b"\x7f", b'"}]', b"\r\n"))
    return bytes(data)
