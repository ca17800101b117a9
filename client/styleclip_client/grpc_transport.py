"""Requests over gRPC, by tritonclient, for threads and for asyncio."""

from __future__ import annotations

from typing import Any

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from styleclip_client.address import Connection
from styleclip_client.failures import CallFailed
from styleclip_client.protocol import DTYPES, AdminRequest, InferRequest, Request, check_outputs
from styleclip_contract import limits
from styleclip_contract.errors import ServerError

_SEND_LIMIT = limits.PHOTO_BYTES + 2**20  # bytes


class GrpcTransport:
    """Sends requests over one channel, from any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = triton.InferenceServerClient(**_options(connection))

    def send(self, request: Request, timeout: float) -> Any:
        """Return the response to `request` within `timeout` seconds, or raise CallFailed."""
        method, arguments = _prepare(self._connection, request, timeout)
        try:
            return _decode(request, getattr(self._client, method)(**arguments))
        except InferenceServerException as error:
            raise _call_failed(error) from error

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class AsyncGrpcTransport:
    """Sends requests over one channel, from one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = triton_aio.InferenceServerClient(**_options(connection))

    async def send(self, request: Request, timeout: float) -> Any:
        """Return the response to `request` within `timeout` seconds, or raise CallFailed."""
        method, arguments = _prepare(self._connection, request, timeout)
        try:
            return _decode(request, await getattr(self._client, method)(**arguments))
        except InferenceServerException as error:
            raise _call_failed(error) from error

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()


def _options(connection: Connection) -> dict[str, Any]:
    channel: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", _SEND_LIMIT),
        ("grpc.max_receive_message_length", limits.RESPONSE_BYTES),
        # By default gRPC waits up to two minutes before it reconnects to a server that went away,
        # and fails every call until then.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Detects a host that vanished silently; otherwise calls would wait for their time-out.
        # gRPC has two time-outs for the answer to a ping; the shorter one counts.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
    ]
    address = connection.address
    if address.loopback:  # gRPC would use http_proxy of the environment even for loopback
        channel.append(("grpc.enable_http_proxy", 0))
    else:
        # A name may resolve to several servers, as a headless service of Kubernetes does: calls
        # rotate over them. When one goes, the name is resolved again, which finds new ones.
        channel += [
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        ]
    return {
        "url": address.target,
        "ssl": address.tls,
        "root_certificates": connection.ca,
        "private_key": connection.key,
        "certificate_chain": connection.certificate,
        "channel_args": channel,
    }


def _prepare(
    connection: Connection, request: Request, timeout: float
) -> tuple[str, dict[str, Any]]:
    """Return the method of tritonclient and its arguments."""
    arguments: dict[str, Any] = {
        "client_timeout": timeout,
        "headers": {name.lower(): value for name, value in connection.headers.items()} or None,
    }
    if isinstance(request, AdminRequest):
        return request.method, {**arguments, **request.arguments}
    inputs, outputs = [], []
    for tensor in request.model.inputs:
        if tensor.name in request.tensors:
            array = request.tensors[tensor.name]
            entry = triton.InferInput(tensor.name, list(array.shape), tensor.datatype)
            if region := request.regions.get(tensor.name):
                entry.set_shared_memory(region.name, array.nbytes)
            else:
                entry.set_data_from_numpy(array)
            inputs.append(entry)
    # All outputs: Triton's ensembles fail for some requests of only a part of them.
    for tensor in request.model.outputs:
        outputs.append(triton.InferRequestedOutput(tensor.name))
        if region := request.regions.get(tensor.name):
            outputs[-1].set_shared_memory(region.name, region.size)
    return "infer", {
        **arguments,
        "model_name": request.model.name,
        "request_id": connection.request_id(request.id),
        "sequence_id": request.sequence,
        "inputs": inputs,
        "outputs": outputs,
        "compression_algorithm": connection.compression,
    }


def _decode(request: Request, response: Any) -> Any:
    if isinstance(request, InferRequest):
        names = [tensor.name for tensor in request.model.outputs]
        tensors = {name: _tensor(request, response, name) for name in names}
        return check_outputs(request.model, tensors)
    if response is None:
        return {}
    if request.is_boolean:
        return bool(response)
    content = MessageToDict(response, preserving_proto_field_name=True)
    # Two responses are one level lower than in the HTTP protocol.
    if request.method == "get_model_repository_index":
        return content.get("models", [])
    return content.get("config", content)


def _tensor(request: InferRequest, response: Any, name: str) -> NDArray[Any] | None:
    region, output = request.regions.get(name), response.get_output(name)
    if region is None or output is None:
        return response.as_numpy(name)  # type: ignore[no-any-return]
    if output.datatype not in DTYPES:
        raise ServerError(f"the server answered {name} as {output.datatype} in shared memory")
    return region.view(output.shape, DTYPES[output.datatype])


def _call_failed(error: InferenceServerException) -> CallFailed:
    code = (error.status() or "UNKNOWN").removeprefix("StatusCode.")
    return CallFailed(code, error.message() or "")
