"""KServe's protocol at the API server, by NVIDIA's own clients."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from paths import AVATAR
from polling import SECONDS, wait_until
from servers import running_server
from styleclip_client import Client
from styleclip_contract.errors import AccessRefused, ServerBusy
from styleclip_server.serving.options import Options

VALUES = {
    "NEUTRAL": np.array([[b"a face"]], np.object_),
    "TARGET": np.array([[b"a sad face"]], np.object_),
    "STRENGTH": np.array([[5]], np.float32),
    "THRESHOLD": np.array([[0.15]], np.float32),
}
TEXTS = ("NEUTRAL", "TARGET")
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def over_http(server):
    client = triton_http.InferenceServerClient(server.http_url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def over_grpc(server):
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


def inputs(module, **options):
    tensors = []
    for name, value in VALUES.items():
        datatype = "BYTES" if value.dtype == np.object_ else "FP32"
        tensors.append(module.InferInput(name, list(value.shape), datatype))
        tensors[-1].set_data_from_numpy(value, **options)
    return tensors


@pytest.fixture(scope="module")
def expected(over_grpc):
    response = over_grpc.infer("direction", inputs(triton_grpc))
    return {name: response.as_numpy(name) for name in ("DELTA", "CHANNELS")}


def assert_expected(response, expected):
    for name, value in expected.items():
        assert np.array_equal(response.as_numpy(name), value)


def test_both_clients_read_health_metadata_and_statistics(over_http, over_grpc):
    for client in (over_http, over_grpc):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("edit")
        assert not client.is_model_ready("nothing")
    assert over_http.get_server_metadata()["name"] == over_grpc.get_server_metadata().name
    names = {model["name"] for model in over_http.get_model_repository_index()}
    assert names == {model.name for model in over_grpc.get_model_repository_index().models}
    assert over_http.get_model_config("edit")["name"] == "edit"
    assert over_http.get_model_metadata("edit", "1")["versions"] == ["1"]
    assert over_http.get_inference_statistics("edit")["model_stats"][0]["name"] == "edit"


@pytest.mark.parametrize("binary", [True, False])
def test_data_are_binary_or_json_both_ways(over_http, expected, binary):
    outputs = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in expected]
    response = over_http.infer(
        "direction", inputs(triton_http, binary_data=binary), outputs=outputs
    )
    assert_expected(response, expected)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_data_are_compressed_both_ways(over_http, over_grpc, expected, algorithm):
    response = over_http.infer(
        "direction",
        inputs(triton_http),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert_expected(response, expected)
    response = over_grpc.infer("direction", inputs(triton_grpc), compression_algorithm=algorithm)
    assert_expected(response, expected)


def test_id_version_and_parameters_are_forwarded(over_http, over_grpc, expected):
    options = {"model_version": "1", "request_id": "mine", "priority": 1, "timeout": 10_000_000}
    for client, module in ((over_http, triton_http), (over_grpc, triton_grpc)):
        result = client.infer("direction", inputs(module), **options)
        assert_expected(result, expected)
        response = result.get_response()
        assert (response["id"] if module is triton_http else response.id) == "mine"


def test_a_classification_is_returned(over_http):
    output = triton_http.InferRequestedOutput("DELTA", class_count=3)
    response = over_http.infer("direction", inputs(triton_http), outputs=[output])
    assert response.as_numpy("DELTA").shape == (1, 3)


def test_an_image_as_json_is_refused_with_what_to_do(server):
    with Client(server.grpc_url) as client:
        latent = client.invert(AVATAR).w_plus
    values = {"W_PLUS": latent[None], **VALUES}
    entries = [
        {
            "name": name,
            "datatype": "BYTES" if value.dtype == np.object_ else "FP32",
            "shape": list(value.shape),
            "data": [text.decode() for text in value.flat] if name in TEXTS else value.tolist(),
        }
        for name, value in values.items()
    ]
    body = {"inputs": entries}
    url = f"http://{server.http_url}/v2/models/edit/infer"
    response = httpx.post(url, json=body, timeout=SECONDS)
    assert response.status_code == 400
    assert "binary_data" in response.json()["error"]


def test_errors_have_the_statuses_of_triton(over_http, over_grpc):
    for client, module, status in (
        (over_http, triton_http, "404"),
        (over_grpc, triton_grpc, "StatusCode.NOT_FOUND"),
    ):
        with pytest.raises(InferenceServerException, match="unknown model") as caught:
            client.infer("nothing", inputs(module))
        assert caught.value.status() == status
        with pytest.raises(InferenceServerException, match="STRENGTH"):
            client.infer("direction", inputs(module)[:2])


def test_the_health_check_of_grpc_passes(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A server that requires a token and runs one inference at a time."""
    folder = tmp_path_factory.mktemp("narrow")
    options = Options(domain="avatars", log=folder / "log", max_concurrent=1, token=TOKEN)
    with running_server(options) as server:
        yield server


@pytest.mark.parametrize("prefix", ["", "http://"])
def test_a_token_is_needed_on_both_protocols(narrow, prefix):
    address = prefix + (narrow.http_url if prefix else narrow.grpc_url)
    with Client(address, retries=0) as client, pytest.raises(AccessRefused):
        client.status()
    with Client(address, retries=0, token=TOKEN) as client:
        client.domain()


def test_the_bound_of_requests_counts_for_both_protocols_at_once(narrow):
    addresses = (narrow.grpc_url, f"http://{narrow.http_url}")
    expected = {(address, kind) for address in addresses for kind in ("edited", "busy")}
    outcomes, stopping = set(), threading.Event()

    def edit_until_stopped(address):
        with Client(address, retries=0, token=TOKEN) as client:
            edit = client.domain().edit("a sad face")
            while not stopping.is_set():
                try:
                    client.edit_photo(AVATAR, edit)
                    outcomes.add((address, "edited"))
                except ServerBusy:
                    outcomes.add((address, "busy"))
                    time.sleep(0.005)

    with ThreadPoolExecutor(len(addresses)) as pool:
        running = [pool.submit(edit_until_stopped, address) for address in addresses]
        try:
            wait_until(lambda: outcomes == expected)
        finally:
            stopping.set()
        for future in running:
            future.result()  # raises what was neither an edit nor a refusal


def test_a_busy_server_says_when_to_retry(narrow):
    request = pb.ModelInferRequest(model_name="invert")
    photo = AVATAR.read_bytes()
    request.inputs.add(name="PHOTO", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(photo).to_bytes(4, "little") + photo)
    content, metadata = request.SerializeToString(), [("authorization", f"Bearer {TOKEN}")]
    with grpc.insecure_channel(narrow.grpc_url) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def refused_calls():
            calls = [infer.future(content, metadata=metadata) for _ in range(4)]
            return [call for call in calls if call.code() is not grpc.StatusCode.OK]

        for call in wait_until(refused_calls):
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert dict(call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
