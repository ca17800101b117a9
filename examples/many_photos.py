"""Many photos: several at once, in their order, and one bad photo costs no other.

    python examples/many_photos.py out/

For folders there is a command that can be interrupted and goes on: styleclip batch --help
"""

import os
import sys
from pathlib import Path

from styleclip_client import Client, Edited

SERVER = os.environ.get("STYLECLIP_SERVER", "localhost:8001")
SAMPLES = Path(__file__).parent.parent / "demo/samples"
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

photos = [*sorted(SAMPLES.glob("*.png"))[:4], Path(__file__), SAMPLES / "missing.jpg"]

with Client(SERVER) as client:
    smile = client.domain().preset("Smile")
    # Photos are drawn only as there is room, so this may as well be a generator without an end.
    for photo, answer in zip(photos, client.edit_many(photos, smile, concurrency=4), strict=True):
        if isinstance(answer, Edited):
            answer.save(out / f"{photo.stem}.jpg", overwrite=True)
            print(f"{photo.name}: {len(answer.picture)} bytes")
        else:  # the error that kept this one from it
            print(f"{photo.name}: {type(answer).__name__}: {answer}")
