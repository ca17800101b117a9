"""Fields of edit requests to the web API, and readers of what it returns."""

import io
import json

from PIL import Image

from paths import AVATAR

SAD = {"target": "a sad face"}
PHOTO = AVATAR.read_bytes()


def photo(name="me.png"):
    return ("photo", (name, PHOTO))


def image_of(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def events(response):
    """The events of a stream: their names and their data."""
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    return [
        (block[0].removeprefix("event: "), json.loads(block[1].removeprefix("data: ")))
        for block in blocks
        if not block[0].startswith(":")
    ]
