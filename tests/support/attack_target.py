"""A running server that tests attack over HTTP, raw sockets and gRPC."""

import json
import socket

import grpc
import httpx
import psutil

SERVICE = "/inference.GRPCInferenceService/"


class Target:
    """A server under attack."""

    def __init__(self, server):
        self.server = server
        self.metrics = server.metrics_url.split("/")[2]
        self.channel = grpc.insecure_channel(
            server.grpc_url, options=[("grpc.max_send_message_length", -1)]
        )

    def post(self, path, body=b"{}", **headers):
        """The status of a request; 0 if the connection was closed instead."""
        try:
            return httpx.post(
                f"http://{self.server.http_url}{path}", content=body, headers=headers, timeout=60
            ).status_code
        except httpx.TransportError:
            return 0

    def infer(self, document, **headers):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.post("/v2/models/direction/infer", body, **headers)

    def raw(self, data, address=None):
        """The status of the answer to bytes on a socket; 0 if there is none."""
        host, port = (address or self.server.http_url).split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            try:
                for part in data:
                    connection.sendall(part)
                answer = connection.recv(100)
            except OSError:
                return 0
        return int(answer[9:12]) if answer else 0

    def call(self, request, method="ModelInfer"):
        """The status of a call over gRPC."""
        content = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            self.channel.unary_unary(SERVICE + method)(content, timeout=60)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def processes(self):
        return {process.pid for process in psutil.Process().children(recursive=True)}

    def memory(self):
        """The memory of the server's processes in MB."""
        total = 0
        for process in psutil.Process().children(recursive=True):
            try:
                total += process.memory_info().rss / 1e6
            except psutil.Error:
                continue
        return total
