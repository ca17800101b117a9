"""Triton's published vulnerabilities, tried on a running server through its API server.

docs/triton-faults.md lists them all. Each attack must be refused and do no harm: the same processes
run afterwards, and another client can edit.
"""

import gzip
import http.client
import json
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import serialize_byte_tensor

from attack_target import CLOSED, SERVICE, Target
from paths import AVATAR, ROOT
from polling import SECONDS
from styleclip_client import Client
from tools.chaos.fuzz.sockets import PREFACE, encode_headers, frame

POST = b"POST /v2/models/direction/infer HTTP/1.1\r\nHost: a\r\n"
REFUSED = range(400, 500)
TABLE = ROOT / "docs/triton-faults.md"
SHARED_MEMORY_TESTS = ROOT / "tests/serving/test_shared_memory.py"
CVE = r"CVE-\d{4}-\d{5}"


@pytest.fixture(scope="module")
def target(server):
    with Client(server.grpc_url) as client:
        client.edit_photo(AVATAR, client.domain().edit("a sad face"))
    return Target(server)


@pytest.fixture
def unharmed(target):
    """After the test, the same processes run and another client can edit."""
    before = target.process_ids()
    yield
    assert target.process_ids() == before
    with Client(target.server.grpc_url) as client:
        client.edit_photo(AVATAR, client.domain().edit("a sad face"))


def json_tensor(**changes):
    return {"name": "STRENGTH", "datatype": "FP32", "shape": [1, 1], "data": [5.0]} | changes


def build_message(shape=(1, 1), content=bytes(4), outputs=(), **fields):
    """A request for `direction` over gRPC."""
    request = pb.ModelInferRequest(**{"model_name": "direction"} | fields)
    for name in ("NEUTRAL", "TARGET"):
        request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
        text = np.array([b"a face"], np.object_)
        request.raw_input_contents.append(serialize_byte_tensor(text).item())
    for name in ("STRENGTH", "THRESHOLD"):
        request.inputs.add(name=name, datatype="FP32", shape=shape)
        request.raw_input_contents.append(content)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def send_chunks(target, path, address=None):
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    status = target.send([head, *[b"1\r\n \r\n" * 10_000] * 100, b"0\r\n\r\n"], address)
    return 400 if status == CLOSED else status  # closed while the chunks were being sent


def send_nested_arrays(target):
    body = json.dumps({"inputs": [json_tensor(data=0)]}).encode()
    return target.infer(
        body.replace(b'"data": 0', b'"data": %s1%s' % (b"[" * 200_000, b"]" * 200_000))
    )


def request_many_outputs(target):
    return target.infer({"inputs": [json_tensor()], "outputs": [{"name": "DELTA"}] * 50_000})


def send_gzip_bomb(target):
    body = gzip.compress(b" " * 2**28, 1)
    before = target.memory()
    peak, stopping = [before], threading.Event()

    def watch():
        while not stopping.wait(0.01):
            peak.append(target.memory())

    thread = threading.Thread(target=watch)
    thread.start()
    status = target.infer(body, **{"Content-Encoding": "gzip"})
    stopping.set()
    thread.join()
    assert max(peak) - before < 150
    return status


def control_models(target):
    config = {"parameters": {"config": json.dumps({"backend": "../../evil"}), "file:1/x": "AAAA"}}
    statuses = {
        target.post(f"/v2/repository/models/{model}/{action}", json.dumps(config).encode())
        for model in ("e4e", "..%2f..%2fx", "e4e;id", "x" * 300)
        for action in ("load", "unload")
    }
    assert statuses <= {403, 404}
    return max(statuses)


HTTP = {
    "a million chunks of one byte (CVE-2025-23310, -23311, -33202, CVE-2026-47477)": lambda t: (
        send_chunks(t, "/v2/models/direction/infer")
    ),
    "a million chunks to another call (CVE-2025-23311)": lambda t: send_chunks(
        t, "/v2/repository/index"
    ),
    "a million chunks to the metrics (CVE-2025-33201)": lambda t: send_chunks(
        t, "/metrics", t.metrics
    ),
    "200,000 nested arrays (CVE-2025-23325)": send_nested_arrays,
    "a shape of 2^63 - 1 (CVE-2025-23323, -23324)": lambda t: t.infer(
        {"inputs": [json_tensor(name="W_PLUS", shape=[1, 2**63 - 1, 512])]}
    ),
    "sides beyond 64 bits (CVE-2025-23326, -23327, CVE-2026-24173, -24210)": lambda t: t.infer(
        {"inputs": [json_tensor(shape=[2**32, 2**32])]}
    ),
    "a side of zero (CVE-2025-23321)": lambda t: t.infer(
        {"inputs": [json_tensor(shape=[0, 1], data=[])]}
    ),
    "a side below zero (CVE-2025-23328)": lambda t: t.infer(
        {"inputs": [json_tensor(shape=[1, -1])]}
    ),
    "memory of a terabyte (CVE-2025-23331, CVE-2026-47628)": lambda t: t.infer(
        {"inputs": [json_tensor(name="W_PLUS", shape=[1, 2**29, 512])]}
    ),
    "a body of a terabyte (CVE-2025-33201, -33211)": lambda t: t.send(
        [POST + b"Content-Length: 1000000000000\r\n\r\n"]
    ),
    "50,000 outputs (CVE-2026-24146)": request_many_outputs,
    "a number beyond its type (CVE-2026-24174)": lambda t: t.infer(
        {"inputs": [json_tensor(name="FACE", datatype="INT32", data=[1e300])]}
    ),
    "a header that is no number (CVE-2026-24175)": lambda t: t.infer(
        b"{}", **{"Inference-Header-Content-Length": "18446744073709551616x"}
    ),
    "a length beyond 64 bits (CVE-2026-24175)": lambda t: t.send(
        [POST + b"Content-Length: 99999999999999999999\r\n\r\n"]
    ),
    "a binary size beyond the body (CVE-2025-23317)": lambda t: t.infer(
        json.dumps(
            {"inputs": [json_tensor(data=None, parameters={"binary_data_size": 2**62})]}
        ).encode(),
        **{"Inference-Header-Content-Length": "9"},
    ),
    "a compressed body of 256 MB (CVE-2026-24158, -24264)": send_gzip_bomb,
    "control of models (CVE-2024-53880, CVE-2025-23316, -23336, CVE-2026-24147)": control_models,
    "SageMaker's paths (CVE-2025-33238)": lambda t: t.post("/invocations"),
    "a value of the wrong type (CVE-2026-47480, -47629)": lambda t: t.infer(
        {"id": 7, "inputs": [json_tensor(parameters={"a": [None]})], "outputs": [None]}
    ),
}


@pytest.mark.parametrize("attack", HTTP)
def test_an_attack_over_http_is_refused(target, unharmed, attack):
    assert HTTP[attack](target) in REFUSED


GRPC = {
    "a product of sides beyond 64 bits (CVE-2025-23323, CVE-2026-24173)": lambda t: t.call(
        build_message([2**32, 2**32])
    ),
    "a side of zero (CVE-2025-23321)": lambda t: t.call(build_message([0, 1], b"")),
    "a side below zero (CVE-2025-23328)": lambda t: t.call(build_message([1, -1])),
    "memory of a terabyte (CVE-2025-23331)": lambda t: t.call(build_message([1, 2**38])),
    "50,000 outputs (CVE-2026-24146)": lambda t: t.call(build_message(outputs=["DELTA"] * 50_000)),
    "a text longer than its message (CVE-2025-23317)": lambda t: t.call(
        build_message().SerializeToString().replace(b"\6\0\0\0a", b"\xff\xff\xff\xffa")
    ),
    "a message of 200 MB (CVE-2025-33201)": lambda t: t.call(
        build_message(content=bytes(200 * 2**20))
    ),
    "a model outside the repository (CVE-2026-24208, -24209, -47627)": lambda t: t.call(
        build_message(model_name="../steps/direction", model_version="../1")
    ),
    "control of models (CVE-2025-23316)": lambda t: t.call(
        pb.RepositoryModelLoadRequest(model_name="e4e;id"), "RepositoryModelLoad"
    ),
    "a region of the Python backend (CVE-2025-23319, -23329, -23333, -23334)": lambda t: t.call(
        pb.SystemSharedMemoryRegisterRequest(name="a", key="/styleclip_x", byte_size=16),
        "SystemSharedMemoryRegister",
    ),
    "an input in a region (CVE-2025-23318)": lambda t: t.call(build_message_in_region()),
    "tracing to a file (CVE-2026-47606, -47630)": lambda t: t.call(
        pb.TraceSettingRequest(), "TraceSetting"
    ),
    "a log file elsewhere (CVE-2026-47606, -47630)": lambda t: t.call(
        pb.LogSettingsRequest(), "LogSettings"
    ),
}


def build_message_in_region():
    request = build_message()
    parameters = request.inputs[2].parameters
    parameters["shared_memory_region"].string_param = "a"
    parameters["shared_memory_byte_size"].int64_param = 4
    parameters["shared_memory_offset"].int64_param = 2**62
    return request


@pytest.mark.parametrize("attack", GRPC)
def test_an_attack_over_grpc_is_refused(target, unharmed, attack):
    assert GRPC[attack](target) in (
        *("INVALID_ARGUMENT", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "NOT_FOUND"),
    )


RESTRICTED = (
    *("/v2/repository/models/e4e/load", "/v2/repository/models/e4e/unload", "/v2/logging"),
    *("/v2/trace/setting", "/v2/models/e4e/trace/setting"),
    *("/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/a/register"),
    *("/v2/cudasharedmemory/status", "/v2/cudasharedmemory/region/a/register"),
)
SPELLINGS = (
    *(
        lambda path: path,
        lambda path: path + "/",
        lambda path: "/" + path,
        lambda path: path + "?a=b",
    ),
    *(lambda path: path.replace("/v2", "/v2/.."), lambda path: path.replace("/v2/", "/v2//")),
    *(lambda path: path.replace("o", "%6f"), lambda path: path.replace("/v2/", "/v2%2f")),
    *(lambda path: "/models" + path, lambda path: path.upper(), lambda path: path + ";a"),
    lambda path: path.replace("/v2/", "/v2/models/../"),
)


@pytest.mark.parametrize("path", RESTRICTED)
def test_a_restricted_call_cannot_be_reached_by_another_path(target, unharmed, path):
    """CVE-2026-24206, -24207, -47481: restrictions that another path or spelling goes around."""
    for spell in SPELLINGS:
        for method in ("GET", "POST"):
            connection = http.client.HTTPConnection(target.server.http_url, timeout=SECONDS)
            connection.request(method, spell(path), b"{}", {"triton-grpc-protocol-closed": ""})
            assert connection.getresponse().status in REFUSED
            connection.close()


OUTSIDE = (
    *("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "a\\..\\b"),
    *("edit/versions/../1", "edit/versions/1%2f..", "%00edit"),
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_outside_the_repository_is_refused(target, unharmed, name):
    """CVE-2026-24208, -24209, -47627, -47606, -47630."""
    for call in ("config", "ready", "stats", "infer"):
        for method in ("GET", "POST"):
            line = f"{method} /v2/models/{name}/{call} HTTP/1.1\r\nHost: a\r\n\r\n"
            assert target.send([line.encode()]) in REFUSED


def test_streams_that_are_cancelled_at_once_do_no_harm(target, unharmed):
    """CVE-2025-23322, CVE-2026-24266: freed twice, or used after, when a stream is cancelled."""
    content = build_message().SerializeToString()
    for _ in range(100):
        stream = target.channel.stream_stream(SERVICE + "ModelStreamInfer")(iter([content] * 5))
        stream.cancel()
    calls = [target.channel.unary_unary(SERVICE + "ModelInfer").future(content) for _ in range(100)]
    for call in calls:
        call.cancel()


def test_a_method_whose_name_is_not_utf_8_is_unknown(target, unharmed):
    """It ends grpcio's server for asyncio (1.85), so that no client of gRPC could connect."""
    content = PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, encode_headers(b"/\xc5\xe2/\xff"))
    host, port = target.server.grpc_url.split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(content)
            assert connection.recv(100)


def test_a_stream_gets_a_response_for_each_request(target, unharmed):
    content = build_message(outputs=["CHANNELS"])
    content.raw_input_contents[1] = serialize_byte_tensor(
        np.array([b"a sad face"], np.object_)
    ).item()
    content.raw_input_contents[2] = np.float32(5).tobytes()
    wrong = build_message([0, 1], b"")
    stream = target.channel.stream_stream(
        SERVICE + "ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
    )
    responses = list(stream(iter(each.SerializeToString() for each in (content, wrong, content))))
    assert [bool(response.error_message) for response in responses] == [False, True, False]
    assert responses[0].infer_response.outputs[0].name == "CHANNELS"


def test_an_endless_header_takes_no_memory(target, unharmed):
    """CVE-2026-47476, -47479, -47482: memory that a client takes and that is not given back."""
    before = target.memory()
    for address in (target.server.http_url, target.metrics):
        assert target.send([b"GET /v2 HTTP/1.1\r\nX: ", *[b"a" * 2**20] * 64], address) in (
            CLOSED,
            400,
        )
    assert target.memory() - before < 64


def test_half_open_connections_do_not_close_other_clients_connections(target, unharmed):
    """CVE-2026-47478: descriptors that are used up or used after they were closed."""
    host, port = target.server.http_url.split(":")
    connections = []
    try:
        for _ in range(600):
            connections.append(socket.create_connection((host, int(port)), timeout=SECONDS))
        assert target.infer(b"{}") == 400
    finally:
        for connection in connections:
            connection.close()


def test_every_vulnerability_that_is_listed_as_mitigated_is_tried():
    rows = [row for row in TABLE.read_text().splitlines() if re.match(r"\| .*CVE-", row)]
    mitigated = {cve for row in rows if "| mitigated" in row for cve in re.findall(CVE, row)}
    listed = {cve for row in rows for cve in re.findall(CVE, row)}
    text = Path(__file__).read_text() + SHARED_MEMORY_TESTS.read_text()
    tried = set()
    for year, numbers in re.findall(r"CVE-(\d{4})-(\d{5}(?:, -\d{5})*)", text):
        tried |= {f"CVE-{year}-{number}" for number in re.findall(r"\d{5}", numbers)}
    assert len(mitigated) > 40
    assert mitigated <= tried <= listed
