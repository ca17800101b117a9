"""Who may call the API, how often, and what happens to requests that nobody waits for."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from paths import AVATAR
from polling import wait_until
from styleclip_client import Client
from styleclip_contract.errors import AccessRefused
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options
from styleclip_server.serving.supervisor import running_server
from styleclip_server.serving.tokens import read_tokens

TOKEN = "0123456789abcdef0123"
SAD = {"target": "a sad face"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that wants a token and bounds the rate and the size of requests."""
    folder = tmp_path_factory.mktemp("guarded")
    tokens = folder / "tokens"
    tokens.write_text(f'# clients\n"Bearer {TOKEN}" ada;\n')
    options = Options(log=folder / "server.log", token_file=tokens, rate_limit=5, body_limit=1)
    with running_server(options, canary=0) as server:
        yield server


@pytest.fixture
def api(guarded):
    time.sleep(2)  # until the rate that other tests used is saved up again
    with httpx.Client(base_url=f"http://{guarded.http_url}", timeout=60, trust_env=False) as client:
        yield client


BEARER = {"authorization": f"Bearer {TOKEN}"}


class TestTokens:
    def test_without_a_valid_token_nothing_but_health_and_documents_is_answered(self, api):
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
            refused = api.get("/v1/domain", headers=header)
            assert (refused.status_code, refused.json()["name"]) == (401, "AccessRefused")
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert api.get("/v2/health/ready", headers=header).status_code == 401
        for path in ("/healthz", "/docs", "/openapi.json"):
            assert api.get(path).status_code == 200

    def test_with_the_token_the_api_and_kserve_answer(self, api):
        files = {"photo": AVATAR.read_bytes()}
        assert api.post("/v1/edit", files=files, data=SAD, headers=BEARER).status_code == 200
        assert api.get("/v2/health/ready", headers=BEARER).status_code == 200

    def test_grpc_needs_the_same_token(self, guarded):
        time.sleep(2)
        with Client(guarded.grpc_url, token=TOKEN) as client:
            assert client.domain().name == "avatars"
        with Client(guarded.grpc_url) as client, pytest.raises(AccessRefused):
            client.domain()

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"host": "0.0.0.0"}, "--host is 0.0.0.0, so others can reach the server"),
            ({"host": "::"}, "--token-file"),
            ({"token": "short"}, "at least 16"),
            ({"token": "ä" * 20}, "letters"),
        ],
    )
    def test_an_open_server_or_a_weak_token_is_refused(self, changes, reason):
        with pytest.raises(ServerStartFailed, match=reason):
            read_tokens(Options(**changes))

    def test_a_file_that_holds_no_token_is_refused(self, tmp_path):
        file = tmp_path / "tokens"
        for content, reason in (("# none\n", "no token"), ("a b c\n", "line 1")):
            file.write_text(content)
            with pytest.raises(ServerStartFailed, match=reason):
                read_tokens(Options(token_file=file))
        with pytest.raises(ServerStartFailed, match="cannot be read"):
            read_tokens(Options(token_file=tmp_path / "missing"))

    def test_off_loopback_a_server_may_be_open_with_no_token(self):
        assert read_tokens(Options(host="0.0.0.0", no_token=True)) == {}
        assert read_tokens(Options(host="127.0.0.2")) == {}
        assert read_tokens(Options(host="0.0.0.0", token=TOKEN)) == {TOKEN: "me"}


def test_a_client_over_its_rate_learns_when_to_come_back(api):
    answers = [api.get("/v1/errors", headers=BEARER) for _ in range(15)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and answers[0].status_code == 200
    assert int(refused[0].headers["retry-after"]) >= 1
    assert refused[0].json()["name"] == "ServerBusy"


def test_a_request_over_the_body_limit_is_refused(api):
    answer = api.post("/v1/edit", files={"photo": bytes(2**20)}, data=SAD, headers=BEARER)
    assert (answer.status_code, answer.json()["name"]) == (413, "ImageTooLarge")
    assert "1 MiB" in answer.json()["detail"]


class TestClientsThatGoAway:
    STEPS = 100

    def sweep(self, server, accept):
        """Start a sweep of many images, on a connection of its own."""
        host, _, port = server.http_url.rpartition(":")
        request = httpx.Request(
            "POST",
            f"http://{server.http_url}/v1/sweep",
            files={"photo": AVATAR.read_bytes()},
            data={**SAD, "steps": str(self.STEPS), "size": "64"},
            headers={"accept": accept},
        )
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        head = "\r\n".join(["POST /v1/sweep HTTP/1.1", *lines, "", ""]).encode()
        connection = socket.create_connection((host, int(port)))
        connection.sendall(head + request.read())
        return connection

    @pytest.mark.parametrize("accept", ["image/png", "text/event-stream"])
    def test_their_request_is_dropped(self, server, accept):
        def drawn():
            with Client(server.grpc_url) as client:
                return sum(t.requests for t in client.timings() if t.name == "stylegan2")

        before = drawn()
        connection = self.sweep(server, accept)
        wait_until(lambda: drawn() > before + 2)
        connection.close()
        time.sleep(1)
        stopped = drawn()
        time.sleep(1)
        assert drawn() == stopped < before + self.STEPS


def test_more_concurrent_requests_than_the_limit_are_refused_at_once(server):
    """The last of several requests at a time gets 503, and when to come back."""

    def sweep(_):
        return httpx.post(
            f"http://{server.http_url}/v1/sweep",
            files={"photo": AVATAR.read_bytes()},
            data={**SAD, "steps": "12", "size": "64"},
            timeout=60,
            trust_env=False,
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(sweep, range(8)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    busy = next(answer for answer in answers if answer.status_code == 503)
    assert busy.json()["name"] == "ServerBusy" and busy.headers["retry-after"] == "1"
