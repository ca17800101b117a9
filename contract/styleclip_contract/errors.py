"""Named errors, the same on the server's wire and in the client.

On the wire an error is a Triton status (INVALID_ARG and others) whose message is
``"<Name>: <what was wrong, what was expected, what to do>"``. The server's steps raise these
classes and `to_wire` writes that line; the client reads it back with `from_wire`.
"""

from __future__ import annotations

import re


class StyleclipError(Exception):
    """Base of every error that this project raises on purpose.

    `request_id` is what the server's log calls the request that failed, where there was one.
    """

    request_id: str | None = None

    def to_wire(self) -> str:
        """The line that travels: class name, colon, message."""
        return f"{type(self).__name__}: {self}"


class InvalidInput(StyleclipError):
    """Base of errors that are the caller's to mend; the server answers INVALID_ARG."""


class NotAnImage(InvalidInput):
    """The bytes are no picture in a supported format."""


class ImageTruncated(InvalidInput):
    """The picture starts well but its data end early or are damaged."""


class ImageTooLarge(InvalidInput):
    """The picture has more bytes or pixels than the server accepts."""


class NoFaceFound(InvalidInput):
    """The detector found no face in the photo."""


class FaceIndexOutOfRange(InvalidInput):
    """FACE names a face that the photo does not have."""


class EmptyText(InvalidInput):
    """A neutral or target text is empty."""


class TextTooLong(InvalidInput):
    """A text has more than CLIP's 77 tokens, or more characters than the server accepts."""


class SameTexts(InvalidInput):
    """Neutral and target text mean the same to CLIP: they give no direction."""


class InvalidStrength(InvalidInput):
    """The strength α is not a finite number, or beyond its limit."""


class InvalidThreshold(InvalidInput):
    """The disentanglement threshold β is not a number from 0 to 1."""


class NoChannelLeft(InvalidInput):
    """β removes every StyleSpace channel; the message tells the largest β that leaves some."""


class EditsMismatch(InvalidInput):
    """NEUTRAL, TARGET, STRENGTH and THRESHOLD differ in length, or there are too many edits."""


class InvalidLatent(InvalidInput):
    """W_PLUS has the wrong shape for this domain or holds NaN or infinity."""


class UnknownFormat(InvalidInput):
    """FORMAT is none of JPEG, PNG, WEBP, or QUALITY is out of range."""


class UnknownPreset(InvalidInput):
    """The domain has no preset of that title."""


class InvalidRecipe(InvalidInput):
    """The text is no recipe that this project wrote."""


class BatchMismatch(InvalidInput):
    """The place for a batch's pictures belongs to another batch."""


class LandmarksMissing(StyleclipError):
    """The server has no landmark model, so it cannot align photos."""


class ServerUnavailable(StyleclipError):
    """No server answers at the address, or it is not ready."""


class ServerBusy(ServerUnavailable):
    """The server, or a gateway before it, has too many requests waiting."""


class ClusterUnavailable(StyleclipError):
    """No Ray cluster answers at the address, or it cannot do the work."""


class AccessRefused(StyleclipError):
    """The server, or a gateway before it, does not accept the token or its absence."""


class DeadlineExceeded(StyleclipError):
    """The server took longer than the client's time-out."""


class ServerError(StyleclipError):
    """The server failed in a way that has no name of its own."""


def _named(cls: type[StyleclipError]) -> dict[str, type[StyleclipError]]:
    found = {cls.__name__: cls}
    for sub in cls.__subclasses__():
        found |= _named(sub)
    return found


_WIRE = re.compile(r"\b([A-Z][A-Za-z]+): (.*)", re.DOTALL)


def from_wire(message: str) -> StyleclipError:
    """The error that a server message names.

    Triton may put words of its own in front (an ensemble names the failing step), so the first
    *known* name counts. A message that names none becomes `ServerError`.
    """
    names = _named(StyleclipError)
    rest = message
    while match := _WIRE.search(rest):
        if match[1] in names:
            return names[match[1]](match[2].strip())
        rest = match[2]
    return ServerError(message)
