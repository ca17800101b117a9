"""What the served domain says of itself."""

from __future__ import annotations

from typing import Any

STRENGTH, THRESHOLD = 7.0, 0.25
PRESETS: list[dict[str, Any]] = [
    {"title": "Smile", "target": "a smiling face", "strength": 3.0, "threshold": 0.25},
    {"title": "Beard", "target": "a face with a beard", "strength": 4.0, "threshold": 0.3},
    {
        "title": "Glasses",
        "target": "a face with round glasses",
        "strength": 12.0,
        "threshold": 0.3,
    },
    {"title": "Sunglasses", "target": "a face with sunglasses", "strength": 4.0, "threshold": 0.15},
    {"title": "Blond hair", "target": "a face with blond hair", "strength": 9.0},
    {"title": "Red hair", "target": "a face with red hair", "strength": 18.0, "threshold": 0.3},
    {"title": "Grey hair", "target": "a face with grey hair", "strength": 4.0, "threshold": 0.4},
    {"title": "Curly hair", "target": "a face with curly hair", "strength": 8.0, "threshold": 0.3},
    {"title": "Long hair", "target": "a face with long hair", "strength": 4.0, "threshold": 0.3},
    {"title": "Bald", "target": "a bald face", "strength": 14.0, "threshold": 0.25},
    {
        "title": "Moustache",
        "target": "a face with a moustache",
        "strength": 15.0,
        "threshold": 0.2,
    },
    {"title": "Hat", "target": "a face with a hat", "strength": 5.0, "threshold": 0.2},
    {"title": "Surprised", "target": "a surprised face", "strength": 4.5, "threshold": 0.3},
    {"title": "Sad", "target": "a sad face", "strength": 4.5, "threshold": 0.3},
    {
        "title": "Eyes closed",
        "target": "a face with closed eyes",
        "strength": 8.0,
        "threshold": 0.3,
    },
    {"title": "Old", "target": "an old face", "strength": 7.0, "threshold": 0.4},
]
LICENSE = "Weights: MIT. Trained on heads rendered from MakeHuman's base mesh (CC0)."
DESCRIPTION: dict[str, Any] = {
    "name": "people",
    "title": "rendered people, 256 x 256",
    "align": True,
    "defaults": {"neutral": "a face", "strength": STRENGTH, "threshold": THRESHOLD},
    "presets": PRESETS,
    "default_fidelity": "features",
    "license": LICENSE,
}
