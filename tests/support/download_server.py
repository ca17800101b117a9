"""An HTTP server that sends a file in every way that real servers do, good and bad."""

import hashlib
import http.server
import random
import re
import threading
from contextlib import contextmanager

DATA = b"\x80" + random.Random(1).randbytes(700_000) + b"."
SIZE = len(DATA)
OTHER = b"\x80" + random.Random(2).randbytes(700_000) + b"."


def sha256(data):
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.data`; the path says how: /good, /drop, /html, ... (see do_GET)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        behavior = self.path.strip("/").split("/")[0]
        conditions = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.requests.append((behavior, *conditions))
        is_first = sum(request[0] == behavior for request in self.server.requests) == 1
        if response := self._complete_response(behavior, is_first):
            return self._respond(*response)
        etag = None if behavior == "noetag" else f'"{sha256(self.server.data)}"'
        start = self._start(behavior, etag or self.server.modified)
        if start >= len(self.server.data):
            unsatisfied = {"Content-Range": f"bytes */{len(self.server.data)}"}
            return self._respond(416, b"", unsatisfied)
        self._send_head(start, etag, announce=5000 if behavior == "long" else 0)
        self._send_body(behavior, start, is_first)

    def _complete_response(self, behavior, is_first):
        """Return status, body and headers of a response without ranges; None for the others."""
        if behavior in ("404", "500") or (behavior == "500once" and is_first):
            return int(behavior[:3]), b"no"
        return {
            "html": (200, b"<!DOCTYPE html><html>Quota exceeded</html>"),
            "htmltype": (200, DATA, {"Content-Type": "text/html; charset=utf-8"}),
            "wrong": (200, OTHER),
            "moved": (302, b"", {"Location": "/good"}),
            "loop": (302, b"", {"Location": "/loop"}),
            "short": (200, self.server.data[:1000]),  # announces less than there is
        }.get(behavior)

    def _start(self, behavior, validator):
        """Return the first byte to send."""
        requested, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if not requested or behavior == "norange" or (condition and condition != validator):
            return 0
        return int(re.match(r"bytes=(\d+)-", requested)[1])

    def _send_head(self, start, etag, announce):
        """Send the head; `announce` is how many bytes more it announces than there are."""
        size = len(self.server.data)
        self.send_response(206 if start else 200)
        if etag:
            self.send_header("ETag", etag)
        if self.server.modified:
            self.send_header("Last-Modified", self.server.modified)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start + announce))
        self.end_headers()

    def _send_body(self, behavior, start, is_first):
        body = self.server.data[start:]
        if behavior in ("drop", "noetag", "norange") and is_first:
            body = body[:300_000]
        if behavior == "dropalways":
            body = body[: 100_000 if not start else 0]
        if behavior == "crumbs":
            body = body[:100_000]
        if behavior == "hang" and is_first:
            self._write(body[:300_000])
            self.server.release.wait()
            body = b""
        self._write(body)
        self.close_connection = True

    def _write(self, body):
        self.server.sent += len(body)  # first: a test may read it as soon as it has the body
        self.wfile.write(body)

    def _respond(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self._write(body)


@contextmanager
def running_download_server():
    """Yield the server; `sent` counts body bytes, `requests` has (behavior, Range, If-Range)."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.daemon_threads = True
        running.data, running.requests, running.sent = DATA, [], 0
        running.modified = None  # the header Last-Modified
        running.release = threading.Event()
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()
