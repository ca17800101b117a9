"""Small gateways in front of the real server.

They listen on loopback and end with the `with` block.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate of "localhost" and its key, as PEM files."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    return certificate, key


@contextmanager
def tls_gateway(target: str, certificate: Path, key: Path) -> Iterator[int]:
    """Yield a port that decrypts TLS and forwards to `target`, "host:port"."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])  # gRPC is HTTP/2
    with forwarder(target, context) as port:
        yield port


@contextmanager
def forwarder(target: str, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[int]:
    """Yield a port whose connections are forwarded to `target`."""
    host, _, to = target.rpartition(":")
    sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(
            target=_accept, args=(listener, (host, int(to)), tls, sockets), daemon=True
        ).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in sockets:
                _shut_down(connection)


def _accept(listener, address, tls, sockets) -> None:
    while True:
        try:
            client_socket, _ = listener.accept()
        except OSError:
            return
        threading.Thread(
            target=_forward, args=(client_socket, address, tls, sockets), daemon=True
        ).start()


def _forward(client_socket, address, tls, sockets) -> None:
    try:
        client_socket = tls.wrap_socket(client_socket, server_side=True) if tls else client_socket
        server_socket = socket.create_connection(address)
    except OSError:  # a client that does not trust the certificate
        client_socket.close()
        return
    sockets += [client_socket, server_socket]
    other = threading.Thread(target=_copy, args=(server_socket, client_socket), daemon=True)
    other.start()
    _copy(client_socket, server_socket)
    other.join()


def _copy(source, sink) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _shut_down(sink)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class GuardedGateway:
    """The URL of a gateway, and the HTTP statuses that it answered with, the newest last."""

    def __init__(self) -> None:
        self.url = ""
        self.answered: list[int] = []


@contextmanager
def guarded_gateway(target: str, token: str, busy: int = 0) -> Iterator[GuardedGateway]:
    """Yield an HTTP gateway that requires a bearer token and is busy for the first requests."""
    gateway = GuardedGateway()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._handle(None)

        def do_POST(self) -> None:
            self._handle(self.rfile.read(int(self.headers["Content-Length"])))

        def _handle(self, body: bytes | None) -> None:
            if self.headers["authorization"] != f"Bearer {token}":
                return self._answer(401, {}, b"who are you?")
            if gateway.answered.count(503) < busy:
                return self._answer(503, {}, b"too many requests")
            headers = {
                name: value for name, value in self.headers.items() if name.lower() != "host"
            }
            request = urllib.request.Request(
                f"http://{target}{self.path}", body, headers, method=self.command
            )
            try:
                with urllib.request.urlopen(request) as response:
                    self._answer(response.status, dict(response.headers), response.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, dict(error.headers), error.read())

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            gateway.answered.append(status)
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gateway.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
