"""The presets and defaults of the avatars domain; `quality.py --choose` chose the numbers."""

STRENGTH, THRESHOLD = 5.0, 0.15
PRESETS = [
    {"title": "Sunglasses", "target": "a face with sunglasses"},
    {"title": "Beard", "target": "a face with a beard"},
    {"title": "Sad", "target": "a sad face"},
    {"title": "Red hair", "target": "a face with red hair"},
    {"title": "Hat", "target": "a face with a hat"},
    {"title": "Closed eyes", "target": "a face with closed eyes"},
    {"title": "Smile", "target": "a smiling face"},
    {"title": "Surprised", "target": "a surprised face"},
    {"title": "Round glasses", "target": "a face with round glasses"},
    {"title": "Moustache", "target": "a face with a moustache"},
    {"title": "Blond hair", "target": "a face with blond hair"},
    {"title": "Afro", "target": "a face with an afro"},
]
LICENSE = (
    "Weights: MIT. Trained on pictures drawn with the avataaars style by Pablo Stanley "
    "(free for personal and commercial use)."
)
