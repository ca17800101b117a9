"""The gateway of docker/compose.yaml: its own nginx.conf, run by nginx before the real server."""

import base64
import os
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from styleclip_client import Client
from styleclip_contract import limits
from styleclip_contract.errors import AccessRefused, ImageTooLarge, ServerBusy, ServerUnavailable
from tools.chaos import gateway as compose

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "demo/samples/avatar-1.png"
SCHEMES = ("grpcs", "https")

pytestmark = pytest.mark.skipif(not compose.NGINX, reason="no nginx: apt-get install nginx-light")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(process, port, log):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


class Gateway(compose.Gateway):
    """The gateway, and what asks it."""

    def client(self, scheme, token=None, **options):
        url = f"{scheme}://localhost:{self.port}"
        return Client(url, token=token or self.tokens["tester"], ca=self.ca, **options)

    def asked(self, path, *headers):
        """The status of a GET over TLS."""
        context = ssl.create_default_context(cafile=self.ca)
        lines = [f"GET {path} HTTP/1.1", f"Host: localhost:{self.port}", *headers, "", ""]
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall("\r\n".join(lines).encode())
            return int(secure.recv(4096).split()[1])

    def login(self, password=None):
        pair = base64.b64encode(f"tester:{password or self.passwords['tester']}".encode()).decode()
        return f"Authorization: Basic {pair}"


@pytest.fixture(scope="module")
def page_port(server, tmp_path_factory):
    pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
    port, log = free_port(), tmp_path_factory.mktemp("page") / "log"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT / "streamlit-ui",
            env=os.environ | {"STYLECLIP_SERVER": server.grpc_url},
            stdout=said,
            stderr=said,
        )
    try:
        wait_for_port(process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def gateway(server, page_port, tmp_path_factory):
    gateway = Gateway(
        tmp_path_factory.mktemp("gateway"),
        grpc=server.grpc_url,
        http=server.http_url,
        page=f"127.0.0.1:{page_port}",
    )
    try:
        yield gateway
    finally:
        gateway.stop()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_who_has_a_token_edits_through_tls(gateway, scheme):
    with gateway.client(scheme) as client:
        edited = client.edit_photo(PHOTO, client.domain().edit("a sad face"))
        assert edited.image().size == (256, 256)
        assert client.status().ready
        assert client.timings()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_who_has_another_token_is_refused(gateway, scheme):
    with gateway.client(scheme, token="0" * 48) as client:
        for call in (client.domain, lambda: client.invert(PHOTO)):
            with pytest.raises(AccessRefused, match="no valid token"):
                call()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_who_does_not_trust_the_certificate_sends_nothing(gateway, scheme):
    url = f"{scheme}://localhost:{gateway.port}"
    with (
        Client(url, token=gateway.tokens["tester"], retries=0, timeout=5) as client,
        pytest.raises(ServerUnavailable, match=r"(?i)certificate"),
    ):
        client.domain()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_request_beyond_the_size_is_refused_by_its_name(gateway, scheme):
    with gateway.client(scheme) as client:
        edit = client.domain().edit("a sad face")
        with pytest.raises(ImageTooLarge):
            client.edit_photo(bytes(limits.PHOTO_BYTES + 2**21), edit)
        assert client.edit_photo(PHOTO, edit).image()  # the connection is as good as before


@pytest.mark.parametrize("scheme", SCHEMES)
def test_who_asks_too_often_is_told_to_wait(gateway, scheme):
    with gateway.client(scheme, retries=0) as client:
        refused = 0
        for _ in range(150):
            try:
                client.domain()
            except ServerBusy:
                refused += 1
        assert refused
    with gateway.client(scheme, retries=5) as client:
        assert client.domain()  # by waiting


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_request_at_a_time_is_inside_and_the_others_are_told_to_come_again(gateway, scheme):
    time.sleep(2)  # the test before used up the rate
    faces = sorted(PHOTO.parent.glob("*.png"))

    def ask(face, retries):
        with gateway.client(scheme, retries=retries) as client:
            try:
                return client.invert(face).w_plus.shape[0] > 0
            except ServerBusy:
                return False

    with ThreadPoolExecutor(4) as four:
        once = list(four.map(ask, faces[:4], [0] * 4))
        assert True in once and False in once
        assert all(four.map(ask, faces[:4], [30] * 4))


def test_what_reaches_into_the_server_does_not_pass(gateway):
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    time.sleep(2)  # the test before used up the rate
    token = {"authorization": f"Bearer {gateway.tokens['tester']}"}
    with closing(
        InferenceServerClient(
            f"localhost:{gateway.port}", ssl=True, root_certificates=str(gateway.ca)
        )
    ) as client:
        assert client.is_server_ready(headers=token)
        for call in (
            client.get_system_shared_memory_status,
            client.get_log_settings,
            client.get_trace_settings,
        ):
            with pytest.raises(InferenceServerException, match="does not pass"):
                call(headers=token)
    bearer = f"Authorization: Bearer {gateway.tokens['tester']}"
    assert gateway.asked("/v2/health/ready", bearer) == 200
    for path in (
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/systemsharedmemory/status",
        "/v2/models/edit/trace/setting",
        "/v2/repository/models/edit/load",
        "/v2/../v2/logging",
    ):
        assert gateway.asked(path, bearer) == 403, path


def test_the_page_asks_for_name_and_password_and_keeps_its_connection(gateway):
    assert gateway.asked("/") == 401
    assert gateway.asked("/", gateway.login("guessed")) == 401
    assert gateway.asked("/", f"Authorization: Bearer {gateway.tokens['tester']}") == 401
    assert gateway.asked("/", gateway.login()) == 200
    web_socket = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Origin: https://localhost:{gateway.port}",
    )
    assert gateway.asked("/_stcore/stream", *web_socket) == 401
    assert gateway.asked("/_stcore/stream", *web_socket, gateway.login()) == 101


def test_the_gateways_log_has_names_and_no_secrets(gateway):
    text = gateway.log.read_text()
    assert "client=tester" in text and "user=tester" in text
    assert gateway.tokens["tester"] not in text
    assert gateway.passwords["tester"] not in text
