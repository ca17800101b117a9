"""One edit at many strengths, as a strip, an α × β grid or a GIF."""

from __future__ import annotations

import functools
import io
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from styleclip_client import parallel_calls
from styleclip_client.async_client import AsyncClient
from styleclip_client.client import Client
from styleclip_client.results import Edited, Inverted
from styleclip_contract import limits
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import InvalidInput, InvalidThreshold, NoChannelLeft

T = TypeVar("T")

QUALITY = 92  # of a sheet in JPEG or WebP
_GAP = 6  # pixels between images
_TEXT_COLOR, _BACKGROUND = (40, 40, 40), (255, 255, 255)
_EMPTY = (235, 235, 235)


class Defaults(NamedTuple):
    """Number of strengths, and side of each image in pixels."""

    steps: int
    size: int


SHEET_DEFAULTS = Defaults(steps=7, size=256)
GIF_DEFAULTS = Defaults(steps=13, size=384)


class Grid(NamedTuple):
    """Columns of strengths and rows of thresholds; a strip has one row, without a label."""

    strengths: list[float]
    thresholds: list[float]
    row_labels: list[str]

    @classmethod
    def for_edit(
        cls,
        edit: Edit,
        low: float | None,
        high: float | None,
        steps: int,
        thresholds: Sequence[float] | None,
        domain: Domain,
    ) -> Grid:
        """Return the grid of `edit`, from `low` to `high`, which `strength_range` replaces if None.

        Raises:
            InvalidThreshold: there are thresholds, but the edit is a direction, which has none.
        """
        if edit.direction and thresholds:
            raise InvalidThreshold(f"{edit.direction} is a direction: it has no thresholds")
        default_low, default_high = strength_range(edit, domain)
        strengths = evenly_spaced(
            default_low if low is None else low, default_high if high is None else high, steps
        )
        if not thresholds:
            return cls(strengths, [edit.threshold], [""])
        return cls(strengths, list(thresholds), [f"beta {threshold:g}" for threshold in thresholds])

    @property
    def values(self) -> list[tuple[float, float]]:
        """(α, β) row by row."""
        return [
            (strength, threshold) for threshold in self.thresholds for strength in self.strengths
        ]

    def check(self, size: int, format: str) -> None:
        """Check that a sweep of images of `size` x `size` pixels can be drawn and encoded.

        Raises:
            InvalidInput: it has too many pixels, or its sheet is too long for `format`.
        """
        if len(self.values) * size**2 > limits.SWEEP_PIXELS:
            raise InvalidInput(
                f"{len(self.values)} images of {size} x {size} pixels are more than the "
                f"{limits.SWEEP_PIXELS / 1e6:g} million that are accepted: lower size, steps or "
                "thresholds"
            )
        width, height = _Layout.of(len(self.strengths), self.row_labels, size).sheet_size
        max_side = limits.MAX_SIDE.get(format)
        if max_side and max(width, height) > max_side:
            raise InvalidInput(
                f"the sheet has {width} x {height} pixels, but {format} supports sides of up to "
                f"{max_side}: request PNG, or lower size, steps or thresholds"
            )

    def encode(self, images: Sequence[Image.Image | None], size: int, format: str) -> bytes:
        """Encode the images of `values` as one sheet."""
        columns = [f"alpha {strength:g}" for strength in self.strengths]  # the font has no Greek
        return encode_sheet(arrange_sheet(images, columns, self.row_labels, side=size), format)


def strength_range(edit: Edit, domain: Domain | None = None) -> tuple[float, float]:
    """Return a range of strengths: from the opposite of `edit` to twice its strength.

    Of a direction it is the range that the domain gives.
    """
    if domain and edit.direction:
        return domain.strengths(edit)
    unit = edit.strength or 5.0
    return _clamp(-unit), _clamp(2 * unit)


def evenly_spaced(low: float, high: float, steps: int) -> list[float]:
    """Return `steps` evenly spaced strengths from `low` to `high`, rounded to 3 decimals."""
    # -0.0 + 0.0 is 0.0, whose label has no minus.
    return [round(low + (high - low) * step / (steps - 1), 3) + 0.0 for step in range(steps)]


def draw(
    client: Client,
    w_plus: ArrayLike | Inverted,
    edits: Sequence[Edit],
    values: Sequence[tuple[float, float]],
    *,
    fidelity: str | None = None,
    concurrency: int = 4,
) -> Iterator[Image.Image | None]:
    """Draw an inverted face with the last of `edits` at each (α, β), the others as they are.

    Args:
        client: the connection to the server.
        w_plus: the inverted face, or its latent, float32 [L, 512].
        edits: the edits, which are summed.
        values: strength α and threshold β of each image.
        fidelity: as in `Client.edit`.
        concurrency: requests at once.

    Yields:
        The images, None where β leaves no channel to change.
    """
    for result in parallel_calls.in_order(
        _calls(client.edit, w_plus, edits, values, fidelity), concurrency
    ):
        yield _image_or_none(result)


async def draw_async(
    client: AsyncClient,
    w_plus: ArrayLike | Inverted,
    edits: Sequence[Edit],
    values: Sequence[tuple[float, float]],
    *,
    fidelity: str | None = None,
    concurrency: int = 4,
) -> AsyncGenerator[Image.Image | None, None]:
    """`draw` for `async for`; leaving the loop early cancels running calls."""
    calls = _calls(client.edit, w_plus, edits, values, fidelity)
    async with aclosing(parallel_calls.in_order_async(calls, concurrency)) as results:
        async for result in results:
            yield _image_or_none(result)


def _calls(
    edit: Callable[..., T],
    w_plus: ArrayLike | Inverted,
    edits: Sequence[Edit],
    values: Sequence[tuple[float, float]],
    fidelity: str | None,
) -> Iterator[Callable[[], T]]:
    """Return a call of `edit` for each (α, β)."""
    *others, swept = edits
    return (
        functools.partial(
            edit,
            w_plus,
            [*others, replace(swept, strength=strength, threshold=threshold)],
            format="PNG",
            fidelity=fidelity,
        )
        for strength, threshold in values
    )


def _image_or_none(result: Edited | parallel_calls.Failure) -> Image.Image | None:
    if isinstance(result, NoChannelLeft):
        return None
    if isinstance(result, Exception):
        raise result
    return result.image()


class _Layout(NamedTuple):
    """Where the images of a sheet begin, and its width and height, in pixels."""

    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    left: int
    top: int
    sheet_size: tuple[int, int]

    @classmethod
    def of(cls, columns: int, rows: Sequence[str], side: int) -> _Layout:
        """Return the layout of `columns` images of `side` x `side` pixels beside each label."""
        font_size = max(11, side // 14)
        font = ImageFont.load_default(font_size)
        top = round(font_size * 1.8)
        left = max(round(font.getlength(row)) for row in rows)
        left += 2 * _GAP if left else 0
        step = side + _GAP
        return cls(font, left, top, (left + step * columns + _GAP, top + step * len(rows)))


def arrange_sheet(
    images: Sequence[Image.Image | None],
    columns: Sequence[str],
    rows: Sequence[str] = ("",),
    *,
    side: int = 256,
) -> Image.Image:
    """Arrange `images` row by row, with the labels `columns` above and `rows` on the left.

    Each image is resized to fit into `side` x `side` pixels. The sheet has the images' metadata.
    """
    font, left, top, sheet_size = _Layout.of(len(columns), rows, side)
    step = side + _GAP
    canvas = Image.new("RGB", sheet_size, _BACKGROUND)
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


def encode_sheet(image: Image.Image, format: str, quality: int = QUALITY) -> bytes:
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


def encode_gif(frames: Sequence[Image.Image], milliseconds: int, side: int) -> bytes:
    """Encode `frames` as an endless GIF that plays forward and backward, with their comment."""
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
    size, filter = (side, side), Image.Resampling.LANCZOS
    resized = ImageOps.pad(image.convert("RGB"), size, filter, _BACKGROUND)
    resized.info = image.info
    return resized


def _clamp(strength: float) -> float:
    return max(-limits.STRENGTH, min(limits.STRENGTH, strength))
