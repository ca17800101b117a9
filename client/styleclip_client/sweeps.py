"""One edit at many strengths: as a strip, as an α × β grid, as an animation."""

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

_GAP = 6  # pixels between pictures
_INK, _PAPER = (40, 40, 40), (255, 255, 255)
_EMPTY = (235, 235, 235)


def bounds(edit: Edit) -> tuple[float, float]:
    """A range that shows what `edit` does: from its opposite to twice its strength."""
    unit = edit.strength or 5.0
    return _bounded(-unit), _bounded(2 * unit)


def evenly(low: float, high: float, steps: int) -> list[float]:
    """`steps` strengths from `low` to `high`."""
    return [round(low + (high - low) * step / (steps - 1), 3) for step in range(steps)]


def draw(
    client: Client,
    w_plus: ArrayLike,
    edits: Sequence[Edit],
    values: Sequence[tuple[float, float]],
    *,
    concurrency: int = 4,
) -> Iterator[Image.Image | None]:
    """The last of `edits` at each (α, β) of `values`, the others as they are.

    None where β is so high that nothing is left to change.
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
    pictures: Sequence[Image.Image | None],
    columns: Sequence[str],
    rows: Sequence[str] = ("",),
    *,
    side: int = 256,
) -> Image.Image:
    """`pictures`, row by row, with `columns` above them and `rows` beside them.

    Its info has what the pictures say of their making.
    """
    letters = max(11, side // 14)
    font = ImageFont.load_default(letters)
    high = round(letters * 1.8)
    wide = max(round(font.getlength(row)) for row in rows)
    wide += 2 * _GAP if wide else 0
    step = side + _GAP
    size = (wide + step * len(columns) + _GAP, high + step * len(rows))
    whole = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(whole)
    for index, text in enumerate(columns):
        middle = wide + _GAP + step * index + side // 2
        pen.text((middle, high // 2), text, _INK, font, anchor="mm")
    for index, text in enumerate(rows):
        pen.text((_GAP, high + step * index + side // 2), text, _INK, font, anchor="lm")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, len(columns))
        corner = (wide + _GAP + step * column, high + step * row)
        if picture is None:
            pen.rectangle((corner, (corner[0] + side - 1, corner[1] + side - 1)), _EMPTY)
            centre = (corner[0] + side // 2, corner[1] + side // 2)
            pen.text(centre, "nothing left\nto change", _INK, font, anchor="mm", align="center")
            continue
        whole.info.update(picture.info)
        whole.paste(fitted(picture, side), corner)
    return whole


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """RGB of `side` pixels."""
    resized = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    resized.info = picture.info
    return resized


def encode(image: Image.Image, format: str, quality: int) -> bytes:
    """A sheet as a file that says of itself what its pictures said: made by AI, with what."""
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
    """`frames` forth and back as an endless GIF, with its making in the comment."""
    ready = [
        fitted(frame, side).quantize(dither=Image.Dither.FLOYDSTEINBERG)
        for frame in (*frames, *frames[-2:0:-1])
    ]
    buffer = io.BytesIO()
    ready[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=ready[1:],
        duration=milliseconds,
        loop=0,
        disposal=1,
        comment=frames[-1].info.get("Comment", "").encode(),
    )
    return buffer.getvalue()


def _bounded(strength: float) -> float:
    return max(-limits.STRENGTH, min(limits.STRENGTH, strength))
