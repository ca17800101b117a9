"""A running server that tests attack over HTTP, raw sockets and gRPC."""

import json
import socket

import grpc
import httpx
import psutil

from polling import SECONDS
from processes import list_processes

SERVICE = "/inference.GRPCInferenceService/"
CLOSED = 0  # in place of a status: the server closed the connection while the attack was sent


class Target:
    """A server under attack."""

    def __init__(self, server):
        self.server = server
        self.metrics = server.metrics_url.split("/")[2]
        self.channel = grpc.insecure_channel(
            server.grpc_url, options=[("grpc.max_send_message_length", -1)]
        )
        self._processes = list_processes(server)

    def post(self, path, body=b"{}", **headers):
        """Return the status of a request, or `CLOSED`."""
        url = f"http://{self.server.http_url}{path}"
        try:
            return httpx.post(url, content=body, headers=headers, timeout=SECONDS).status_code
        except httpx.TimeoutException:
            raise
        except httpx.TransportError:
            return CLOSED

    def infer(self, document, **headers):
        """Return the status of an inference request, whose body may be any bytes."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.post("/v2/models/direction/infer", body, **headers)

    def send(self, data, address=None):
        """Send bytes on a socket; return the status of the response, or `CLOSED`."""
        host, port = (address or self.server.http_url).split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            try:
                for part in data:
                    connection.sendall(part)
                response = connection.recv(100)
            except ConnectionError:
                return CLOSED
        return int(response[9:12]) if response else CLOSED

    def call(self, request, method="ModelInfer"):
        """Return the status of a call over gRPC."""
        content = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            self.channel.unary_unary(SERVICE + method)(content, timeout=SECONDS)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def process_ids(self):
        return {process.pid for process in list_processes(self.server)}

    def memory(self):
        """Return the memory of the server's processes in MB."""
        total = 0
        for process in self._processes:
            try:
                total += process.memory_info().rss / 1e6
            except psutil.Error:
                continue
        return total
