"""Which media type a response has: the one that the client likes best (RFC 9110, Accept)."""

from __future__ import annotations

from collections.abc import Sequence

import mimeparse

from styleclip_contract import limits
from styleclip_contract.errors import UnknownFormat
from styleclip_server.api.problems import NotAcceptable

JSON, ZIP, MIXED = "application/json", "application/zip", "multipart/mixed"
EVENTS = "text/event-stream"
IMAGES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
FORMATS = {media_type: name for name, media_type in IMAGES.items()}


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """Return the best of `offers`, which are ordered by our preference.

    Raises:
        NotAcceptable: the client accepts none of them.
    """
    try:
        # mimeparse prefers the last of equals.
        best = mimeparse.best_match(list(reversed(offers)), accept or "*/*")
    except ValueError as error:
        raise NotAcceptable(f"the header Accept is not readable ({error})") from error
    if not best:
        raise NotAcceptable(
            f"the client accepts {(accept or '')[:200]!r}; the response can be {', '.join(offers)}"
        )
    return str(best)


def image_format(media_type: str, types: Sequence[str]) -> str:
    """Return the format of a response's images, which may be in an archive or JSON.

    Args:
        media_type: of the response.
        types: media types that the images may have, the preferred one first.
    """
    return FORMATS[media_type if media_type in FORMATS else types[0]]


def image_types(format: str | None, formats: Sequence[str] = limits.FORMATS) -> list[str]:
    """Return the media types of images: that of `format` if it is given, else those of `formats`.

    Raises:
        UnknownFormat: `format` is not one of `formats`.
    """
    if format is None:
        return [IMAGES[name] for name in formats]
    if format.upper() not in formats:
        known = ", ".join(name.lower() for name in formats)
        raise UnknownFormat(f"the format is {format[:50]!r}; {known} are known")
    return [IMAGES[format.upper()]]
