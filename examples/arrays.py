"""NumPy in, NumPy out, without an encoded image; shared memory where the server allows it.

Usage: python examples/arrays.py out/

Shared memory needs the server on the same host: make serve ARGS=--allow-shared-memory
"""

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from styleclip_client import Client, errors

SERVER = os.environ.get("STYLECLIP_SERVER", "localhost:8001")
PHOTO = Path(__file__).parent.parent / "demo/samples/people-5.jpg"
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

# %% Any uint8 array of [height, width], [height, width, 3] or [height, width, 4] is a photo.
pixels = np.asarray(Image.open(PHOTO).convert("RGB"))[:, ::-1]
with Client(SERVER) as client:
    hat = client.domain().edit("a face with a hat")
    face = client.invert(pixels)
    before = client.draw(face.w_plus)
    after = client.draw(face.w_plus, hat)
    moved = np.abs(after.astype(int) - before).max(axis=-1) > 16
    print(f"{after.shape} {after.dtype}; {moved.mean():.0%} of the pixels changed")
    Image.fromarray(np.hstack([before, after])).save(out / "before-and-after.png")

# %% The same pixels in memory that client and server share, so that they are not sent.
try:
    with Client(SERVER, shared_memory=True) as client:
        print("shared memory, the same:", np.array_equal(client.draw(face.w_plus, hat), after))
except errors.AccessRefused as error:
    print(f"no shared memory: {error}")
