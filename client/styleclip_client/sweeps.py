"""One edit at many strengths, as a strip, an α × β grid or a GIF."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from styleclip_client import parallel_calls
from styleclip_client.client import Client
from styleclip_contract import limits
from styleclip_contract.edits import Edit
from styleclip_contract.errors import NoChannelLeft

_GAP = 6  # pixels between images
_TEXT_COLOR, _BACKGROUND = (40, 40, 40), (255, 255, 255)
_EMPTY = (235, 235, 235)


def bounds(edit: Edit) -> tuple[float, float]:
    """Return a range of strengths: from the opposite of `edit` to twice its strength."""
    unit = edit.strength or 5.0
    return _clamp(-unit), _clamp(2 * unit)


def evenly(low: float, high: float, steps: int) -> list[float]:
    """Return `steps` evenly spaced strengths from `low` to `high`, rounded to 3 decimals."""
    return [round(low + (high - low) * step / (steps - 1), 3) for step in range(steps)]


def draw(
    client: Client,
    w_plus: ArrayLike,
    edits: Sequence[Edit],
    values: Sequence[tuple[float, float]],
    *,
    concurrency: int = 4,
) -> Iterator[Image.Image | None]:
    """Draw an inverted face with the last of `edits` at each (α, β), the others as they are.

    Args:
        client: the connection to the server.
        w_plus: the inverted face, float32 [L, 512].
        edits: the edits, which are summed.
        values: strength α and threshold β of each image.
        concurrency: requests at once.

    Yields:
        The images, None where β leaves no channel to change.
    """
    *others, swept = edits
    calls = (
        functools.partial(
            client.edit,
            w_plus,
            [*others, replace(swept, strength=strength, threshold=threshold)],
            format="PNG",
        )
        for strength, threshold in values
    )
    for answer in parallel_calls.in_order(calls, concurrency):
        if isinstance(answer, NoChannelLeft):
            yield None
        elif isinstance(answer, Exception):
            raise answer
        else:
            yield answer.image()


def sheet(
    images: Sequence[Image.Image | None],
    columns: Sequence[str],
    rows: Sequence[str] = ("",),
    *,
    side: int = 256,
) -> Image.Image:
    """Arrange `images` row by row, with the labels `columns` above and `rows` on the left.

    Each image is resized to `side` x `side` pixels. The sheet has the metadata of the images.
    """
    font_size = max(11, side // 14)
    font = ImageFont.load_default(font_size)
    top = round(font_size * 1.8)
    left = max(round(font.getlength(row)) for row in rows)
    left += 2 * _GAP if left else 0
    step = side + _GAP
    size = (left + step * len(columns) + _GAP, top + step * len(rows))
    canvas = Image.new("RGB", size, _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for index, text in enumerate(columns):
        middle = left + _GAP + step * index + side // 2
        pen.text((middle, top // 2), text, _TEXT_COLOR, font, anchor="mm")
    for index, text in enumerate(rows):
        pen.text((_GAP, top + step * index + side // 2), text, _TEXT_COLOR, font, anchor="lm")
    for index, image in enumerate(images):
        row, column = divmod(index, len(columns))
        corner = (left + _GAP + step * column, top + step * row)
        if image is None:
            pen.rectangle((corner, (corner[0] + side - 1, corner[1] + side - 1)), _EMPTY)
            center = (corner[0] + side // 2, corner[1] + side // 2)
            pen.text(
                center, "nothing left\nto change", _TEXT_COLOR, font, anchor="mm", align="center"
            )
            continue
        canvas.info.update(image.info)
        canvas.paste(_resized(image, side), corner)
    return canvas


def encode(image: Image.Image, format: str, quality: int) -> bytes:
    """Encode a sheet with the metadata of its images, which says that AI edited them and how."""
    options: dict[str, Any] = {} if format == "PNG" else {"quality": quality}
    exif, xmp = image.info.get("exif"), image.info.get("XML:com.adobe.xmp")
    if exif:
        options["exif"] = exif
    if format == "PNG":
        text = PngImagePlugin.PngInfo()
        for name in ("Software", "Comment"):
            if name in image.info:
                text.add_text(name, image.info[name])
        if xmp:
            text.add_itxt("XML:com.adobe.xmp", xmp)
        options["pnginfo"] = text
    elif xmp:
        options["xmp"] = xmp.encode()
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def animation(frames: Sequence[Image.Image], milliseconds: int, side: int) -> bytes:
    """Encode `frames` as an endless GIF that plays forth and back, with their comment."""
    palette_frames = [
        _resized(frame, side).quantize(dither=Image.Dither.FLOYDSTEINBERG)
        for frame in (*frames, *frames[-2:0:-1])
    ]
    buffer = io.BytesIO()
    palette_frames[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=palette_frames[1:],
        duration=milliseconds,
        loop=0,
        disposal=1,
        comment=frames[-1].info.get("Comment", "").encode(),
    )
    return buffer.getvalue()


def _resized(image: Image.Image, side: int) -> Image.Image:
    resized = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    resized.info = image.info
    return resized


def _clamp(strength: float) -> float:
    return max(-limits.STRENGTH, min(limits.STRENGTH, strength))
