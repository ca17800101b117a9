"""Several images in one response: a ZIP archive, or multipart/mixed."""

from __future__ import annotations

import io
import json
import secrets
import zipfile
from urllib.parse import quote

from fastapi import Response

from styleclip_client import Edited
from styleclip_contract import limits
from styleclip_server.api import problems
from styleclip_server.api.web import negotiation
from styleclip_server.api.web.results import Result


def pack(media_type: str, results: list[Result], format: str, request_id: str) -> Response:
    """Return the images of `results` as one response; failures are files of problem details."""
    names: set[str] = set()
    entries = [_entry(each, format, request_id, names) for each in results]
    if media_type == negotiation.ZIP:
        return Response(
            zip_files({name: data for name, _, data in entries}),
            media_type=media_type,
            headers={"Content-Disposition": 'attachment; filename="edited.zip"'},
        )
    return _multipart(entries)


def zip_files(files: dict[str, bytes]) -> bytes:
    """Return a ZIP archive; images are stored as they are, since they are compressed already."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _entry(result: Result, format: str, request_id: str, names: set[str]) -> tuple[str, str, bytes]:
    """Return file name, media type and content; `names` are those of earlier entries."""
    if isinstance(result.edited, Edited):
        suffix, media_type = limits.SUFFIX_BY_FORMAT[format], negotiation.IMAGES[format]
        data = result.edited.picture
    else:
        suffix, media_type = ".problem.json", problems.MEDIA_TYPE
        data = json.dumps(problems.describe(result.edited, request_id).model_dump()).encode()
    name, number = f"{result.name}{suffix}", 2
    while name in names:
        name, number = f"{result.name}-{number}{suffix}", number + 1
    names.add(name)
    return name, media_type, data


def _multipart(entries: list[tuple[str, str, bytes]]) -> Response:
    boundary = secrets.token_hex(16)
    parts: list[bytes] = []
    for name, media_type, data in entries:
        # Names are of letters, digits and a few signs; those of other scripts are percent-coded.
        disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        head = (
            f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Disposition: {disposition}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        parts += [head.encode("ascii"), data, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return Response(b"".join(parts), media_type=f'{negotiation.MIXED}; boundary="{boundary}"')
