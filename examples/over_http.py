"""HTTP in place of gRPC, through a gateway if need be, and errors by name.

Usage: python examples/over_http.py out/
"""

import os
import sys
from pathlib import Path

from styleclip_client import Client, errors

SERVER = os.environ.get("STYLECLIP_SERVER", "http://localhost:8000")
PHOTO = Path(__file__).parent.parent / "demo/samples/people-3.jpg"
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

# %% Only the address differs. "https://…" is TLS; the token is sent with each request.
client = Client(SERVER, timeout=30, retries=5, token=os.environ.get("STYLECLIP_TOKEN"))

# %% What does it serve, and is it ready?
status = client.status()
print(f"{status.url}: Triton {status.version}, {'ready' if status.ready else 'not ready'}")
for model in status.models:
    print(f"  {model.name} {model.version} {model.state}")

# %% Bytes in, bytes out: what a web service needs.
red = client.domain().edit("a face with red hair")
edited = client.edit_photo(PHOTO.read_bytes(), red, format="WEBP", quality=90)
(out / "red-hair.webp").write_bytes(edited.picture)

# %% Errors have names, the same as on the server. InvalidInput is an error of the caller.
try:
    client.edit_photo(b"this is no image", red)
except errors.NotAnImage as error:
    print(f"not an image: {error}")
try:
    client.edit_photo(PHOTO, client.domain().edit("a sad face", threshold=1.0))
except errors.InvalidInput as error:
    print(f"{type(error).__name__}: {error}")

# %% A server that does not answer is retried, with growing pauses, before the error.
try:
    Client("http://localhost:9", timeout=2).domain()
except errors.ServerUnavailable as error:
    print(f"unavailable: {error}")

client.close()
