"""Where what Triton says goes: to a file of bounded size or standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

FORMATS = ("text", "json")

_LONGEST = 10 * 2**20  # bytes; a longer file is moved aside, in place of the one moved before
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error"}
# As Triton writes by default: I1124 14:48:06.069883 17352 grpc_server.cc:2558] "Started …"
_TRITONS = re.compile(r"([IWEF])\d{4} [\d:.]+ \d+ ([\w./-]+:\d+)\] (.*)", re.DOTALL)


class Log:
    """Takes the lines of a process. What cannot be written (a full disk) is left out."""

    def __init__(self, path: Path | None, format: str) -> None:
        self._path, self._json = path, format == "json"
        self._file: BinaryIO | None = None
        self._thread: threading.Thread | None = None

    def follow(self, pipe: BinaryIO) -> None:
        """Begin to write what comes out of `pipe`, until it ends."""
        self._thread = threading.Thread(target=self._copy, args=(pipe,), name="log", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Return when all is written; every process that holds the pipe has ended."""
        if self._thread:
            self._thread.join(timeout=5)

    def _copy(self, pipe: BinaryIO) -> None:
        with pipe:
            for line in pipe:
                with suppress(OSError):
                    self._write(as_json(line) if self._json else line)
        if self._file and self._path:
            self._file.close()

    def _write(self, line: bytes) -> None:
        if self._path is None:
            # Standard output is left to whoever reads results there.
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            return
        if self._file and self._file.tell() > _LONGEST:
            self._file.close()
            self._file = None
        if self._file is None:
            if self._path.is_file() and self._path.stat().st_size > _LONGEST:
                self._path.replace(self._path.with_suffix(self._path.suffix + ".old"))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        self._file.write(line)


def as_json(line: bytes) -> bytes:
    """A line of Triton as one of JSON; those of the Python steps are JSON already."""
    text = line.decode("utf-8", "replace").rstrip("\n")
    if text.startswith("{"):
        return line
    entry = {"time": _now(), "level": "info", "message": text}
    if match := _TRITONS.fullmatch(text):
        entry |= {"level": _LEVELS[match[1]], "place": match[2], "message": match[3].strip('"')}
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


class JsonFormatter(logging.Formatter):
    """The launcher's own messages, in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": _now(), "level": record.levelname.lower(), "message": record.getMessage()}
        return json.dumps(entry, ensure_ascii=False)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
