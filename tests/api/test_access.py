"""Who may call the API, how often, and what happens when its clients disconnect."""

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from counters import count_requests, read_metrics
from edit_requests import PHOTO, SAD
from polling import SECONDS, wait_until
from servers import running_server
from styleclip_client import Client
from styleclip_contract.errors import AccessRefused
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options
from styleclip_server.serving.tokens import read_tokens

TOKEN = "0123456789abcdef0123"
HASTY_TOKEN = "hasty-0123456789abcdef"  # of a client that uses up its rate
BEARER = {"authorization": f"Bearer {TOKEN}"}
SWEEP_STEPS = 100


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that requires a token and bounds the rate and the size of requests."""
    folder = tmp_path_factory.mktemp("guarded")
    tokens = folder / "tokens"
    tokens.write_text(f'# clients\n"Bearer {TOKEN}" ada;\n{HASTY_TOKEN} hasty\n')
    options = Options(
        domain="avatars",
        log=folder / "server.log",
        token_file=tokens,
        rate_limit=5,
        body_limit=1,
    )
    with running_server(options) as server:
        yield server


@pytest.fixture
def guarded_api(guarded):
    url = f"http://{guarded.http_url}"
    with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
        yield client


def test_without_a_valid_token_only_health_and_documents_are_available(guarded_api):
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
        refused = guarded_api.get("/v1/domain", headers=header)
        assert (refused.status_code, refused.json()["name"]) == (401, "AccessRefused")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert guarded_api.get("/v2/health/ready", headers=header).status_code == 401
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert guarded_api.get(path).status_code == 200


def test_with_the_token_the_api_and_kserve_respond(guarded_api):
    edited = guarded_api.post("/v1/edit", files={"photo": PHOTO}, data=SAD, headers=BEARER)
    assert edited.status_code == 200
    assert guarded_api.get("/v2/health/ready", headers=BEARER).status_code == 200


def test_the_health_check_edits_an_image(guarded, guarded_api):
    """On a server without a periodic canary, which would edit too."""

    def count_edits():
        with Client(guarded.grpc_url, token=TOKEN) as client:
            return {timing.name: timing.requests for timing in client.timings()}["edit_photo"]

    def seconds_since_edit():  # every few seconds a check edits
        health = guarded_api.get("/healthz").json()
        assert health["status"] == "ok"
        return health["seconds"]

    wait_until(lambda: seconds_since_edit() > 0)
    before = count_edits()
    wait_until(lambda: seconds_since_edit() == 0)
    wait_until(lambda: count_edits() > before)  # Triton may count after it has responded


def test_grpc_needs_the_same_token(guarded):
    with Client(guarded.grpc_url, token=TOKEN) as client:
        assert client.domain().name == "avatars"
    with Client(guarded.grpc_url) as client, pytest.raises(AccessRefused):
        client.domain()


def test_a_client_over_its_rate_is_refused_until_a_stated_time(guarded_api):
    bearer = {"authorization": f"Bearer {HASTY_TOKEN}"}
    assert guarded_api.get("/v1/errors", headers=bearer).status_code == 200

    def refusals(path):
        with ThreadPoolExecutor(4) as pool:
            responses = pool.map(lambda _: guarded_api.get(path, headers=bearer), range(20))
            return [response for response in responses if response.status_code != 200]

    for refused in wait_until(lambda: refusals("/v1/errors")):
        assert (refused.status_code, refused.json()["name"]) == (429, "ServerBusy")
        assert int(refused.headers["retry-after"]) == 1
    for refused in wait_until(lambda: refusals("/v2/health/ready")):
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "requests per second" in refused.json()["error"]


def test_a_request_over_the_body_limit_is_refused(guarded_api):
    refused = guarded_api.post("/v1/edit", files={"photo": bytes(2**20)}, data=SAD, headers=BEARER)
    assert (refused.status_code, refused.json()["name"]) == (413, "ImageTooLarge")
    assert "1 MiB" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"host": "0.0.0.0"}, "--host is 0.0.0.0, so others can reach the server"),
        ({"host": "::"}, "--token-file"),
        ({"token": "short"}, "at least 16"),
        ({"token": "ä" * 20}, "letters"),
    ],
)
def test_a_server_without_a_token_off_loopback_or_with_a_weak_one_is_refused(changes, reason):
    with pytest.raises(ServerStartFailed, match=reason):
        read_tokens(Options(**changes))


def test_an_invalid_token_file_is_refused(tmp_path):
    file = tmp_path / "tokens"
    for content, reason in (("# none\n", "no token"), ("a b c\n", "line 1")):
        file.write_text(content)
        with pytest.raises(ServerStartFailed, match=reason):
            read_tokens(Options(token_file=file))
    with pytest.raises(ServerStartFailed, match="cannot be read"):
        read_tokens(Options(token_file=tmp_path / "missing"))


def test_on_loopback_or_with_no_token_set_a_server_needs_none():
    assert read_tokens(Options(host="0.0.0.0", no_token=True)) == {}
    assert read_tokens(Options(host="127.0.0.2")) == {}
    assert read_tokens(Options(host="0.0.0.0", token=TOKEN)) == {TOKEN: "me"}


def start_sweep(server, accept):
    """Request a sweep of many images on a new connection; return the connection."""
    request = httpx.Request(
        "POST",
        f"http://{server.http_url}/v1/sweep",
        files={"photo": PHOTO},
        data={**SAD, "steps": str(SWEEP_STEPS), "size": "64"},
        headers={"accept": accept},
    )
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(["POST /v1/sweep HTTP/1.1", *lines, "", ""]).encode()
    host, _, port = server.http_url.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head + request.read())
    return connection


@pytest.mark.parametrize("accept", ["image/png", "text/event-stream"])
def test_the_sweep_of_a_client_that_disconnects_is_dropped(server, accept):
    def count_images():
        return count_requests(server, "stylegan2")

    def is_idle():
        return read_metrics(server)["styleclip_requests_inside"] == 0

    wait_until(is_idle)
    before = count_images()
    with start_sweep(server, accept):
        wait_until(lambda: count_images() > before + 2)
        assert not is_idle()
    wait_until(is_idle)
    assert count_images() < before + SWEEP_STEPS


def test_more_concurrent_requests_than_the_limit_are_refused_at_once(api):
    def sweep(_):
        data = {**SAD, "steps": "12", "size": "64"}
        return api.post("/v1/sweep", files={"photo": PHOTO}, data=data)

    responses = []

    def some_are_refused_and_some_not():
        with ThreadPoolExecutor(8) as pool:
            responses.extend(pool.map(sweep, range(8)))
        return len({response.status_code for response in responses}) > 1

    wait_until(some_are_refused_and_some_not)
    assert {response.status_code for response in responses} == {200, 503}
    for response in responses:
        if response.status_code == 503:
            assert response.json()["name"] == "ServerBusy"
            assert response.headers["retry-after"] == "1"
