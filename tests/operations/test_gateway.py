"""The gateway of docker/compose.yaml: nginx with its configuration in front of the real server."""

import base64
import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit

import httpx
import pytest

from drags import Mouse, drag, record_live_images, value_in, wait_for_live_image
from edit_requests import PHOTO, SAD
from paths import AVATAR, SAMPLES
from polling import wait_until
from styleclip_client import Client
from styleclip_contract import limits
from styleclip_contract.errors import AccessRefused, ImageTooLarge, ServerBusy, ServerUnavailable
from tools.browser import open_page
from tools.chaos import gateway as compose

SCHEMES = ("grpcs", "https")
HASTY = {scheme: f"hasty-{scheme}" for scheme in SCHEMES}  # users that exceed their rate

pytestmark = pytest.mark.skipif(not compose.NGINX, reason="no nginx: apt-get install nginx-light")


class Gateway(compose.Gateway):
    """The gateway and calls to it."""

    def client(self, scheme, user="tester", **options):
        url = f"{scheme}://localhost:{self.port}"
        return Client(url, **{"token": self.tokens[user], "ca": self.ca} | options)

    def get_status(self, path, *headers):
        """Return the status of a GET over TLS."""
        context = ssl.create_default_context(cafile=self.ca)
        lines = [f"GET {path} HTTP/1.1", f"Host: localhost:{self.port}", *headers, "", ""]
        with (
            socket.create_connection(("127.0.0.1", self.port)) as connection,
            context.wrap_socket(connection, server_hostname="localhost") as tls,
        ):
            tls.sendall("\r\n".join(lines).encode())
            return int(tls.recv(4096).split()[1])

    def login(self, password=None):
        pair = base64.b64encode(f"tester:{password or self.passwords['tester']}".encode()).decode()
        return f"Authorization: Basic {pair}"


@pytest.fixture(scope="module")
def gateway(server, running_page, tmp_path_factory):
    gateway = Gateway(
        tmp_path_factory.mktemp("gateway"),
        grpc=server.grpc_url,
        http=server.http_url,
        page=urlsplit(running_page.url).netloc,
        names=("tester", *HASTY.values()),
    )
    try:
        yield gateway
    finally:
        gateway.stop()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_with_a_token_edits_through_tls(gateway, scheme):
    with gateway.client(scheme) as client:
        edited = client.edit_photo(AVATAR, client.domain().edit("a sad face"))
        assert edited.image().size == (256, 256)
        assert client.status().ready
        assert client.timings()


def test_the_image_follows_a_drag_through_the_gateway(gateway, browser):
    from playwright.sync_api import expect

    login = {"username": "tester", "password": gateway.passwords["tester"]}
    with closing(browser.new_context(ignore_https_errors=True, http_credentials=login)) as context:
        page = context.new_page()
        urls = record_live_images(page)
        open_page(page, f"https://localhost:{gateway.port}")
        drag(page, Mouse(page), lambda: wait_for_live_image(page, urls))
        expect(page.locator("img.after")).to_have_attribute("src", re.compile("^blob:"))
    assert len({value_in(url) for url in urls}) >= 3
    (live_path,) = {urlsplit(url).path for url in urls}
    log = gateway.log.read_text()
    assert "GET / 200" in log and live_path not in log


def test_the_web_api_needs_a_token_and_its_documents_do_not(gateway):
    context = ssl.create_default_context(cafile=str(gateway.ca))
    url = f"https://localhost:{gateway.port}"
    token = {"authorization": f"Bearer {gateway.tokens['tester']}"}
    with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=60) as client:
        photo = {"photo": PHOTO}
        edited = client.post("/v1/edit", files=photo, data=SAD, headers=token)
        assert (edited.status_code, edited.headers["content-type"]) == (200, "image/jpeg")
        refused = client.post("/v1/edit", files=photo, data=SAD)
        assert (refused.status_code, refused.json()["name"]) == (401, "AccessRefused")
        assert refused.headers["content-type"] == "application/problem+json"
        large = {"photo": bytes(limits.PHOTO_BYTES + 2**21)}
        refused = client.post("/v1/edit", files=large, data=SAD, headers=token)
        assert (refused.status_code, refused.json()["name"]) == (413, "ImageTooLarge")
        assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 200
        script = client.get("/static-offline-docs/swagger-ui-bundle.js")
        assert script.status_code == 200 and len(script.content) > 10**6


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_unknown_token_is_refused(gateway, scheme):
    with gateway.client(scheme, token="0" * 48) as client:
        for call in (client.domain, lambda: client.invert(AVATAR)):
            with pytest.raises(AccessRefused, match="no valid token"):
                call()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_that_does_not_trust_the_certificate_fails(gateway, scheme):
    url = f"{scheme}://localhost:{gateway.port}"
    with (
        Client(url, token=gateway.tokens["tester"], retries=0) as client,
        pytest.raises(ServerUnavailable, match=r"(?i)certificate"),
    ):
        client.domain()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_request_over_the_size_limit_is_image_too_large(gateway, scheme):
    with gateway.client(scheme) as client:
        edit = client.domain().edit("a sad face")
        with pytest.raises(ImageTooLarge):
            client.edit_photo(bytes(limits.PHOTO_BYTES + 2**21), edit)
        assert client.edit_photo(AVATAR, edit).image()  # the connection still works


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_over_the_rate_limit_gets_server_busy(gateway, scheme):
    with gateway.client(scheme, HASTY[scheme], retries=0) as client:

        def is_refused(_):
            try:
                client.domain()
            except ServerBusy:
                return True
            return False

        with ThreadPoolExecutor(4) as pool:
            wait_until(lambda: any(pool.map(is_refused, range(60))))
    with gateway.client(scheme, HASTY[scheme], retries=5) as client:
        assert client.domain()  # after waiting


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_one_inference_runs_at_a_time_and_others_get_server_busy(gateway, scheme):
    photos = sorted(SAMPLES.glob("*.png"))

    def invert(photo, retries):
        with gateway.client(scheme, retries=retries) as client:
            try:
                return client.invert(photo).w_plus.shape[0] > 0
            except ServerBusy:
                return False

    with ThreadPoolExecutor(4) as pool:
        wait_until(lambda: {*pool.map(invert, photos[:4], [0] * 4)} == {True, False})
        assert all(pool.map(invert, photos[:4], [30] * 4))


def test_administrative_calls_are_denied(gateway):
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

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
    assert gateway.get_status("/v2/health/ready", bearer) == 200
    for path in (
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/systemsharedmemory/status",
        "/v2/models/edit/trace/setting",
        "/v2/repository/models/edit/load",
        "/v2/../v2/logging",
    ):
        assert gateway.get_status(path, bearer) == 403, path


def test_images_while_a_slider_is_dragged_pass_with_the_login_of_the_page(gateway):
    path = "/live/unknown?edit=0&field=strength&value=1"
    assert gateway.get_status(path) == 401
    assert gateway.get_status(path, gateway.login()) == 404  # from the page


def test_the_page_requires_a_login_and_its_websocket_passes(gateway):
    assert gateway.get_status("/") == 401
    assert gateway.get_status("/", gateway.login("guessed")) == 401
    assert gateway.get_status("/", f"Authorization: Bearer {gateway.tokens['tester']}") == 401
    assert gateway.get_status("/", gateway.login()) == 200
    web_socket = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Origin: https://localhost:{gateway.port}",
    )
    assert gateway.get_status("/_stcore/stream", *web_socket) == 401
    assert gateway.get_status("/_stcore/stream", *web_socket, gateway.login()) == 101


def test_the_gateway_logs_user_names_and_no_secrets(gateway):
    text = gateway.log.read_text()
    assert "client=tester" in text and "user=tester" in text
    assert gateway.tokens["tester"] not in text
    assert gateway.passwords["tester"] not in text
