"""What a file looks like, judged by its first bytes and its table of contents, and its SHA-256."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Literal

FileKind = Literal["torch", "safetensors", "pickle", "npy", "bzip2", "landmarks", "any"]

MAX_SAFETENSORS_HEADER = 16 << 20  # bytes; e4e's would have 150,000
HEAD_BYTES = 512  # that `looks_like` and `is_kind` need
_SEARCHED_BYTES = 16 << 20  # in which the marks of a file are looked for
_BLOCK_BYTES = 1 << 20

_WEB_PAGE = "a web page"
_LFS_POINTER = "a Git LFS pointer, not the file it points to"

# First bytes → description for an error message.
_DESCRIPTIONS = (
    (b"PK\x03\x04", "a zip archive (PyTorch's format since 1.6)"),
    (b"\x80", "a pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"BZh", "a bzip2 archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", _LFS_POINTER),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\x89HDF", "an HDF5 file"),
)
MAGIC_BYTES: dict[FileKind, tuple[bytes, ...]] = {
    "torch": (b"PK\x03\x04", b"\x80"),  # the zip format, and the one before PyTorch 1.6
    "safetensors": (),  # see `_is_safetensors`
    "pickle": (b"\x80",),
    "npy": (b"\x93NUMPY",),
    "bzip2": (b"BZh",),
    "landmarks": (bytes.fromhex("010181888101"),),  # dlib: version 1, then a 136 x 1 matrix
}
_WEB_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")


def looks_like(head: bytes) -> str:
    """Describe what a file that begins with `head` seems to be, for a message."""
    if not head:
        return "an empty file"
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_WEB_PAGE_STARTS):
        return _WEB_PAGE
    if _is_safetensors(head):
        return "a safetensors file"
    for start, description in _DESCRIPTIONS:
        if head.startswith(start):
            return description
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return f"text ({head[:40].decode().strip()!r} …)"
    return "data of an unknown kind"


def is_kind(head: bytes, kind: FileKind) -> bool:
    """Return whether a file that begins with `head` can be of a kind; a web page never is."""
    if not head or looks_like(head) in (_WEB_PAGE, _LFS_POINTER):
        return False
    if kind == "safetensors":
        return _is_safetensors(head)
    return kind == "any" or head.startswith(MAGIC_BYTES[kind])


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with the length of a header in JSON, and its bracket."""
    size = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and size <= MAX_SAFETENSORS_HEADER


def problem_with(path: Path, kind: FileKind, marks: tuple[bytes, ...]) -> str | None:
    """Say why a file of unknown hash cannot be the expected one.

    Args:
        path: the file.
        kind: its kind. A zip archive must also have its table of contents, which is at the end.
        marks: words that its pickle or header must contain.

    Returns:
        the problem, or None.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not is_kind(head, kind):
        return f"it looks like {looks_like(head)}"
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "it is a truncated zip archive"
    content = _searched_content(path) if marks else b""
    missing = [mark for mark in marks if mark not in content]
    return f"nothing in it is named {missing[0].decode()!r}" if missing else None


def _searched_content(path: Path) -> bytes:
    """Return names and pickles of a PyTorch archive, or the beginning of another file."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return stream.read(_SEARCHED_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            parts = [" ".join(names).encode()]
            for name in names:
                if name.endswith("data.pkl"):
                    with archive.open(name) as stream:
                        parts.append(stream.read(_SEARCHED_BYTES))
            return b" ".join(parts)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
        return b""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def git_blob_of(path: Path) -> str:
    """Return the SHA-1 that Git gives a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
