"""What the served domain says of itself."""

from __future__ import annotations

from typing import Any

STRENGTH, THRESHOLD = 5.0, 0.2
PRESETS: list[dict[str, Any]] = [
    {"title": "Smile", "target": "a smiling face", "strength": 4.0, "threshold": 0.25},
    {"title": "Beard", "target": "a face with a beard", "strength": 3.0},
    {"title": "Glasses", "target": "a face with round glasses"},
    {"title": "Sunglasses", "target": "a face with sunglasses", "strength": 9.0, "threshold": 0.15},
    {"title": "Blond hair", "target": "a face with blond hair", "strength": 8.0, "threshold": 0.15},
    {"title": "Red hair", "target": "a face with red hair"},
    {"title": "Curly hair", "target": "a face with curly hair"},
    {"title": "Bald", "target": "a bald face", "strength": 8.0, "threshold": 0.15},
    {"title": "Hat", "target": "a face with a hat"},
    {"title": "Surprised", "target": "a surprised face", "strength": 6.0, "threshold": 0.15},
    {"title": "Sad", "target": "a sad face"},
    {"title": "Old", "target": "an old face"},
]
LICENSE = "Weights: MIT. Trained on heads rendered from MakeHuman's base mesh (CC0)."
DESCRIPTION: dict[str, Any] = {
    "name": "people",
    "title": "rendered people, 256 x 256",
    "align": True,
    "defaults": {"neutral": "a face", "strength": STRENGTH, "threshold": THRESHOLD},
    "presets": PRESETS,
    "license": LICENSE,
}
