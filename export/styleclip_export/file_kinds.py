"""What a file looks like, from its first bytes and its table of contents; nothing is unpickled."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from styleclip_export.fetch.manifest import Form, Kind

HEAD_BYTES = 512  # that `is_kind` and `looks_like` need
_MARKS_WITHIN = 16 << 20  # bytes in which the marks of a file are looked for

_LFS = "a Git LFS pointer, not the file it points to"

# First bytes → what they mean to a reader of an error message.
_LOOKS = (
    (b"PK\x03\x04", "a zip archive (PyTorch's format since 1.6)"),
    (b"\x80", "a pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"BZh", "a bzip2 archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", _LFS),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\x89HDF", "an HDF5 file"),
)
_STARTS: dict[Kind, tuple[bytes, ...]] = {
    "torch": (b"PK\x03\x04", b"\x80"),  # the zip format, and the one before PyTorch 1.6
    "pickle": (b"\x80",),
    "npy": (b"\x93NUMPY",),
    "bzip2": (b"BZh",),
}
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")


def looks_like(head: bytes) -> str:
    """What a file that begins with `head` seems to be, for a message."""
    if not head:
        return "an empty file"
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_WEB_PAGE):
        return "a web page"
    for start, name in _LOOKS:
        if head.startswith(start):
            return name
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return f"text ({head[:40].decode().strip()!r} …)"
    return "data of an unknown kind"


def is_kind(head: bytes, kind: Kind) -> bool:
    """Whether a file that begins with `head` can be of that kind; never true for a web page."""
    if not head or looks_like(head) in ("a web page", _LFS):
        return False
    return kind == "any" or head.startswith(_STARTS[kind])


def complaint(path: Path, form: Form) -> str | None:
    """Why the file cannot be `form`, judged without its hash, or None where nothing speaks against.

    A zip archive must have its table of contents, which is at its end: a truncated one has none.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not is_kind(head, form.kind):
        return f"it looks like {looks_like(head)}"
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "it is a truncated zip archive"
    missing = [mark for mark in form.marks if mark not in _contents(path)]
    return f"nothing in it is named {missing[0].decode()!r}" if missing else None


def _contents(path: Path) -> bytes:
    """The pickle inside a PyTorch archive, or the beginning of another file."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return stream.read(_MARKS_WITHIN)
    try:
        with zipfile.ZipFile(path) as archive:
            names = " ".join(archive.namelist()).encode()
            found = [names]
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as stream:
                        found.append(stream.read(_MARKS_WITHIN))
            return b" ".join(found)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
        return b""


def sha256_of(path: Path, moved: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a file, lower-case hexadecimal; `moved` hears of each block's size."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            moved(len(block))
    return digest.hexdigest()
