"""Calls over gRPC, by tritonclient: one way to say them, sent in two ways."""

from __future__ import annotations

from typing import Any

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from styleclip_client.address import Connection
from styleclip_client.protocol import Ask, Call, Failed, Infer, outputs_of
from styleclip_contract import limits

# gRPC refuses answers over 4 MB unless told otherwise; a large PNG has more.
_SEND_LIMIT = limits.PHOTO_BYTES + 2**20


class GrpcTransport:
    """Sends calls over one channel, from any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = triton.InferenceServerClient(**_options(connection))

    def send(self, call: Call, timeout: float) -> Any:
        """The answer to `call` within `timeout` seconds; raises Failed."""
        method, arguments = _prepared(self._connection, call, timeout)
        try:
            return _decoded(call, getattr(self._client, method)(**arguments))
        except InferenceServerException as error:
            raise _failed(error) from error

    def close(self) -> None:
        self._client.close()


class AsyncGrpcTransport:
    """The same within one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = triton_aio.InferenceServerClient(**_options(connection))

    async def send(self, call: Call, timeout: float) -> Any:
        method, arguments = _prepared(self._connection, call, timeout)
        try:
            return _decoded(call, await getattr(self._client, method)(**arguments))
        except InferenceServerException as error:
            raise _failed(error) from error

    async def close(self) -> None:
        await self._client.close()


def _options(connection: Connection) -> dict[str, Any]:
    channel: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", _SEND_LIMIT),
        ("grpc.max_receive_message_length", limits.ANSWER_BYTES),
        # gRPC waits up to two minutes before it looks again for a server that went away, and
        # fails every call until then.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A host that vanished without a word: calls under way would wait for their time-out, and
        # later ones follow them. gRPC has two time-outs for the answer; the shorter one counts.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
    ]
    address = connection.address
    if address.loopback:  # an http_proxy of the environment would send even this to the proxy
        channel.append(("grpc.enable_http_proxy", 0))
    else:
        # A name may stand for many servers, as a headless service of Kubernetes does: each call
        # goes to the next one. When one goes, the name is looked up anew, for those that came.
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


def _prepared(connection: Connection, call: Call, timeout: float) -> tuple[str, dict[str, Any]]:
    """The method of tritonclient and its arguments."""
    arguments: dict[str, Any] = {
        "client_timeout": timeout,
        "headers": {name.lower(): value for name, value in connection.headers.items()} or None,
    }
    if isinstance(call, Ask):
        return call.method, {**arguments, **call.arguments}
    inputs, outputs = [], []
    for tensor in call.model.inputs:
        if tensor.name in call.tensors:
            array = call.tensors[tensor.name]
            entry = triton.InferInput(tensor.name, list(array.shape), tensor.datatype)
            if place := call.places.get(tensor.name):
                entry.set_shared_memory(place.region, array.nbytes, place.offset)
            else:
                entry.set_data_from_numpy(array)
            inputs.append(entry)
    for tensor in call.model.outputs:
        outputs.append(triton.InferRequestedOutput(tensor.name))
        if place := call.places.get(tensor.name):
            outputs[-1].set_shared_memory(place.region, place.size, place.offset)
    # All outputs: Triton's ensembles fail for some when asked for only a part of them.
    return "infer", {
        **arguments,
        "model_name": call.model.name,
        "request_id": connection.request_id(call.id),
        "inputs": inputs,
        "outputs": outputs,
        "compression_algorithm": connection.compression,
    }


def _decoded(call: Call, answer: Any) -> Any:
    if isinstance(call, Infer):
        names = [tensor.name for tensor in call.model.outputs]
        return outputs_of(call.model, {name: _tensor(call, answer, name) for name in names})
    if answer is None:
        return {}
    if call.yes_or_no:
        return bool(answer)
    content = MessageToDict(answer, preserving_proto_field_name=True)
    # Two answers stand one level lower than in the HTTP protocol.
    if call.method == "get_model_repository_index":
        return content.get("models", [])
    return content.get("config", content)


def _tensor(call: Infer, answer: Any, name: str) -> NDArray[Any] | None:
    place, output = call.places.get(name), answer.get_output(name)
    if place is None or output is None:
        return answer.as_numpy(name)  # type: ignore[no-any-return]
    return place.array(output.shape, triton_to_np_dtype(output.datatype))


def _failed(error: InferenceServerException) -> Failed:
    code = (error.status() or "UNKNOWN").removeprefix("StatusCode.")
    return Failed(code, error.message() or "")
