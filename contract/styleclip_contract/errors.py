"""Named errors that server and client share.

On the wire an error is a Triton status (INVALID_ARG or another) with the message
``"<Name>: <what was wrong, what was expected, what to do>"``. The server's steps raise these
classes, `to_wire` writes the message, and the client parses it with `from_wire`.
"""

from __future__ import annotations

import re


class StyleclipError(Exception):
    """Base class of this project's errors.

    Attributes:
        request_id: the ID of the failed request in the server's log; None if there was none.
    """

    request_id: str | None = None

    def to_wire(self) -> str:
        """Return the message on the wire: class name, colon, message."""
        return f"{type(self).__name__}: {self}"


class InvalidInput(StyleclipError):
    """Base class of errors in the request; the server answers INVALID_ARG."""


class NotAnImage(InvalidInput):
    """The bytes are not an image in a supported format."""


class ImageTruncated(InvalidInput):
    """The image data is truncated or corrupted."""


class ImageTooLarge(InvalidInput):
    """The image has more bytes or pixels than the server accepts."""


class NoFaceFound(InvalidInput):
    """The detector found no face in the photo."""


class FaceIndexOutOfRange(InvalidInput):
    """FACE is not the index of a detected face."""


class EmptyText(InvalidInput):
    """A neutral or target text is empty."""


class TextTooLong(InvalidInput):
    """A text has more than CLIP's 77 tokens, or more characters than the server accepts."""


class SameTexts(InvalidInput):
    """CLIP sees no difference between neutral and target text, so there is no edit direction."""


class InvalidStrength(InvalidInput):
    """The strength α is not finite or exceeds its limit."""


class InvalidThreshold(InvalidInput):
    """The threshold β is not a number from 0 to 1."""


class NoChannelLeft(InvalidInput):
    """β removes every StyleSpace channel; the message gives the largest β that keeps one."""


class EditsMismatch(InvalidInput):
    """The tensors of the edits differ in length, or there are too many edits."""


class UnknownDirection(InvalidInput):
    """The domain has no direction of that name; the message lists the names."""


class UnknownFidelity(InvalidInput):
    """The domain is not served with that FIDELITY; the message lists those that it has."""


class InvalidCrop(InvalidInput):
    """CROP is not a PNG of the domain's crop size, or is missing though needed."""


class InvalidLatent(InvalidInput):
    """W_PLUS has the wrong shape, contains NaN or infinity, or is missing though needed."""


class NoEncoder(InvalidInput):
    """The domain has no encoder, so it edits latents and random seeds, but no photos."""


class InvalidSeed(InvalidInput):
    """SEED or TRUNCATION is out of range."""


class SamplingUnavailable(InvalidInput):
    """The domain has no mapping network, so seeds give no latents."""


class UnknownFormat(InvalidInput):
    """FORMAT is not JPEG, PNG or WEBP, or QUALITY is out of range."""


class UnknownPreset(InvalidInput):
    """The domain has no preset with that title."""


class InvalidRecipe(InvalidInput):
    """The text is not a recipe written by this project."""


class BatchMismatch(InvalidInput):
    """The output folder of a batch belongs to another batch."""


class LandmarksMissing(StyleclipError):
    """The server has no landmark model, so it cannot align photos."""


class ServerUnavailable(StyleclipError):
    """No server answers at the address, or it is not ready."""


class ServerBusy(ServerUnavailable):
    """The server, or a gateway in front of it, has too many queued requests."""


class ClusterUnavailable(StyleclipError):
    """No Ray cluster answers at the address, or it cannot run the job."""


class AccessRefused(StyleclipError):
    """The server, or a gateway in front of it, rejects the token or requires one."""


class DeadlineExceeded(StyleclipError):
    """The server took longer than the client's timeout."""


class ServerError(StyleclipError):
    """The server failed for a reason that has no error class."""


def _classes_by_name(cls: type[StyleclipError]) -> dict[str, type[StyleclipError]]:
    classes = {cls.__name__: cls}
    for subclass in cls.__subclasses__():
        classes |= _classes_by_name(subclass)
    return classes


_NAME_AND_MESSAGE = re.compile(r"\b([A-Z][A-Za-z]+): (.*)", re.DOTALL)


def from_wire(message: str) -> StyleclipError:
    """Parse a server message into the error that it names.

    Triton may prepend its own text (an ensemble names the failing step), so the first *known* name
    is used.

    Returns:
        The named error, or `ServerError` for a message without a known name.
    """
    classes = _classes_by_name(StyleclipError)
    rest = message
    while match := _NAME_AND_MESSAGE.search(rest):
        if match[1] in classes:
            return classes[match[1]](match[2].strip())
        rest = match[2]
    return ServerError(message)
