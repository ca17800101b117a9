"""The output file: the synthesized face, alone or pasted into the photo, with its metadata."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract import jpeg_tensor, photo_files
from styleclip_contract.errors import InvalidInput
from styleclip_contract.limits import DEFAULT_FORMAT, DEFAULT_QUALITY
from styleclip_server.pipeline import images, metadata
from styleclip_server.pipeline.credentials import Signer
from styleclip_server.pipeline.pasting import paste_back


def compose(
    face: NDArray[np.uint8],
    photo: Image.Image | None = None,
    quad: NDArray[np.floating] | None = None,
    paste: bool = False,
    format: str = DEFAULT_FORMAT,
    quality: int = DEFAULT_QUALITY,
    *,
    domain: str = "",
    texts: str = "",
    marked: bool = True,
    signer: Signer | None = None,
) -> bytes:
    """Encode the face, or with `paste` the photo with the face pasted back.

    Args:
        face: (H, W, 3) uint8 RGB; for JPEG without `paste` also a `jpeg_tensor`.
        photo: upright RGB from `images.decode`; its EXIF data and ICC profile are kept. Only used
            with `paste`.
        quad: (4, 2), the corners of the face's crop in the photo. Only used with `paste`.
        format: JPEG, PNG or WEBP.
        quality: 1 to 100, of JPEG and WEBP.
        domain, texts: the domain and the edits, to be named in the file.
        marked: state in the file that AI edited it.
        signer: signs that statement.

    Raises:
        UnknownFormat: another format or quality.
        ImageTooLarge: the face exceeds `limits.PHOTO_PIXELS`.
        NotAnImage: the face is empty, or its bytes are not a JPEG file.
        InvalidInput: a JPEG file where pixels are needed, `paste` without photo or quad, or an
            unusable quad.
    """
    name = images.check_encoding(format, quality)  # before any work
    jpeg = jpeg_tensor.unpack(face)
    if jpeg is None:
        photo_files.check_pixels(face.shape[1], face.shape[0])
    elif paste or name != "JPEG":
        raise InvalidInput("IMAGE is a JPEG file: send its pixels, or FORMAT JPEG without PASTE")
    result: NDArray[np.uint8] | Image.Image = face
    if not paste:
        photo = None
    elif photo is None or quad is None:
        raise InvalidInput("PASTE needs PHOTO and QUAD: send both, or PASTE false")
    else:
        result = paste_back(face, photo, quad)
    provenance = metadata.describe_edit(domain, texts, paste) if marked else None
    extra = metadata.collect(photo, provenance)
    if jpeg is None:
        data = images.encode(result, format, quality, extra)
    else:
        data = metadata.insert_into_jpeg(jpeg, extra)
    return signer.sign(data, format, provenance) if signer and provenance else data
