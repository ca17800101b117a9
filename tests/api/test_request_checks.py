"""What the API server checks before it calls Triton, tried without a server."""

import asyncio
import gzip
import json
import tracemalloc
import zlib

import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from styleclip_contract import wire
from styleclip_contract.errors import ServerBusy
from styleclip_server.api import problems
from styleclip_server.api.access import Access
from styleclip_server.api.admission import Admission
from styleclip_server.api.http_body import BodyReader
from styleclip_server.api.kserve import inference, json_messages, regions
from styleclip_server.api.kserve.http_proxy import HttpProxy
from styleclip_server.api.refusals import Refused
from styleclip_server.serving.configs import step_config

DIRECTION = step_config(wire.DIRECTION, "cpu")
EDIT = step_config(wire.EDIT, "cpu")
TEXT = (6).to_bytes(4, "little") + b"a face"


def build_request(**changes):
    """A valid request, with some of its fields changed."""
    request = ModelInferRequest(model_name="direction")
    for name, datatype, content in (
        ("NEUTRAL", "BYTES", TEXT),
        ("TARGET", "BYTES", TEXT),
        ("STRENGTH", "FP32", bytes(4)),
        ("THRESHOLD", "FP32", bytes(4)),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(content)
    for path, value in changes.items():
        setattr(request, path, value)
    return request


def check(request, config=DIRECTION, shared_memory=False):
    interface = inference.ModelInterface.of(config)
    return inference.check(request, interface, allow_shared_memory=shared_memory)


def parse(message):
    inference.read_form(message)
    return inference.parse(message)


def change_shape(request, *shape):
    request.inputs[2].shape[:] = shape


def test_a_valid_request_passes_unchanged():
    request = build_request()
    before = request.SerializeToString()
    assert check(parse(before)) == 1
    assert parse(before).SerializeToString() == before


CHANGES = {
    "a shape whose product overflows": lambda r: change_shape(r, 2**62, 4),
    "a shape of 2^63 - 1": lambda r: change_shape(r, 1, 2**63 - 1),
    "a negative side": lambda r: change_shape(r, 1, -1),
    "a batch of none": lambda r: change_shape(r, 0, 1),
    "a batch beyond the model's": lambda r: change_shape(r, 9, 1),
    "a million edits": lambda r: (
        change_shape(r, 1, 10**6),
        r.raw_input_contents.__setitem__(2, bytes(4 * 10**6)),
    ),
    "no shape": lambda r: change_shape(r),
    "a shape of 10,000 sides": lambda r: change_shape(r, *[1] * 10_000),
    "another type": lambda r: setattr(r.inputs[2], "datatype", "INT64"),
    "an unknown input": lambda r: setattr(r.inputs[2], "name", "SHAPE"),
    "an input twice": lambda r: setattr(r.inputs[3], "name", "STRENGTH"),
    "a missing input": lambda r: (r.inputs.pop(), r.raw_input_contents.pop()),
    "too few bytes": lambda r: r.raw_input_contents.__setitem__(2, bytes(3)),
    "too many bytes": lambda r: r.raw_input_contents.__setitem__(2, bytes(8)),
    "too few contents": lambda r: r.raw_input_contents.pop(),
    "too many contents": lambda r: r.raw_input_contents.append(b""),
    "both kinds of contents": lambda r: r.inputs[2].contents.fp32_contents.append(1),
    "a text longer than its bytes": lambda r: r.raw_input_contents.__setitem__(
        0, b"\xff\xff\xff\xff"
    ),
    "two texts where one is stated": lambda r: r.raw_input_contents.__setitem__(0, TEXT + TEXT),
    "half a length": lambda r: r.raw_input_contents.__setitem__(0, TEXT + b"\0\0"),
    "different batches": lambda r: (
        change_shape(r, 2, 1),
        r.raw_input_contents.__setitem__(2, bytes(8)),
    ),
    "an unknown output": lambda r: r.outputs.add(name="PICTURE"),
    "an output twice": lambda r: (r.outputs.add(name="DELTA"), r.outputs.add(name="DELTA")),
    "a classification of a billion": lambda r: setattr(
        r.outputs.add(name="DELTA").parameters["classification"], "int64_param", 10**9
    ),
    "a version that is not a number": lambda r: setattr(r, "model_version", "1/../2"),
    "an id of a megabyte": lambda r: setattr(r, "id", "x" * 2**20),
    "a hundred parameters": lambda r: [
        setattr(r.parameters[str(i)], "bool_param", True) for i in range(100)
    ],
}
REGIONS = {
    "for an input": lambda r: setattr(
        r.inputs[2].parameters["shared_memory_region"], "string_param", "a"
    ),
    "for an output": lambda r: setattr(
        r.outputs.add(name="DELTA").parameters["shared_memory_offset"], "int64_param", -1
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_invalid_request_is_refused(change):
    request = build_request()
    CHANGES[change](request)
    with pytest.raises(Refused) as refusal:
        check(parse(request.SerializeToString()))
    assert refusal.value.http_status == 400


@pytest.mark.parametrize("change", REGIONS)
def test_a_region_is_refused_unless_shared_memory_is_allowed(change):
    request = build_request()
    REGIONS[change](request)
    with pytest.raises(Refused) as refusal:
        check(parse(request.SerializeToString()))
    assert refusal.value.http_status == 403


@pytest.mark.parametrize(
    "parameters",
    [
        {"shared_memory_region": "a"},
        {"shared_memory_region": "a", "shared_memory_byte_size": -4},
        {"shared_memory_region": "a", "shared_memory_byte_size": 2**63 - 1},
        {"shared_memory_region": "a", "shared_memory_byte_size": 3},
        {"shared_memory_region": "a", "shared_memory_byte_size": 4, "shared_memory_offset": -1},
        {"shared_memory_region": "", "shared_memory_byte_size": 4},
        {"shared_memory_byte_size": 4},
    ],
)
def test_a_region_is_checked_where_shared_memory_is_allowed(parameters):
    request = build_request()
    del request.raw_input_contents[2]
    for name, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(request.inputs[2].parameters[name], field, value)
    with pytest.raises(Refused):
        check(request, shared_memory=True)


KEYS = (
    *("/styleclip_0a1b2c3d_0", "/triton_python_backend_shm_region_1"),
    *("/../etc/passwd", "/", "", "/.", "/nothing-has-this-name"),
)


@pytest.mark.parametrize("key", KEYS)
def test_only_a_clients_own_region_can_be_registered(key):
    with pytest.raises(Refused):
        regions.check_registration("a", key, 0, 16)


def test_typed_contents_become_raw():
    request = build_request()
    raw = list(request.raw_input_contents)
    del request.raw_input_contents[:]
    for tensor in request.inputs[:2]:
        tensor.contents.bytes_contents.append(b"a face")
    for tensor in request.inputs[2:]:
        tensor.contents.fp32_contents.append(0)
    check(request)
    assert list(request.raw_input_contents) == raw
    assert not any(tensor.HasField("contents") for tensor in request.inputs)


def test_the_wrong_latent_has_its_name():
    request = ModelInferRequest(model_name="edit")
    for tensor in build_request().inputs:
        request.inputs.append(tensor)
    request.raw_input_contents.extend(build_request().raw_input_contents)
    request.inputs.add(name="W_PLUS", datatype="FP32", shape=[1, 14, 256])
    request.raw_input_contents.append(bytes(14 * 256 * 4))
    with pytest.raises(Refused, match=r"InvalidLatent: W_PLUS has the shape \[1, 14, 256\]"):
        check(request, EDIT)


def encode_varint(number):
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


MESSAGES = {
    "16 million empty inputs": b"\x2a\x00" * 2**24,
    "16 million parameters": b"\x22\x00" * 2**24,
    "one input of 16 million parameters": b"\x2a" + encode_varint(2**25) + b"\x22\x00" * 2**24,
    "packed sides": b"\x2a"
    + encode_varint(2**25)
    + b"\x1a"
    + encode_varint(2**25 - 5)
    + bytes(2**25 - 5),
    "groups in groups": b"\x0b" * 2**20,
    "a length beyond the end": b"\x2a\xff\xff\xff\xff\x0f",
    "an endless number": b"\xff" * 2**20,
    "a compressed message": gzip.compress(b"x"),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_refused_before_it_takes_memory(message):
    tracemalloc.start()
    try:
        with pytest.raises(Refused):
            parse(MESSAGES[message])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def build_body(**changes):
    entry = {"name": "STRENGTH", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2.5]]}
    return json.dumps({"inputs": [entry | changes]}).encode()


def decode(body, length=None):
    return json_messages.decode_request("direction", "", body, length)


def test_json_data_become_raw():
    request, _ = decode(build_body())
    assert request.raw_input_contents == [np.array([1, 2.5], "<f4").tobytes()]
    request, _ = decode(build_body(datatype="BYTES", data=["a face", "é"], shape=[2]))
    assert request.raw_input_contents == [TEXT + b"\2\0\0\0" + "é".encode()]
    request, _ = decode(build_body(datatype="BOOL", data=[True, False]))
    assert request.raw_input_contents == [b"\1\0"]


BODIES = {
    "nothing": b"",
    "a number": b"1",
    "200,000 nested arrays": build_body(data=0).replace(
        b'"data": 0', b'"data": ' + b"[" * 200_000 + b"]" * 200_000
    ),
    "900 nested arrays": build_body(data=0).replace(
        b'"data": 0', b'"data":' + b"[" * 900 + b"]" * 900
    ),
    "nested objects as a parameter": b'{"parameters":{"a":' + b'{"a":' * 900 + b"1" + b"}" * 902,
    "a million arrays": build_body(data=0).replace(
        b'"data": 0', b'"data": [' + b"[]," * 10**6 + b"[]]"
    ),
    "a ragged array": build_body(data=[[1], 2]),
    "a text among numbers": build_body(data=[1, "2"]),
    "a bool among numbers": build_body(data=[1, True]),
    "an object as data": build_body(data={}),
    "no data": build_body(data=None),
    "numbers as texts": build_body(datatype="BYTES"),
    "a number beyond its type": build_body(datatype="UINT8", data=[1, 256]),
    "half a character": build_body(datatype="BYTES", data=["\ud800"]),
    "an unknown type": build_body(datatype="FP64"),
    "a negative shape": build_body(shape=[-1]),
    "a shape beyond 64 bits": build_body(shape=[2**64]),
    "a shape of numbers with points": build_body(shape=[1.0]),
    "a shape of bools": build_body(shape=[True]),
    "a rank of 1,000": build_body(shape=[1] * 1000),
    "more binary data than there are": build_body(parameters={"binary_data_size": 2**40}),
    "a negative binary size": build_body(parameters={"binary_data_size": -1}),
    "a bool as binary size": build_body(parameters={"binary_data_size": True}),
    "a list as parameter": build_body(parameters={"a": []}),
    "65 inputs": json.dumps({"inputs": [{}] * 65}).encode(),
    "inputs that are not a list": b'{"inputs": {}}',
    "an id that is not a text": b'{"id": 1, "inputs": []}',
    "NaN": build_body(data=[float("nan")]),
    "two million numbers": build_body(data=0).replace(
        b'"data": 0', b'"data":[1' + b",1" * 2**21 + b"]"
    ),
    "17 MiB": b'{"a":"' + b"x" * 17 * 2**20 + b'"}',
}


@pytest.mark.parametrize("body", BODIES)
def test_an_invalid_body_is_refused(body):
    with pytest.raises(Refused) as refusal:
        decode(BODIES[body])
    assert refusal.value.http_status == 400


@pytest.mark.parametrize(
    "length", [b"0", b"-1", b"+10", b"1e3", b"9999", b"9" * 30, b"x", b"", b"10"]
)
def test_an_inconsistent_length_of_the_header_is_refused(length):
    with pytest.raises(Refused):
        decode(build_body(), length)


def test_a_body_with_more_bytes_than_its_inputs_is_refused():
    with pytest.raises(Refused, match="belong to no input"):
        decode(build_body() + b"more", str(len(build_body())).encode())


def test_a_response_is_json_or_binary_data_as_requested():
    response = ModelInferResponse(model_name="direction", model_version="1")
    for name, datatype, content in (("DELTA", "FP32", bytes(8)), ("PICTURE", "BYTES", TEXT)):
        response.outputs.add(name=name, datatype=datatype, shape=[1, 2])
        response.raw_output_contents.append(content)
    binary = json_messages.BinaryOutputs(default=False)
    body, length = json_messages.encode_response(response.SerializeToString(), binary)
    outputs = json.loads(body)["outputs"]
    assert length is None
    assert [output["data"] for output in outputs] == [[0.0, 0.0], ["a face"]]
    binary.by_name["PICTURE"] = True
    body, length = json_messages.encode_response(response.SerializeToString(), binary)
    assert body[length:] == TEXT
    entry = json.loads(body[:length])["outputs"][1]
    assert entry["parameters"] == {"binary_data_size": len(TEXT)}


def read_body(*chunks, headers=(), limit=2**20):
    """Read a body that arrives in chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False

    async def receive():
        return messages.pop(0)

    return asyncio.run(BodyReader(limit).read({"headers": list(headers)}, receive))


@pytest.mark.parametrize(
    "encoding, compress", [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_a_compressed_body_is_bounded_as_it_grows(encoding, compress):
    header = (b"content-encoding", encoding)
    assert read_body(compress(b"a face"), headers=[header]) == b"a face"
    bomb = compress(bytes(2**28))
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as refusal:
            read_body(bomb, headers=[header])
        assert refusal.value.http_status == 413
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    for damaged in (compress(b"a face")[:-3], compress(b"a face") * 2, b"a face", b""):
        with pytest.raises(Refused):
            read_body(damaged, headers=[header])
    with pytest.raises(Refused):
        read_body(b"a face", headers=[(b"content-encoding", b"gzip, gzip")])


def test_a_body_beyond_the_limit_is_refused_before_it_is_read():
    with pytest.raises(Refused) as refusal:
        read_body(b"", headers=[(b"content-length", b"1000000000000")])
    assert refusal.value.http_status == 413
    assert "ImageTooLarge: " in refusal.value.message
    with pytest.raises(Refused):
        read_body(bytes(2**19), bytes(2**19), b"x")


def test_admission_counts_rows_and_refuses_at_once():
    admission = Admission(2)
    with admission.enter(), admission.enter():
        with pytest.raises(Refused, match="queue size") as refusal:
            admission.enter().__enter__()
        assert refusal.value.retry_after
    with pytest.raises(ZeroDivisionError), admission.enter(8):
        assert admission.load.running == 2
        raise ZeroDivisionError
    assert admission.load.running == 0
    assert (admission.load.admitted, admission.load.refused) == (3, 1)


def test_a_token_is_needed_and_the_rate_is_that_of_a_caller():
    access = Access({"secret": "ada", "other": "bob"}, rate=1)
    for wrong in (None, "", "Bearer", "Bearer ", "Basic secret", "Bearer secre", "Bearer sécret"):
        with pytest.raises(Refused) as refusal:
            access.check(wrong, "::1")
        assert refusal.value.http_status == 401
    for _ in range(2):
        access.check("Bearer secret", "::1")
        access.check(b"bearer other", "::1")
    with pytest.raises(Refused) as refusal:
        access.check("Bearer secret", "1.2.3.4")
    assert refusal.value.http_status == 429
    assert 0 < refusal.value.retry_after <= 1


@pytest.mark.parametrize(("seconds", "header"), [(None, "1"), (0.2, "1"), (1.4, "2"), (3.0, "3")])
def test_retry_after_is_rounded_up(seconds, header):
    response = problems.response(ServerBusy("later"), "an-id", retry_after=seconds)
    assert response.headers["retry-after"] == header


def test_a_bug_is_answered_in_the_form_of_the_protocol_and_raised_for_the_log():
    class Broken:
        async def read(self, *_):
            raise KeyError("a bug")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"method": "POST", "raw_path": b"/v2/models/edit/infer", "headers": []}
    proxy = HttpProxy(None, None, allow_shared_memory=False, bodies=Broken())
    with pytest.raises(KeyError):
        asyncio.run(proxy(scope, None, send))
    assert sent[0]["status"] == 500
    assert list(json.loads(sent[1]["body"])) == ["error"]
