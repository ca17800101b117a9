"""Small gateways in front of the real server.

They listen on loopback and end with the `with` block.
"""

from __future__ import annotations

import functools
import math
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
from typing import Any


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


class HttpGateway:
    """A running gateway.

    Attributes:
        url: its address.
        statuses: those that it responded with, the newest last.
        resumed: set it to let inferences that were stalled go on.
    """

    def __init__(self, target: str, token: str | None, busy: int, stall_after: float) -> None:
        self.url = ""
        self.target, self.token, self.busy, self.stall_after = target, token, busy, stall_after
        self.statuses: list[int] = []
        self.inferences = 0
        self.resumed = threading.Event()


@contextmanager
def http_gateway(
    target: str, *, token: str | None = None, busy: int = 0, stall_after: float = math.inf
) -> Iterator[HttpGateway]:
    """Yield a gateway that forwards HTTP requests to `target`, "host:port".

    Args:
        token: the bearer token that it requires.
        busy: how many requests it refuses with 503 at first.
        stall_after: successful inferences after which further ones wait until `resumed`.
    """
    gateway = HttpGateway(target, token, busy, stall_after)
    handler = functools.partial(_GatewayHandler, gateway)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        gateway.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield gateway
        finally:
            gateway.resumed.set()
            server.shutdown()


class _GatewayHandler(BaseHTTPRequestHandler):
    def __init__(self, gateway: HttpGateway, *arguments: Any) -> None:
        self.gateway = gateway
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(None)

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers["Content-Length"])))

    def _handle(self, body: bytes | None) -> None:
        gateway = self.gateway
        if gateway.token and self.headers["authorization"] != f"Bearer {gateway.token}":
            self._respond(401, {}, b"who are you?")
            return
        if gateway.statuses.count(503) < gateway.busy:
            self._respond(503, {}, b"too many requests")
            return
        is_inference = self.path.endswith("/infer")
        if is_inference and gateway.inferences >= gateway.stall_after:
            gateway.resumed.wait()
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = urllib.request.Request(
            f"http://{gateway.target}{self.path}", body, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request) as response:
                gateway.inferences += is_inference
                self._respond(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            self._respond(error.code, dict(error.headers), error.read())

    def _respond(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.gateway.statuses.append(status)
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # the client was killed
            self.wfile.write(body)
