"""What a file looks like, and the one-line errors that say it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from styleclip_export import file_kinds
from styleclip_export.checkpoints import torch_file, zip_archive
from styleclip_export.checkpoints.unpickler import Refused
from styleclip_export.errors import CheckpointError

TORCH = (zip_archive.START, b"\x80")  # what PyTorch's files begin with
LANDMARKS = bytes.fromhex("010181888101")  # dlib: version 1, then a matrix of 136 x 1
_OLD_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
_AGAIN = "fetch it again with `styleclip-export fetch`"
_WITHIN = 4 << 20  # bytes in which the marks of a kind are looked for

# What tells the kinds of checkpoint apart, in this order: all of the marks must be there.
_KINDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"dnnlib.tflib.network",), "NVIDIA's TensorFlow pickle"),
    ((b"SynthesisInput", b"torch_utils.persistence"), "NVIDIA's PyTorch pickle of StyleGAN3"),
    ((b"torch_utils.persistence",), "NVIDIA's PyTorch pickle"),
    ((b"encoder.input_layer", b"latent_avg"), "an e4e or pSp checkpoint"),
    ((b"g_ema",), "rosinality's StyleGAN2 checkpoint"),
    ((b"token_embedding", b"visual"), "a CLIP checkpoint"),
    ((b"convs.0.conv.weight", b"to_rgb1"), "a StyleGAN2 state_dict"),
    ((b"output_layer.3", b"body.0.res_layer"), "an ArcFace checkpoint"),
)


def looks_like(path: Path) -> str:
    """What the file seems to be, for a message; nothing of it is unpickled."""
    with path.open("rb") as stream:
        head = stream.read(_WITHIN)
    if head.startswith(zip_archive.START):
        return _archive(path)
    if head.startswith(LANDMARKS):
        return "dlib's 68 landmarks"
    look = file_kinds.looks_like(head[: file_kinds.HEAD])
    if look == "a pickle":
        kind = _kind(head)
        if head.startswith(_OLD_TORCH):
            return kind or "a PyTorch file of before 1.6"
        return f"{kind or 'a pickle'}{'' if _ends(path) else ', truncated'}"
    return look


def _archive(path: Path) -> str:
    try:
        with torch_file.mapped(path) as data:
            entries = zip_archive.table(data)
            pickles = [entry for entry in entries if entry.name.endswith("/data.pkl")]
            if not pickles:
                return "a zip archive that is none of PyTorch's"
            start = pickles[0].start
            head = bytes(data[start : start + min(pickles[0].packed, _WITHIN)])
    except Refused:
        return "a truncated or damaged zip archive"
    script = any("/code/" in entry.name for entry in entries)
    return _kind(head) or ("a TorchScript archive" if script else "a PyTorch file")


def _kind(head: bytes) -> str | None:
    for marks, kind in _KINDS:
        if all(mark in head for mark in marks):
            return kind
    return None


def _ends(path: Path) -> bool:
    """Whether the last byte is a pickle's STOP."""
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"."


@contextmanager
def reading(path: Path, expected: str, remedy: str = _AGAIN) -> Iterator[None]:
    """Turns whatever goes wrong with a file into a CheckpointError of one line.

    A hostile file may bring its data into any form, so the errors of plain Python that such data
    causes count as the file's.
    """
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise CheckpointError(f"{path} {what}; {expected} was expected; {remedy}")
        yield
    except CheckpointError:
        raise
    except Refused as error:
        look = looks_like(path)
        reason = f" and is refused: {error}" if str(error) else ""
        raise CheckpointError(
            f"{path} looks like {look}{reason}; {expected} was expected; {remedy}"
        ) from error
    except (
        ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError,
        RecursionError, RuntimeError, TypeError, ValueError, struct.error,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path} looks like {looks_like(path)}, but its contents do not fit "
            f"({type(error).__name__}); {expected} was expected; {remedy}"
        ) from error


def must_not_be_else(path: Path, starts: tuple[bytes, ...]) -> None:
    """Raises Refused where the file begins otherwise than one of `starts`; says no reason, since
    what it looks like is the reason."""
    with path.open("rb") as stream:
        if not stream.read(16).startswith(starts):
            raise Refused("")
