"""One edit at many strengths: a strip to choose from, and a GIF.

Usage: python examples/sweep.py out/

From a shell: styleclip sweep --help
"""

import os
import sys
from pathlib import Path

from styleclip_client import Client, sweeps

SERVER = os.environ.get("STYLECLIP_SERVER", "localhost:8001")
PHOTO = Path(__file__).parent.parent / "demo/samples/people-4.jpg"
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

with Client(SERVER) as client:
    edit = client.domain().edit("a face with a beard")
    face = client.invert(PHOTO)

    # %% From the opposite of the edit to twice its strength.
    strengths = sweeps.evenly_spaced(*sweeps.strength_range(edit), 5)
    values = [(strength, edit.threshold) for strength in strengths]
    images = list(sweeps.draw(client, face, [edit], values))
    strip = sweeps.arrange_sheet(images, [f"alpha {strength:g}" for strength in strengths])
    (out / "strip.png").write_bytes(sweeps.encode_sheet(strip, "PNG"))

    # %% The same as a GIF, without the values where β leaves nothing to change.
    frames = [image for image in images if image is not None]
    (out / "sweep.gif").write_bytes(sweeps.encode_gif(frames, milliseconds=120, side=256))
    print(f"{len(frames)} images, alpha {strengths[0]:g} to {strengths[-1]:g}")
