"""Zip archives as PyTorch writes them: uncompressed, so that an entry is a view of the file.

Layout: PKWARE's APPNOTE.TXT 6.3.3, sections 4.3.7 (local header), 4.3.12 (central directory),
4.3.14 to 4.3.16 (its end, also of Zip64) and 4.5.3 (Zip64's extra field). Python's `zipfile` would
take some 600 bytes for each of the millions of entries that a hostile directory can claim.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from styleclip_export.checkpoints.unpickler import UnsupportedFile

START = b"PK\x03\x04"  # of a local header, so of the file
MAX_ENTRIES = 20_000  # e4e has 1,600
_END, _DIRECTORY_ENTRY = b"PK\x05\x06", b"PK\x01\x02"
_ZIP64_END, _ZIP64_LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_LOCAL_HEADER_SIZE, _DIRECTORY_ENTRY_SIZE, _END_SIZE = 30, 46, 22
_ZIP64_END_SIZE, _ZIP64_LOCATOR_SIZE = 56, 20
_MAX_COMMENT = 1 << 16  # bytes that may follow the end record
_ZIP64_FIELD = 1  # kind of the extra field with numbers of 8 bytes
_IN_ZIP64_FIELD = 0xFFFFFFFF
_ENCRYPTED = 1  # bit of the flags
_DAMAGED = "its central directory is damaged"


@dataclass(frozen=True)
class Entry:
    """An entry of the central directory.

    Attributes:
        start: offset of the local header.
        size: bytes of the content.
        stored: neither compressed nor encrypted.
    """

    name: str
    start: int
    size: int
    checksum: int
    stored: bool


def read_directory(data: memoryview) -> list[Entry]:
    """Read the central directory.

    Raises:
        UnsupportedFile: there is none, as in a truncated archive, or it is damaged or far too long.
    """
    try:
        count, start = _locate_directory(data)
        entries = []
        for _ in range(count):
            entry, start = _read_directory_entry(data, start)
            entries.append(entry)
        return entries
    except (struct.error, UnicodeDecodeError) as error:
        raise UnsupportedFile(_DAMAGED) from error


def read_entries(data: memoryview, entries: list[Entry]) -> dict[str, memoryview]:
    """Return name → content of each entry; checksums are compared.

    Raises:
        UnsupportedFile: an entry is damaged, compressed, duplicated, or shares bytes with another.
    """
    for entry in entries:
        if not entry.stored:
            raise UnsupportedFile(
                f"its entry {entry.name[:60]!r} is compressed, which PyTorch never does"
            )
    if sum(entry.size for entry in entries) > len(data):
        raise UnsupportedFile("its entries claim more bytes than the file has")
    contents: dict[str, memoryview] = {}
    for entry in entries:
        if entry.name in contents:
            raise UnsupportedFile(f"its entry {entry.name[:60]!r} appears twice")
        contents[entry.name] = _read_content(data, entry)
    return contents


def _locate_directory(data: memoryview) -> tuple[int, int]:
    """Return the number of entries and the offset of the first."""
    search_start = max(0, len(data) - _END_SIZE - _MAX_COMMENT)
    offset = bytes(data[search_start:]).rfind(_END)
    if offset < 0:
        raise UnsupportedFile("it is a zip archive without its end: truncated")
    end = search_start + offset
    count, size, start, comment = struct.unpack_from("<10xHIIH", data, end)
    if end + _END_SIZE + comment != len(data):
        raise UnsupportedFile(_DAMAGED)
    locator = end - _ZIP64_LOCATOR_SIZE
    if locator >= 0 and data[locator : locator + 4] == _ZIP64_LOCATOR:
        (end,) = struct.unpack_from("<8xQ", data, locator)
        if end > len(data) - _ZIP64_END_SIZE or data[end : end + 4] != _ZIP64_END:
            raise UnsupportedFile(_DAMAGED)
        count, size, start = struct.unpack_from("<32xQQQ", data, end)
    if count > MAX_ENTRIES:
        raise UnsupportedFile(f"the archive has {count:,} entries")
    if start + size > end:
        raise UnsupportedFile(_DAMAGED)
    return count, start


def _read_directory_entry(data: memoryview, at: int) -> tuple[Entry, int]:
    """Return the entry at an offset, and the offset of the next."""
    if data[at : at + 4] != _DIRECTORY_ENTRY:
        raise UnsupportedFile(_DAMAGED)
    flags, method, checksum, packed, size, name_size, extra_size, comment_size, start = (
        struct.unpack_from("<8xHH4xIIIHHH8xI", data, at)
    )
    at += _DIRECTORY_ENTRY_SIZE
    name = bytes(data[at : at + name_size]).decode()
    at += name_size
    size, packed, start = _with_zip64_values(data[at : at + extra_size], [size, packed, start])
    stored = method == 0 and not flags & _ENCRYPTED and size == packed
    return Entry(name, start, size, checksum, stored), at + extra_size + comment_size


def _with_zip64_values(extra: memoryview, values: list[int]) -> list[int]:
    """Replace the numbers that refer to Zip64's extra field by those of 8 bytes in it."""
    values = list(values)
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == _ZIP64_FIELD:
            at = 4
            for i, value in enumerate(values):
                if value == _IN_ZIP64_FIELD:
                    (values[i],) = struct.unpack_from("<Q", extra, at)
                    at += 8
        extra = extra[4 + size :]
    return values


def _read_content(data: memoryview, entry: Entry) -> memoryview:
    what = f"its entry {entry.name[:60]!r}"
    if entry.start + _LOCAL_HEADER_SIZE > len(data) or data[entry.start : entry.start + 4] != START:
        raise UnsupportedFile(f"{what} is damaged")
    name_size, extra_size = struct.unpack_from("<26xHH", data, entry.start)
    start = entry.start + _LOCAL_HEADER_SIZE + name_size + extra_size
    if start + entry.size > len(data):
        raise UnsupportedFile(f"{what} claims more bytes than the file has")
    content = data[start : start + entry.size]
    if zlib.crc32(content) != entry.checksum:
        raise UnsupportedFile(f"{what} is damaged (wrong checksum)")
    return content
