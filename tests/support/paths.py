"""Folders and files of the repository that tests read."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "demo/samples"
AVATAR = SAMPLES / "avatar-1.png"
PERSON = SAMPLES / "people-1.jpg"
GOLDEN = Path(os.environ.get("STYLECLIP_GOLDEN") or ROOT / "tests/golden")
