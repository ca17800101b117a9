"""Plain inference requests over Triton's private HTTP port, in the event loop.

While the networks empty the processor's caches, a call over gRPC, which has threads of its own,
takes 1 ms more of CPU time. A request is plain if nothing of it is a client's but the checked
tensors and a simple id: Triton's parsers of HTTP and JSON read what is written here.
"""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple, cast

import httptools
import orjson
from grpc import StatusCode
from tritonclient.grpc.service_pb2 import ModelInferRequest

from styleclip_server.api.kserve.json_messages import HEADER_LENGTH, BinaryOutputs
from styleclip_server.api.refusals import HTTP_STATUS, Refused, unavailable

PLAIN_BYTES = 4 * 2**20  # of a request; larger ones are sent over gRPC
_ID = re.compile(r"[A-Za-z0-9._:-]{0,128}")
_CODES = {status: code for code, status in HTTP_STATUS.items()}


def is_plain(request: ModelInferRequest, binary: BinaryOutputs) -> bool:
    """Return whether a request has no parameters, and requests every output as binary data."""
    names = [output.name for output in request.outputs]
    return (
        all(name in binary for name in names)
        and (bool(names) or binary.default)
        and not any(part.parameters for part in (request, *request.inputs, *request.outputs))
        and not request.model_version
        and _ID.fullmatch(request.id) is not None
        and sum(map(len, request.raw_input_contents)) <= PLAIN_BYTES
    )


class TritonHttp:
    """Connections to Triton's HTTP port, of one event loop; closed when it ends.

    Args:
        address: "host:port".
    """

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._idle: list[_Connection] = []

    async def infer(self, request: ModelInferRequest, number: int) -> tuple[bytes, int]:
        """Send a plain and checked request; return the body of the response and its JSON's length.

        Canceled, the call ends in the background: no call to Triton is canceled.

        Args:
            number: the correlation id.

        Raises:
            Refused: by Triton, or it cannot be reached.
        """
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            status, body, header_length = await connection.send(_encode(request, number))
        except OSError as error:
            raise unavailable() from error
        if status != 200:
            raise _refusal(status, body)
        # Read and written again, since Triton 2.51 repeats the names of parameters.
        end = header_length or len(body)
        text = orjson.dumps(orjson.loads(body[:end]))
        return text + body[end:], len(text)

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self._idle), self._host, self._port
        )
        return connection


def _encode(request: ModelInferRequest, number: int) -> bytes:
    """Return the HTTP request of a plain and checked request."""
    contents = request.raw_input_contents
    document = {
        "id": request.id,
        "parameters": {"sequence_id": number, "binary_data_output": True},
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape[:],
                "parameters": {"binary_data_size": len(content)},
            }
            for tensor, content in zip(request.inputs, contents, strict=True)
        ],
    }
    if request.outputs:
        parameters = {"binary_data": True}
        document["outputs"] = [
            {"name": output.name, "parameters": parameters} for output in request.outputs
        ]
    text = orjson.dumps(document)
    head = (
        f"POST /v2/models/{request.model_name}/infer HTTP/1.1\r\nHost: triton\r\n"
        "Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + sum(map(len, contents))}\r\n\r\n"
    )
    return b"".join([head.encode(), text, *contents])


def _refusal(status: int, body: bytes) -> Refused:
    try:
        message = str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = "the inference server failed"
    return Refused(_CODES.get(status, StatusCode.INTERNAL), message, http_status=status)


class _Response(NamedTuple):
    status: int
    body: bytes
    header_length: int  # of the JSON before the tensors; 0: all is JSON


class _Connection(asyncio.Protocol):
    """A connection, with at most one request under way; in `idle` while it has none."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._parser = httptools.HttpResponseParser(self)
        self._response: asyncio.Future[_Response] | None = None
        self._header_length = 0
        self._parts: list[bytes] = []

    def send(self, message: bytes) -> asyncio.Future[_Response]:
        """Send a request; return the future response.

        It raises ConnectionResetError if Triton closes the connection.
        """
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return self._response

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse a part of the response."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits for a response."""
        if self in self._idle:
            self._idle.remove(self)
        if self._response and not self._response.done():
            self._response.set_exception(ConnectionResetError())

    def on_message_begin(self) -> None:
        """Begin a response."""
        self._header_length, self._parts = 0, []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read the length of the JSON."""
        if name.lower() == HEADER_LENGTH:
            self._header_length = int(value)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Return the response, unless nobody waits for it."""
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        response, self._response, self._parts = self._response, None, []
        if self._parser.should_keep_alive():
            self._idle.append(self)
        else:
            self._transport.close()
        if response and not response.done():
            status = self._parser.get_status_code()
            response.set_result(_Response(status, body, self._header_length))
