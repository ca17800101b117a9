"""Photos as upright pixels on a device: by libjpeg or Pillow in threads, or by nvJPEG.

Pillow's pixels are those of the official code. For intact JPEGs of three components in YCbCr,
libjpeg-turbo through simplejpeg has the same pixels in less time: it releases the GIL, and writes
to the page-locked memory from which they are copied to the GPU. nvJPEG is faster, but its pixels
differ by some levels, and dlib's landmarks follow: one level in a tenth of the pixels already moves
the crop by about 1% of the face. It gets only complete baseline files. Either decodes only sizes
that the header states and the limits allow. What they refuse goes to Pillow, which names what is
wrong with it.
"""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from styleclip_contract import color_profiles, limits, photo_files
from styleclip_contract.errors import StyleclipError
from styleclip_server.pipeline import images
from styleclip_server.pipeline.image_pyramid import worker_pool

try:
    import simplejpeg
except ImportError:  # the extra `torch` has it; without it Pillow decodes
    simplejpeg = None

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
# Component number, horizontal and vertical sampling; the files of cameras and libraries.
_CHROMA = [(2, 1, 1), (3, 1, 1)]
_LUMA = [(1, 1, 1), (1, 2, 1), (1, 2, 2)]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: (3, H, W) uint8 RGB, upright.
        profile: the ICC profile of its colors.
        full_size: width and height of the upright photo, which may have been decoded reduced.
    """

    pixels: Tensor
    profile: bytes | None
    full_size: tuple[int, int]


@dataclass(frozen=True)
class _Header:
    """What a JPEG file says about its pixels, as stored."""

    width: int
    height: int
    orientation: int
    profile: bytes | None


def decode_photos(
    files: Sequence[bytes], device: torch.device, min_long_side: int, nvjpeg: bool = False
) -> list[Photo | StyleclipError]:
    """Decode photos to `device`.

    Args:
        min_long_side: see `images.decode`.
        nvjpeg: let nvJPEG decode ordinary JPEGs.

    Returns:
        For each file the photo, or the error that `images.decode` raises.
    """
    photos: list[Photo | StyleclipError | None] = [None] * len(files)
    headers = [
        _read_plain_header(data, 2 * min_long_side, baseline=True) if nvjpeg else None
        for data in files
    ]
    plain = [index for index, header in enumerate(headers) if header is not None]
    for index, pixels in zip(plain, _decode_plain([files[i] for i in plain], device), strict=True):
        header = headers[index]
        if header is not None and pixels is not None:
            upright = turn_upright(pixels, header.orientation)
            size = upright.shape[2], upright.shape[1]
            photos[index] = Photo(upright, header.profile, size)
    rest = [index for index, photo in enumerate(photos) if photo is None]
    decode = functools.partial(_decode_on_host, device, min_long_side)
    remaining = [files[index] for index in rest]
    run = worker_pool().map if len(rest) > 1 else map  # alone, a thread would only cost time
    decoded = dict(zip(rest, run(decode, remaining), strict=True))
    return [decoded[index] if photo is None else photo for index, photo in enumerate(photos)]


def _read_plain_header(data: bytes, below: int, baseline: bool = False) -> _Header | None:
    """Read the header of a JPEG file in YCbCr with common subsampling; None for others.

    Args:
        below: what the long side must be below.
        baseline: accept only complete baseline files, which nvJPEG decodes as libjpeg does.
    """
    if len(data) > limits.PHOTO_BYTES or not data.startswith(_START):
        return None
    if baseline and not data.endswith(_END):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            photo_files.check_pixels(*image.size)
            if image.format != "JPEG" or max(image.size) >= below or not _is_plain(image):
                return None
            if baseline and image.info.get("progressive"):
                return None
            profile = color_profiles.read_profile(image, "RGB")
            return _Header(*image.size, photo_files.read_orientation(image), profile)
    except Exception:
        return None


def _is_plain(image: Any) -> bool:
    """Return whether an opened JPEG file is in YCbCr, with common subsampling."""
    luma, *chroma = (tuple(component[:3]) for component in image.layer)
    return (
        image.mode == "RGB"
        and image.bits == 8
        and image.info.get("adobe_transform", 1) == 1
        and luma in _LUMA
        and chroma == _CHROMA
    )


def _decode_plain(files: Sequence[bytes], device: torch.device) -> list[Tensor | None]:
    """Decode files of a `_Header` to (3, H, W) uint8 RGB; None: it failed."""
    if not files:
        return []
    if device.type == "cpu":
        return [_to_tensor(_open_stored(data), device) for data in files]
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    try:
        pixels: list[Tensor | None] = decode_jpeg(encoded, ImageReadMode.RGB, device)
        return pixels
    except RuntimeError as error:
        if len(files) > 1:
            return [pixels for data in files for pixels in _decode_plain([data], device)]
        log.warning("Pillow decodes a photo that nvJPEG does not: %s", error)
        return [None]


def _open_stored(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def turn_upright(pixels: Tensor, orientation: int) -> Tensor:
    """Apply an EXIF orientation to (3, H, W), as `photo_files.UPRIGHT` does."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    flipped = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation)
    return (pixels.flip(flipped) if flipped else pixels).contiguous()


def _decode_on_host(
    device: torch.device, min_long_side: int, data: bytes
) -> Photo | StyleclipError:
    photo = _decode_by_libjpeg(device, min_long_side, data) if simplejpeg else None
    return photo or _decode_by_pillow(device, min_long_side, data)


def _decode_by_libjpeg(device: torch.device, min_long_side: int, data: bytes) -> Photo | None:
    """Decode an intact JPEG file of a `_Header` to Pillow's pixels; None: Pillow has to decode it.

    Args:
        min_long_side: see `images.decode`.
    """
    header = _read_plain_header(data, 2 * min_long_side)
    if header is None:
        return None
    try:
        # simplejpeg multiplies 32-bit sides before it compares them with the length of `buffer`.
        if simplejpeg.decode_jpeg_header(data)[:2] != (header.height, header.width):
            return None
        pixels = _allocate(header.width, header.height, device)
        simplejpeg.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, buffer=pixels.numpy(), strict=True
        )
    except ValueError:  # an error or a warning of libjpeg: a missing end is one
        return None
    upright = _copy_upright(pixels, header.orientation, device)
    return Photo(upright, header.profile, (upright.shape[2], upright.shape[1]))


def _decode_by_pillow(
    device: torch.device, min_long_side: int, data: bytes
) -> Photo | StyleclipError:
    try:
        image = images.decode(data, min_long_side)
    except StyleclipError as error:
        return error
    profile = color_profiles.read_profile(image, "RGB")
    full_size: tuple[int, int] = image.info.get("full_size", image.size)
    return Photo(_to_tensor(image, device), profile, full_size)


def _to_tensor(image: Image.Image, device: torch.device) -> Tensor:
    """Copy an image to a device as (3, H, W)."""
    pixels = _allocate(image.width, image.height, device)
    np.copyto(pixels.numpy(), np.asarray(image))
    return _copy_upright(pixels, 1, device)


def _allocate(width: int, height: int, device: torch.device) -> Tensor:
    """Allocate (H, W, 3) uint8 on the host; page-locked, if a GPU is to read it."""
    pinned = device.type == "cuda"
    return torch.empty(height, width, 3, dtype=torch.uint8, pin_memory=pinned)


def _copy_upright(pixels: Tensor, orientation: int, device: torch.device) -> Tensor:
    """Copy (H, W, 3) of `_allocate` to a device as (3, H, W), and apply an EXIF orientation there.

    The thread does not wait for the copy: PyTorch reuses page-locked memory only after it.
    """
    return turn_upright(pixels.to(device, non_blocking=True).permute(2, 0, 1), orientation)
