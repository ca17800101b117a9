"""Opening a checkpoint: maps the file and turns any problem into a one-line CheckpointError."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from styleclip_export import file_kinds
from styleclip_export.checkpoints import torch_file, zip_archive
from styleclip_export.checkpoints.unpickler import UnsupportedFile
from styleclip_export.errors import CheckpointError
from styleclip_export.file_kinds import MAGIC_BYTES, FileKind

_FETCH_AGAIN = "fetch it again with `styleclip-export fetch`"
_SEARCHED_BYTES = 4 << 20  # at the beginning of a pickle

# Kinds of checkpoints, in the order in which they are tried; all words must be in the pickle.
_KINDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"dnnlib.tflib.network",), "NVIDIA's TensorFlow pickle"),
    ((b"SynthesisInput", b"torch_utils.persistence"), "NVIDIA's PyTorch pickle of StyleGAN3"),
    ((b"torch_utils.persistence",), "NVIDIA's PyTorch pickle"),
    ((b"fs_backbone.conv",), "a StyleFeatureEditor checkpoint"),
    ((b"encoder.input_layer",), "an e4e or pSp checkpoint"),
    ((b"g_ema",), "rosinality's StyleGAN2 checkpoint"),
    ((b"token_embedding", b"visual"), "a CLIP checkpoint"),
    ((b"convs.0.conv.weight", b"to_rgb1"), "a StyleGAN2 state_dict"),
    ((b"output_layer.3", b"body.0.res_layer"), "an ArcFace checkpoint"),
)
# What plain Python raises when a hostile file gives its data an unexpected form.
_DATA_ERRORS = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RecursionError,
    RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip


@contextmanager
def open_checkpoint(
    path: Path, expected: str, kinds: Sequence[FileKind] = ("torch",), remedy: str = _FETCH_AGAIN
) -> Iterator[memoryview]:
    """Map a file into memory, and turn whatever goes wrong with it into a CheckpointError.

    Args:
        path: the file.
        expected: what the file should be, for the message.
        kinds: the kinds of file it may be.
        remedy: what the user can do, for the message.
    """

    def refusal(problem: str) -> CheckpointError:
        return CheckpointError(f"{path} {problem}; {expected} was expected; {remedy}")

    if not path.is_file():
        raise refusal("is a folder" if path.is_dir() else "is not there")
    try:
        with torch_file.map_file(path) as data:
            head = bytes(data[: file_kinds.HEAD_BYTES])
            if not any(file_kinds.is_kind(head, kind) for kind in kinds):
                raise refusal(f"looks like {looks_like(path)}")
            yield data
    except CheckpointError:
        raise
    except UnsupportedFile as error:
        raise refusal(f"looks like {looks_like(path)} and is refused: {error}") from error
    except _DATA_ERRORS as error:
        raise refusal(
            f"looks like {looks_like(path)}, but its contents do not fit ({type(error).__name__})"
        ) from error


def looks_like(path: Path) -> str:
    """Describe what the file seems to be, for a message; nothing in it is unpickled."""
    with path.open("rb") as stream:
        head = stream.read(_SEARCHED_BYTES)
    if head.startswith(zip_archive.START):
        return _archive_looks_like(path)
    if head.startswith(MAGIC_BYTES["landmarks"]):
        return "dlib's 68 landmarks"
    look = file_kinds.looks_like(head[: file_kinds.HEAD_BYTES])
    if look == "a pickle":
        kind = _kind_of_pickle(head)
        if head.startswith(torch_file.LEGACY_START):
            return kind or "a PyTorch file older than 1.6"
        return f"{kind or look}{'' if _ends_as_pickle(path) else ', truncated'}"
    return look


def _archive_looks_like(path: Path) -> str:
    try:
        with torch_file.map_file(path) as data:
            entries = zip_archive.read_directory(data)
            pickles = [entry for entry in entries if entry.name.endswith("/data.pkl")]
            if not pickles:
                return "a zip archive other than PyTorch's"
            start = pickles[0].start
            head = bytes(data[start : start + min(pickles[0].size, _SEARCHED_BYTES)])
    except UnsupportedFile:
        return "a truncated or damaged zip archive"
    has_code = any("/code/" in entry.name for entry in entries)
    return _kind_of_pickle(head) or ("a TorchScript archive" if has_code else "a PyTorch file")


def _kind_of_pickle(head: bytes) -> str | None:
    for words, kind in _KINDS:
        if all(word in head for word in words):
            return kind
    return None


def _ends_as_pickle(path: Path) -> bool:
    """Return whether the last byte is a pickle's STOP."""
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"."
