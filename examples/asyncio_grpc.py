"""The same calls with asyncio: many edits of one face at once, without threads.

Usage: python examples/asyncio_grpc.py out/
"""

import asyncio
import os
import sys
from pathlib import Path

from styleclip_client import AsyncClient, errors

SERVER = os.environ.get("STYLECLIP_SERVER", "localhost:8001")
PHOTO = Path(__file__).parent.parent / "demo/samples/people-2.jpg"


async def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    async with AsyncClient(SERVER) as client:
        # %% At once: the domain of the server, and the latent of the photo's face.
        domain, face = await asyncio.gather(client.domain(), client.invert(PHOTO))

        # %% Several presets of the domain; the server batches requests that arrive together.
        presets = domain.presets[:4]
        results = await asyncio.gather(*(client.edit(face, preset.edit) for preset in presets))
        for preset, edited in zip(presets, results, strict=True):
            edited.save(out / f"{preset.title.lower().replace(' ', '-')}.jpg", overwrite=True)
            print(f"{preset.title}: {len(edited.picture)} bytes")

        # %% With a time-out of one second, a slower answer is an error.
        impatient = client.within(1.0, retries=0)
        try:
            await impatient.edit(face, domain.presets[0].edit)
            print("done within a second")
        except errors.DeadlineExceeded as error:
            print(f"not within a second: {error}")


asyncio.run(main(Path(sys.argv[1])))
