"""What the served domain says of itself."""

from __future__ import annotations

from typing import Any

STRENGTH, THRESHOLD = 7.0, 0.25
PRESETS: list[dict[str, Any]] = [
    {"title": "Smile", "target": "a smiling face", "strength": 2.6, "threshold": 0.37},
    {"title": "Beard", "target": "a face with a beard", "strength": 4.0, "threshold": 0.37},
    {"title": "Glasses", "target": "a face with round glasses", "strength": 10.0, "threshold": 0.3},
    {"title": "Sunglasses", "target": "a face with sunglasses", "strength": 4.0, "threshold": 0.12},
    {"title": "Blond hair", "target": "a face with blond hair", "strength": 8.5, "threshold": 0.25},
    {"title": "Red hair", "target": "a face with red hair", "strength": 18.0, "threshold": 0.3},
    {"title": "Black hair", "target": "a face with black hair", "strength": 6.0, "threshold": 0.37},
    {"title": "Grey hair", "target": "a face with grey hair", "strength": 4.0, "threshold": 0.5},
    {"title": "Curly hair", "target": "a face with curly hair", "strength": 6.8, "threshold": 0.37},
    {"title": "Long hair", "target": "a face with long hair", "strength": 3.4, "threshold": 0.45},
    {"title": "Bald", "target": "a bald face", "strength": 12.0, "threshold": 0.2},
    {"title": "Moustache", "target": "a face with a moustache", "strength": 10.5, "threshold": 0.2},
    {"title": "Hat", "target": "a face with a hat", "strength": 3.6, "threshold": 0.2},
    {"title": "Surprised", "target": "a surprised face", "strength": 5.4, "threshold": 0.37},
    {"title": "Laugh", "target": "a laughing face", "strength": 3.6, "threshold": 0.37},
    {"title": "Sad", "target": "a sad face", "strength": 5.4, "threshold": 0.45},
    {"title": "Angry", "target": "an angry face", "strength": 5.0, "threshold": 0.2},
    {
        "title": "Eyes closed",
        "target": "a face with closed eyes",
        "strength": 8.0,
        "threshold": 0.3,
    },
    {"title": "Old", "target": "an old face", "strength": 5.0, "threshold": 0.5},
    {"title": "Young", "target": "a young face", "strength": 5.0, "threshold": 0.37},
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
