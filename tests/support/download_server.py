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
        data, range_header = self.server.data, self.headers.get("Range")
        self.server.requests.append((behavior, range_header, self.headers.get("If-Range")))
        requests_so_far = sum(request[0] == behavior for request in self.server.requests)
        if behavior in ("404", "500") or (behavior == "500once" and requests_so_far == 1):
            return self._respond(int(behavior[:3]), b"no")
        if behavior == "html":
            return self._respond(200, b"<!DOCTYPE html><html>Quota exceeded</html>")
        if behavior == "htmltype":
            return self._respond(200, DATA, {"Content-Type": "text/html; charset=utf-8"})
        if behavior == "wrong":
            return self._respond(200, OTHER)
        if behavior == "moved":
            return self._respond(302, b"", {"Location": "/good"})
        if behavior == "loop":
            return self._respond(302, b"", {"Location": "/loop"})
        if behavior == "short":  # announces less than there is
            return self._respond(200, data[:1000])
        headers = {"ETag": f'"{sha256(data)}"'} if behavior != "noetag" else {}
        start = 0
        if range_header and behavior != "norange":
            start = int(re.match(r"bytes=(\d+)-", range_header)[1])
            condition = self.headers.get("If-Range")
            if condition and condition != headers.get("ETag"):
                start = 0
            elif start >= len(data):
                return self._respond(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        body = data[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        extra = 5000 if behavior == "long" else 0  # announces more than there is
        self.send_response(206 if start else 200)
        headers["Content-Length"] = str(len(body) + extra)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if behavior in ("drop", "noetag", "norange") and requests_so_far == 1:
            body = body[:300_000]
        if behavior == "dropalways":
            body = body[: 100_000 if not start else 0]
        if behavior == "crumbs":
            body = body[:100_000]
        if behavior == "hang" and requests_so_far == 1:
            self.wfile.write(body[:300_000])
            self.server.sent += 300_000
            self.server.release.wait()
            body = b""
        self.wfile.write(body)
        self.server.sent += len(body)
        self.close_connection = True

    def _respond(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += len(body)


@contextmanager
def running_download_server():
    """Yield the server; `sent` counts body bytes, `requests` has (behavior, Range, If-Range)."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.daemon_threads = True
        running.data, running.requests, running.sent = DATA, [], 0
        running.release = threading.Event()
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()
