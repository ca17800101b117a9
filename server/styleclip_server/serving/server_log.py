"""Triton's output: to a file of bounded size or standard error, as text or as JSON lines."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections import deque
from contextlib import suppress
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import BinaryIO

FORMATS = ("text", "json")

_MAX_BYTES = 10 * 2**20
_LAST_LINES = 300  # enough to find why Triton ended
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error"}
# As Triton writes by default: I1124 14:48:06.069883 17352 grpc_server.cc:2558] "Started …"
_TRITON_LINE = re.compile(r"([IWEF])\d{4} [\d:.]+ \d+ ([\w./-]+:\d+)\] (.*)", re.DOTALL)


class ServerLog:
    """Copies the output of a process to the log, line by line.

    Args:
        path: the log file, which is moved to PATH.old at 10 MiB; None: standard error.
        format: one of FORMATS.
    """

    def __init__(self, path: Path | None, format: str) -> None:
        self._handler = logging.StreamHandler(sys.stderr) if path is None else _LogFile(path)
        self._format = as_json if format == "json" else str
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._thread: threading.Thread | None = None

    @property
    def last_lines(self) -> list[str]:
        """The newest lines of the process, as it wrote them."""
        return list(self._last_lines)

    def follow(self, pipe: BinaryIO) -> None:
        """Start to copy the output of `pipe` until its end."""
        self._thread = threading.Thread(target=self._copy, args=(pipe,), name="log", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until all is written; every process that writes to the pipe has ended."""
        if self._thread:
            self._thread.join(timeout=5)

    def _copy(self, pipe: BinaryIO) -> None:
        with pipe:
            for data in pipe:
                line = data.decode("utf-8", "replace").rstrip("\n")
                self._last_lines.append(line)
                self._handler.handle(logging.makeLogRecord({"msg": self._format(line)}))
        self._handler.close()


class _LogFile(RotatingFileHandler):
    """A log file of bounded size. A line that cannot be written (a full disk) is left out."""

    def __init__(self, path: Path) -> None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, maxBytes=_MAX_BYTES, backupCount=1, encoding="utf-8", delay=True)

    def rotation_filename(self, default_name: str) -> str:
        return f"{self.baseFilename}.old"

    def handleError(self, record: logging.LogRecord) -> None:
        stream, self.stream = self.stream, None  # type: ignore[assignment]
        with suppress(OSError, ValueError):
            if stream:  # the next line opens the file again
                stream.close()


def as_json(line: str) -> str:
    """Convert a line of Triton to JSON; lines of the Python steps are JSON already."""
    if line.startswith("{"):
        return line
    if match := _TRITON_LINE.fullmatch(line):
        return _json_line(_LEVELS[match[1]], match[3].strip('"'), place=match[2])
    return _json_line("info", line)


class JsonFormatter(logging.Formatter):
    """The launcher's own messages, in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        return _json_line(record.levelname.lower(), record.getMessage())


def _json_line(level: str, message: str, **more: str) -> str:
    time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    entry = {"time": time, "level": level, "message": message, **more}
    return json.dumps(entry, ensure_ascii=False)
