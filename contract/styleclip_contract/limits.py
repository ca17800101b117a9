"""What the server accepts, in one place: the steps enforce it, the client refuses early.

A step checks all of these again: a client of another make may send anything.
"""

from __future__ import annotations

PHOTO_BYTES = 32 * 2**20  # an encoded photo
PHOTO_PIXELS = 50_000_000  # width x height once decoded
TEXT_CHARACTERS = 300  # a text; CLIP's 77 tokens seldom hold more
EDITS = 16  # edits summed in one request
STRENGTH = 20.0  # |α|; StyleCLIP's own slider ends at 10
FORMATS = ("JPEG", "PNG", "WEBP")
QUALITY = (1, 100)  # JPEG and WebP
ANSWER_BYTES = 256 * 2**20  # what the client takes; the largest PNG has less
