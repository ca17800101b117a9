"""Zip archives as PyTorch writes them: uncompressed, so that an entry is a view of the file.

Layout: PKWARE's APPNOTE.TXT 6.3.3, sections 4.3.7 (local header), 4.3.12 (central directory),
4.3.14 to 4.3.16 (its end, also of Zip64) and 4.5.3 (its field). Python's `zipfile` would take some
600 bytes for each of the millions of entries that a hostile table of contents can claim.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from styleclip_export.checkpoints.unpickler import Refused

START = b"PK\x03\x04"
MOST_ENTRIES = 20_000  # e4e has 1,600
_END, _LONG_END, _LOCATOR, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_LOCAL_SIZE, _ENTRY_SIZE, _END_SIZE, _LOCATOR_SIZE, _LONG_END_SIZE = 30, 46, 22, 20, 56
_COMMENT = 1 << 16  # bytes that may follow the end of the table
_IN_LONG_FIELD = 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents. start: of the local header; plain: neither compressed nor
    encrypted."""

    name: str
    start: int
    size: int
    packed: int
    checksum: int
    plain: bool


def table(data: memoryview) -> list[Entry]:
    """The table of contents.

    Raises:
        Refused: there is none, as in a truncated archive, or it is damaged or far too long.
    """
    try:
        return _table(data)
    except (struct.error, UnicodeDecodeError) as error:
        raise Refused("its table of contents is damaged") from error


def contents(data: memoryview, entries: list[Entry]) -> dict[str, memoryview]:
    """Name → bytes of each entry, its checksum compared.

    Raises:
        Refused: an entry is damaged, compressed, twice there, or shares its bytes with another.
    """
    for entry in entries:
        if not entry.plain:
            raise Refused(f"its entry {entry.name[:60]!r} is compressed, which PyTorch never does")
    if sum(entry.size for entry in entries) > len(data):
        raise Refused("its entries claim more bytes than the file has")
    found: dict[str, memoryview] = {}
    for entry in entries:
        if entry.name in found:
            raise Refused(f"its entry {entry.name[:60]!r} is there twice")
        found[entry.name] = _content(data, entry)
    return found


def _table(data: memoryview) -> list[Entry]:
    end = max(0, len(data) - _END_SIZE - _COMMENT)
    found = bytes(data[end:]).rfind(_END)
    if found < 0:
        raise Refused("it is a zip archive without its end: truncated")
    end += found
    count, size, start, comment = struct.unpack_from("<10xHIIH", data, end)
    if end + _END_SIZE + comment != len(data):
        raise Refused("its table of contents is damaged")
    if end >= _LOCATOR_SIZE and data[end - _LOCATOR_SIZE : end][:4] == _LOCATOR:
        (end,) = struct.unpack_from("<8xQ", data, end - _LOCATOR_SIZE)
        if end > len(data) - _LONG_END_SIZE or data[end : end + 4] != _LONG_END:
            raise Refused("its table of contents is damaged")
        count, size, start = struct.unpack_from("<32xQQQ", data, end)
    if count > MOST_ENTRIES:
        raise Refused(f"the archive has {count:,} entries")
    if start + size > end:
        raise Refused("its table of contents is damaged")
    entries = []
    for _ in range(count):
        entry, start = _entry(data, start)
        entries.append(entry)
    return entries


def _entry(data: memoryview, at: int) -> tuple[Entry, int]:
    """The entry that is described at `at`, and where the next one is."""
    if data[at : at + 4] != _ENTRY:
        raise Refused("its table of contents is damaged")
    flags, method, checksum, packed, size, name_size, extra_size, comment_size, start = (
        struct.unpack_from("<8xHH4xIIIHHH8xI", data, at)
    )
    at += _ENTRY_SIZE
    name = bytes(data[at : at + name_size]).decode()
    at += name_size
    fields = [size, packed, start]
    _long_fields(data[at : at + extra_size], fields)
    size, packed, start = fields
    plain = method == 0 and not flags & 1 and size == packed
    return Entry(name, start, size, packed, checksum, plain), at + extra_size + comment_size


def _long_fields(extra: memoryview, fields: list[int]) -> None:
    """Puts Zip64's numbers of 8 bytes in the place of those that say so."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 1:
            at = 4
            for i, value in enumerate(fields):
                if value == _IN_LONG_FIELD:
                    (fields[i],) = struct.unpack_from("<Q", extra, at)
                    at += 8
        extra = extra[4 + size :]


def _content(data: memoryview, entry: Entry) -> memoryview:
    named = f"its entry {entry.name[:60]!r}"
    if entry.start + _LOCAL_SIZE > len(data) or data[entry.start : entry.start + 4] != START:
        raise Refused(f"{named} is damaged")
    name_size, extra_size = struct.unpack_from("<26xHH", data, entry.start)
    start = entry.start + _LOCAL_SIZE + name_size + extra_size
    if start + entry.size > len(data):
        raise Refused(f"{named} claims more bytes than the file has")
    content = data[start : start + entry.size]
    if zlib.crc32(content) != entry.checksum:
        raise Refused(f"{named} is damaged (wrong checksum)")
    return content
