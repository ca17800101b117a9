"""Many photos: several at once, results in order, and a bad photo fails alone.

Usage: python examples/many_photos.py out/

For folders there is a command that can be interrupted and resumed: styleclip batch --help
"""

import os
import sys
from pathlib import Path

from styleclip_client import Client, Edited

SERVER = os.environ.get("STYLECLIP_SERVER", "localhost:8001")
SAMPLES = Path(__file__).parent.parent / "demo/samples"
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

photos = [*sorted(SAMPLES.glob("people-*.jpg"))[:4], Path(__file__), SAMPLES / "missing.jpg"]

with Client(SERVER) as client:
    smile = client.domain().preset("Smile")
    # Photos are read as they are needed, so they may come from an endless generator.
    for photo, answer in zip(photos, client.edit_many(photos, smile, concurrency=4), strict=True):
        if isinstance(answer, Edited):
            answer.save(out / f"{photo.stem}.jpg", overwrite=True)
            print(f"{photo.name}: {len(answer.picture)} bytes")
        else:  # the error that this photo failed with
            print(f"{photo.name}: {type(answer).__name__}: {answer}")
