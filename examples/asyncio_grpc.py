"""The same calls in an event loop: many edits of one face at once, no threads of one's own.

python examples/asyncio_grpc.py out/
"""

import asyncio
import os
import sys
from pathlib import Path

from styleclip_client import AsyncClient
from styleclip_contract import errors

SERVER = os.environ.get("STYLECLIP_SERVER", "localhost:8001")
PHOTO = Path(__file__).parent.parent / "demo/samples/avatar-2.png"


async def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    async with AsyncClient(SERVER) as client:
        # %% Both at once: what the server draws, and where the photo's face is in its space.
        domain, face = await asyncio.gather(client.domain(), client.invert(PHOTO))

        # %% Every preset of the domain; the server batches what arrives together.
        presets = domain.presets[:4]
        pictures = await asyncio.gather(
            *(client.edit(face.w_plus, preset.edit) for preset in presets)
        )
        for preset, edited in zip(presets, pictures, strict=True):
            edited.save(out / f"{preset.title.lower().replace(' ', '-')}.jpg", overwrite=True)
            print(f"{preset.title}: {len(edited.picture)} bytes")

        # %% A user who waits no longer than a second gets the error, not the wait.
        quick = client.within(1.0, retries=0)
        try:
            await quick.edit(face.w_plus, domain.presets[0].edit)
            print("done within a second")
        except errors.DeadlineExceeded as error:
            print(f"not within a second: {error}")


asyncio.run(main(Path(sys.argv[1])))
