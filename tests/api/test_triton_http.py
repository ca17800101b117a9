"""Plain inference requests, which reach Triton over HTTP in place of gRPC."""

import asyncio
import json
import re

import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from polling import SECONDS
from styleclip_server.api.kserve import triton_http
from styleclip_server.api.kserve.json_messages import BinaryOutputs
from styleclip_server.api.kserve.triton_http import TritonHttp, is_plain
from styleclip_server.api.refusals import Refused

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
RESPONSE = b'{"outputs":[]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n"


def build_request(**fields):
    request = ModelInferRequest(model_name="direction", **fields)
    request.inputs.add(name="NEUTRAL", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\x00\x00\x00\x00")
    request.outputs.add(name="DELTA")
    return request


def test_a_request_of_tensors_and_a_simple_id_is_plain():
    assert is_plain(build_request(id="0af-7651.9:x_"), BinaryOutputs(default=True))


@pytest.mark.parametrize("fields", [{"id": 'a"b'}, {"id": "a\r\nb"}, {"model_version": "1"}])
def test_other_text_of_a_client_is_not_plain(fields):
    assert not is_plain(build_request(**fields), BinaryOutputs(default=True))


@pytest.mark.parametrize("part", ["request", "input", "output"])
def test_a_parameter_is_not_plain(part):
    request = build_request()
    owner = {"request": request, "input": request.inputs[0], "output": request.outputs[0]}[part]
    owner.parameters["priority"].int64_param = 1
    assert not is_plain(request, BinaryOutputs(default=True))


def test_an_output_as_json_is_not_plain():
    binary = BinaryOutputs(default=True)
    binary.by_name["DELTA"] = False
    assert not is_plain(build_request(), binary)
    request = build_request()
    del request.outputs[:]
    assert not is_plain(request, BinaryOutputs(default=False))


def test_a_large_request_is_not_plain():
    request = build_request()
    request.raw_input_contents[0] = bytes(triton_http.PLAIN_BYTES + 1)
    assert not is_plain(request, BinaryOutputs(default=True))


@pytest.mark.parametrize("strength", [1.0, float("nan")])
def test_responses_are_those_of_requests_over_grpc(api, strength):
    values = {"NEUTRAL": "a face", "TARGET": "a sad face", "STRENGTH": 1.0, "THRESHOLD": 0.15}
    body = json.dumps(
        {
            "id": "mine",
            "parameters": {"binary_data_output": True},
            "inputs": [
                {
                    "name": name,
                    "datatype": "BYTES" if isinstance(value, str) else "FP32",
                    "shape": [1, 1],
                    "data": [value],
                }
                for name, value in (values | {"STRENGTH": strength}).items()
            ],
        }
    ).replace("NaN", "1e99")
    plain, over_grpc = (
        api.post("/v2/models/direction/infer", content=body, headers=headers)
        for headers in ({}, TRACE)
    )
    assert plain.status_code == over_grpc.status_code == (200 if strength == 1 else 400)
    assert read(plain) == read(over_grpc)


def read(response):
    """Return the JSON of a response without the call's number, and its tensors."""
    length = int(response.headers.get("inference-header-content-length", len(response.content)))
    document = json.loads(response.content[:length])
    document.get("parameters", {}).pop("sequence_id", None)
    return document, response.content[length:]


def infer_at_a_server(*steps):
    """Send a request per step to a server that answers it by that step; return the results."""
    received = []

    async def serve(reader, writer):
        while len(received) < len(steps):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"\r\nContent-Length: (\d+)", head)[1])
            await reader.readexactly(length)
            step = steps[len(received)]
            received.append(writer.get_extra_info("peername"))
            writer.write(step)
            if not step:
                break
        writer.close()

    async def run():
        results = []
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            triton = TritonHttp(f"127.0.0.1:{port}")
            for _ in steps:
                try:
                    results.append(await triton.infer(build_request(), 1))
                except Refused as refused:
                    results.append(refused.http_status)
                await asyncio.sleep(0)
        return results

    return asyncio.run(run()), len(set(received))


OK = HEAD % (len(RESPONSE), b"") + RESPONSE


def test_a_connection_is_used_again():
    with_data = HEAD % (len(RESPONSE) + 3, b"Inference-Header-Content-Length: 14\r\n")
    results, connections = infer_at_a_server(OK, with_data + RESPONSE + b"abc")
    assert results == [(RESPONSE, 14), (RESPONSE + b"abc", 14)]
    assert connections == 1


@pytest.mark.parametrize("step", [b"", b"no HTTP\r\n\r\n"])
def test_a_response_that_does_not_come_is_an_unavailable_server(step):
    results, connections = infer_at_a_server(OK, step, OK)
    assert results == [(RESPONSE, 14), 503, (RESPONSE, 14)]
    assert connections == 2


def test_a_canceled_call_ends_in_the_background():
    async def run():
        arrived, ready = asyncio.Event(), asyncio.Event()

        async def serve(reader, writer):
            await reader.readuntil(b"NEUTRAL")
            arrived.set()
            await ready.wait()
            writer.write(OK)

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            triton = TritonHttp(f"127.0.0.1:{port}")
            call = asyncio.create_task(triton.infer(build_request(), 1))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert not triton._idle
            ready.set()
            await asyncio.wait_for(until_idle(triton), SECONDS)

    async def until_idle(triton):
        while not triton._idle:
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_server_that_cannot_be_reached_is_unavailable():
    with pytest.raises(Refused, match="starting or stopping"):
        asyncio.run(TritonHttp("127.0.0.1:1").infer(build_request(), 1))
