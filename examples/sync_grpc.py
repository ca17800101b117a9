"""A photo and two texts in, an image out: the client as most programs use it.

Usage: python examples/sync_grpc.py out/
"""

import os
import sys
from pathlib import Path

from styleclip_client import Client, Edit

SERVER = os.environ.get("STYLECLIP_SERVER", "localhost:8001")
PHOTO = Path(__file__).parent.parent / "demo/samples/people-1.jpg"
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

# %% One call does it all: find the face, invert it, edit it, draw it.
with Client(SERVER) as client:
    domain = client.domain()
    print(f"{SERVER} draws {domain.title}")
    edited = client.edit_photo(PHOTO, domain.edit("a face with sunglasses"))
    edited.save(out / "sunglasses.jpg", overwrite=True)
    print(f"sunglasses: {edited.channels[0]} channels moved")

    # %% Inversion is the slow part. Once done, every edit of the same face is fast.
    face = client.invert(PHOTO)
    for strength in (2, 4, 6):
        sad = domain.edit("a sad face", strength=strength)
        client.edit(face, sad).save(out / f"sad-{strength}.jpg", overwrite=True)

    # %% Several edits are summed. An `Edit` is complete, or comes from a default or a preset.
    both = [Edit("a face", "a sad face", strength=4, threshold=0.15), domain.preset("Beard")]
    image = client.edit(face, both, format="PNG").image()  # a PIL image
    print(f"both: {image.width} x {image.height} pixels")
    image.save(out / "both.png")
