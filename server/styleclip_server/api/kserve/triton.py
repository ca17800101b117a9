"""The connection to Triton, which only the API server has."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc
from grpc import StatusCode
from tritonclient.grpc.service_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
)

from styleclip_contract import limits, wire
from styleclip_server.api.admission import Admission, RequestClass
from styleclip_server.api.kserve import inference
from styleclip_server.api.kserve.inference import ModelInterface
from styleclip_server.api.kserve.json_messages import BinaryOutputs, encode_response
from styleclip_server.api.kserve.known_forms import KnownForms
from styleclip_server.api.kserve.triton_http import TritonHttp, is_plain
from styleclip_server.api.refusals import Refused, unavailable
from styleclip_server.api.tasks import within
from styleclip_server.cancelled_calls import CancelledCalls

SERVICE = "/inference.GRPCInferenceService/"
CALL_SECONDS = 10.0  # for everything but inference
CALL_BYTES = 64 * 2**10  # of the message or body of everything but inference
INFER_SECONDS = 300.0  # for clients that set no deadline; queues have shorter ones
MODEL_NAME = "[A-Za-z0-9_.-]{1,100}"  # a regular expression
TRACE_HEADERS = ("traceparent", "tracestate")  # that are forwarded
_ENSEMBLES = frozenset(model.name for model in wire.ENSEMBLES)
_CONFIG_SECONDS = 60.0  # that a cached interface is used
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", limits.RESPONSE_BYTES),
    # Triton is ready later than the API server, and must then be reached at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
]

# Names of regions between Triton and its steps, which messages of its Python backend may contain.
_INTERNAL_REGION = re.compile(r"\S*(?:styleclip_|triton_python_backend_)[0-9a-z_]*\S*")
# gRPC's own messages, some with the private address, while Triton is unavailable.
_CONNECTION = re.compile(r"ipv[46]:|socket closed|connection|goaway", re.IGNORECASE)

Metadata = Iterable[tuple[str, "str | bytes"]]


class Triton:
    """Calls Triton, from threads over gRPC and from the event loop in which it is created.

    Threads have a channel of their own: a change of threads costs a call about 0.1 ms.

    Args:
        address: "host:port" of its gRPC port.
        http_address: of its HTTP port, for plain requests from the event loop.

    Attributes:
        admission: the bound on concurrent requests.
        cancelled: calls to report as cancelled; no call to Triton is cancelled itself.
    """

    def __init__(
        self,
        address: str,
        http_address: str,
        admission: Admission,
        cancelled: CancelledCalls,
        *,
        allow_shared_memory: bool,
    ) -> None:
        self.admission = admission
        self.cancelled = cancelled
        self._allow_shared_memory = allow_shared_memory
        self._interfaces: dict[str, tuple[float, ModelInterface]] = {}
        self._known = KnownForms()
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable] = {}
        self._async_channel = grpc.aio.insecure_channel(address, _OPTIONS)
        self._http = TritonHttp(http_address)
        self._async_infer = self._async_channel.unary_unary(f"{SERVICE}ModelInfer")

    async def __aenter__(self) -> Triton:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channel.close()  # which ends the calls of all threads
        await self._async_channel.close()

    def infer(self, message: bytes, number: int, metadata: Metadata = ()) -> bytes:
        """Check and admit a ModelInferRequest; return the ModelInferResponse as Triton wrote it.

        Args:
            number: of the call, by which it can be reported as cancelled.

        Raises:
            Refused: by the checks, because the server is busy, or by Triton.
        """
        form = inference.read_form(message)
        known = self._known.find(message, form, self._cached_interface)
        if known:
            # Two messages one after the other are one that has the fields of both.
            numbered = message + _numbered(ModelInferRequest(), number)
            request_class = _request_class(known.model, known.rows, len(message))
            with self.admission.enter(known.rows, request_class):
                return self.call("ModelInfer", numbered, INFER_SECONDS, metadata)
        request = inference.parse(message)
        interface = self._interface(request.model_name)
        with self._admitted(request, interface) as rows:
            self._known.remember(message, form, request, interface, rows)
            return self.call("ModelInfer", _numbered(request, number), INFER_SECONDS, metadata)

    async def infer_async(
        self,
        request: ModelInferRequest,
        binary: BinaryOutputs,
        number: int,
        metadata: Metadata = (),
    ) -> tuple[bytes, int | None]:
        """Do what `infer` does, without blocking the event loop.

        Returns:
            The body of the HTTP response, and the length of its JSON header if data follow it.
        """
        interface = self._cached_interface(request.model_name)
        if interface is None:
            interface = await asyncio.to_thread(self._interface, request.model_name)
        with self._admitted(request, interface):
            metadata = tuple(metadata)
            if not metadata and is_plain(request, binary):
                return await self._infer_plain(request, number)
            try:
                response: bytes = await self._async_infer(
                    _numbered(request, number), timeout=INFER_SECONDS, metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                raise _refusal(error) from error
        return encode_response(response, binary)

    async def _infer_plain(self, request: ModelInferRequest, number: int) -> tuple[bytes, int]:
        try:
            return await within(INFER_SECONDS, self._http.infer(request, number))
        except asyncio.TimeoutError:
            raise Refused(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        except Refused as refused:
            refused.message = _without_regions(refused.message)
            raise

    @contextmanager
    def _admitted(self, request: ModelInferRequest, interface: ModelInterface) -> Iterator[int]:
        """Check `request` and count it as running during a `with` block; yield its rows."""
        rows = inference.check(request, interface, allow_shared_memory=self._allow_shared_memory)
        request_class = _request_class(request.model_name, rows, request.ByteSize())
        with self.admission.enter(rows, request_class):
            yield rows

    def _cached_interface(self, name: str) -> ModelInterface | None:
        known = self._interfaces.get(name)
        return known[1] if known and time.monotonic() - known[0] < _CONFIG_SECONDS else None

    def _interface(self, name: str) -> ModelInterface:
        """Return what the configuration of a model says of its inputs and outputs.

        Raises:
            Refused: by Triton, for a model that it does not serve.
        """
        if not re.fullmatch(MODEL_NAME, name):
            raise Refused(
                StatusCode.NOT_FOUND, f"Request for unknown model: {name[:100]!r} is not found"
            )
        if cached := self._cached_interface(name):
            return cached
        response = self.call("ModelConfig", ModelConfigRequest(name=name).SerializeToString())
        interface = ModelInterface.of(ModelConfigResponse.FromString(response).config)
        self._interfaces[name] = time.monotonic(), interface
        return interface

    def call(
        self,
        method: str,
        message: bytes,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> bytes:
        """Call a method with a serialized message; return the serialized response.

        Args:
            method: its name, or its path if it is of another service.

        Raises:
            Refused: Triton refused, failed or did not respond.
        """
        send = self._methods.get(method)
        if send is None:
            path = method if method.startswith("/") else SERVICE + method
            send = self._methods[method] = self._channel.unary_unary(path)
        try:
            response: bytes = send(
                message,
                timeout=CALL_SECONDS if timeout is None else timeout,
                metadata=tuple(metadata),
            )
        except grpc.RpcError as error:
            raise _refusal(error) from error
        return response


def _numbered(request: ModelInferRequest, number: int) -> bytes:
    request.parameters["sequence_id"].int64_param = number
    return request.SerializeToString()


def _request_class(model: str, rows: int, size: int) -> RequestClass | None:
    """Return the class of a request; None unless it is of an ensemble, which runs the networks."""
    return RequestClass.of_size(f"{model}, {rows} rows", size) if model in _ENSEMBLES else None


def _refusal(error: grpc.RpcError) -> Refused:
    message = error.details() or ""
    if error.code() is StatusCode.UNAVAILABLE and _CONNECTION.search(message):
        return unavailable()
    return Refused(error.code(), _without_regions(message))


def _without_regions(message: str) -> str:
    return _INTERNAL_REGION.sub("(a region)", message)[:4096]
