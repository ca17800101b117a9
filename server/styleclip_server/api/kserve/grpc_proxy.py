"""KServe's protocol over gRPC: every call is checked and passed on to Triton.

Messages are read only after the caller is known. The server is gRPC's for threads: that for asyncio
(grpcio 1.85) stops serving when the name of a method is not UTF-8.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from styleclip_contract import limits
from styleclip_server.api.access import Access
from styleclip_server.api.kserve import regions
from styleclip_server.api.kserve.triton import CALL_BYTES, SERVICE, TRACE_HEADERS, Triton
from styleclip_server.api.refusals import (
    Refused,
    busy,
    invalid,
    model_control,
    restricted,
    too_large,
)
from styleclip_server.api.settings import Settings
from styleclip_server.api.tasks import running_in_background
from styleclip_server.cancelled_calls import new_number

MESSAGE_SECONDS = 10.0  # for a message to arrive
READERS = 64  # messages that arrive at a time
CALLS = 256  # at a time, waiting ones included; each has a thread
CALLS_PER_CONNECTION = 128
CONNECTIONS = 4096
NAMED_EXCESS_BYTES = 8 * 2**20
STREAMS = 16
METADATA_BYTES = 16 * 2**10

_NO_DEADLINE = 1e6  # seconds

# The methods that are passed on, with the type of their message.
METHODS: dict[str, type[Message]] = {
    "ServerLive": service_pb2.ServerLiveRequest,
    "ServerReady": service_pb2.ServerReadyRequest,
    "ModelReady": service_pb2.ModelReadyRequest,
    "ServerMetadata": service_pb2.ServerMetadataRequest,
    "ModelMetadata": service_pb2.ModelMetadataRequest,
    "ModelConfig": service_pb2.ModelConfigRequest,
    "ModelStatistics": service_pb2.ModelStatisticsRequest,
    "RepositoryIndex": service_pb2.RepositoryIndexRequest,
}
SHARED_MEMORY_METHODS: dict[str, type[Message]] = {
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest,
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest,
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest,
}
RESTRICTED = (
    *("TraceSetting", "LogSettings"),
    *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
)
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
MODEL_CONTROL = ("RepositoryModelLoad", "RepositoryModelUnload")

Context: TypeAlias = Any  # grpc.ServicerContext; grpcio has no types
Handler = Callable[[bytes, Context], bytes]


class GrpcProxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handles the calls of one server, in its threads."""

    def __init__(
        self,
        triton: Triton,
        access: Access,
        *,
        allow_shared_memory: bool,
        body_limit: int,
    ) -> None:
        self.body_limit = body_limit
        self._triton = triton
        self._access = access
        self._methods = METHODS | (SHARED_MEMORY_METHODS if allow_shared_memory else {})
        self._readers = threading.BoundedSemaphore(READERS)
        self._streams = threading.BoundedSemaphore(STREAMS)
        self._reading: dict[Context, float] = {}  # calls whose message arrives, and since when

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call, by its method."""
        name = details.method.removeprefix(SERVICE)
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream_infer)
        if name == "ModelInfer":
            return self._unary(self._infer, self.body_limit)
        if name in self._methods:
            return self._unary(self._pass_on(name, self._methods[name]), CALL_BYTES)
        if name == HEALTH_CHECK:
            return self._unary(self._check_health, CALL_BYTES)
        if name in MODEL_CONTROL:
            return self._refusing(model_control())
        if name in (*RESTRICTED, *SHARED_MEMORY_METHODS):
            return self._refusing(restricted("protocol"))
        return None  # unimplemented

    async def cancel_slow_messages(self) -> None:
        """Cancel calls whose message does not arrive in time, until this task is cancelled."""
        while True:
            await asyncio.sleep(1)
            for context, since in list(self._reading.items()):
                if time.monotonic() - since > MESSAGE_SECONDS:
                    context.cancel()

    def _unary(self, handler: Handler, limit: int) -> grpc.RpcMethodHandler:
        # On the wire a unary call is a stream of one message. gRPC reads the message of a unary
        # call before it calls the handler; that of a stream is read when the handler asks for it.
        def handle(stream: Iterator[bytes], context: Context) -> bytes:
            try:
                self._check_access(context)
                if handler == self._infer:
                    self._triton.admission.refuse_if_full()
                message = self._read(stream, context)
                if len(message) > limit:
                    raise too_large(limit)
                return handler(message, context)
            except Refused as error:
                _abort(context, error)

        return grpc.stream_unary_rpc_method_handler(handle)

    def _refusing(self, refusal: Refused) -> grpc.RpcMethodHandler:
        def handle(_: Iterator[bytes], context: Context) -> bytes:
            _abort(context, refusal)

        return grpc.stream_unary_rpc_method_handler(handle)

    def _read(self, stream: Iterator[bytes], context: Context) -> bytes:
        """Return the message of a call."""
        if not self._readers.acquire(timeout=MESSAGE_SECONDS):
            raise busy()
        self._reading[context] = time.monotonic()
        try:
            return next(stream)
        except StopIteration:
            raise invalid("the call has no message") from None
        finally:
            del self._reading[context]
            self._readers.release()

    def _infer(self, message: bytes, context: Context) -> bytes:
        """Respond to an inference, whose running step ends when the client cancels the call."""
        number, is_running = new_number(), True

        def cancel() -> None:
            if is_running:
                self._triton.cancelled.add(number)

        if not context.add_callback(cancel):
            raise Refused(StatusCode.CANCELLED, "the call was cancelled")
        try:
            return self._triton.infer(message, number, _forwarded(context))
        finally:
            is_running = False

    def _check_health(self, _: bytes, context: Context) -> bytes:
        """Respond to gRPC's own health check, which probes use, for the server as a whole."""
        return self._triton.call(HEALTH_CHECK, b"", _time_left(context))

    def _pass_on(self, method: str, message_type: type[Message]) -> Handler:
        def handle(message: bytes, context: Context) -> bytes:
            try:
                request: Any = message_type.FromString(message)
            except DecodeError:
                raise invalid(f"the message is not one of {method}") from None
            request.DiscardUnknownFields()
            if method == "SystemSharedMemoryRegister":
                regions.check_registration(
                    request.name, request.key, request.offset, request.byte_size
                )
            return self._triton.call(method, request.SerializeToString(), _time_left(context))

        return handle

    def _stream_infer(self, stream: Iterator[bytes], context: Context) -> Iterator[bytes]:
        """Respond to a stream's requests one after the other; no model streams its responses."""
        try:
            self._check_access(context)
            if not self._streams.acquire(blocking=False):
                raise Refused(StatusCode.RESOURCE_EXHAUSTED, f"more than {STREAMS} streams")
        except Refused as error:
            _abort(context, error)
        try:
            for message in stream:
                yield self._stream_response(message, context).SerializeToString()
        finally:
            self._streams.release()

    def _stream_response(
        self, message: bytes, context: Context
    ) -> service_pb2.ModelStreamInferResponse:
        try:
            if len(message) > self.body_limit:
                raise too_large(self.body_limit)
            content = self._infer(message, context)
        except Refused as error:
            return service_pb2.ModelStreamInferResponse(error_message=error.message)
        response = service_pb2.ModelInferResponse.FromString(content)
        return service_pb2.ModelStreamInferResponse(infer_response=response)

    def _check_access(self, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self._access.check(metadata.get("authorization"), _host(context.peer()))


def _time_left(context: Context) -> float | None:
    """Return the seconds until the deadline; None if gRPC reports none, as a huge number."""
    seconds: float = context.time_remaining()
    return seconds if seconds < _NO_DEADLINE else None


def _forwarded(context: Context) -> list[tuple[str, str | bytes]]:
    """Return the metadata that Triton reads: a trace's context."""
    return [
        (key, value) for key, value in context.invocation_metadata() or () if key in TRACE_HEADERS
    ]


def _host(peer: str) -> str:
    """Return the address without the port, of gRPC's "ipv4:1.2.3.4:56" or "ipv6:[::1]:56"."""
    return peer.partition(":")[2].rpartition(":")[0]


def _abort(context: Context, refusal: Refused) -> NoReturn:
    if refusal.retry_after is not None:
        milliseconds = str(math.ceil(1000 * refusal.retry_after))
        context.set_trailing_metadata((("grpc-retry-pushback-ms", milliseconds),))
    context.abort(refusal.code, refusal.message)
    raise AssertionError("abort raises")


@asynccontextmanager
async def running_proxy(proxy: GrpcProxy, address: str, settings: Settings) -> AsyncIterator[None]:
    """Serve on `address`, "host:port", during a `with` block."""
    server = grpc.server(
        ThreadPoolExecutor(CALLS, thread_name_prefix="grpc"),
        handlers=(proxy,),
        options=_options(settings),
        maximum_concurrent_rpcs=CALLS,
    )
    server.add_insecure_port(address)
    server.start()
    async with running_in_background(proxy.cancel_slow_messages()):
        try:
            yield
        finally:
            await asyncio.to_thread(server.stop(settings.exit_timeout).wait)


def _options(settings: Settings) -> list[tuple[str, int]]:
    options = [
        # A port that is taken must not be shared with any other process that has it.
        ("grpc.so_reuseport", int(settings.processes > 1)),
        # A little more arrives, so that it is refused by the name that clients know.
        ("grpc.max_receive_message_length", settings.body_limit + NAMED_EXCESS_BYTES),
        ("grpc.max_send_message_length", limits.RESPONSE_BYTES),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", 5_000),
        # A client that vanished is noticed within a minute, not two hours.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Our client pings every 20 s, also while it waits for an edit.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
    if settings.connection_age:
        options.append(("grpc.max_connection_age_ms", settings.connection_age * 1000))
    return options
