"""Several processes of the API server serve the same ports, and share one bound."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import psutil
import pytest

from paths import AVATAR
from polling import SECONDS, wait_until
from styleclip_client import Client
from styleclip_contract.errors import ServerBusy
from styleclip_server.api.admission import Admission
from styleclip_server.api.load import Load
from styleclip_server.api.refusals import Refused
from styleclip_server.serving.api_process import count_processes
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options
from styleclip_server.serving.supervisor import running_server

PROCESSES = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log = tmp_path_factory.mktemp("processes") / "log"
    options = Options(domain="avatars", log=log, api_processes=PROCESSES, max_concurrent=2)
    with running_server(options, canary=0) as running:
        yield running


def list_listeners(address):
    """Return the processes that listen on the port of "host:port"."""
    port = int(address.rpartition(":")[2])
    return [
        child
        for child in psutil.Process().children()
        if any(c.laddr.port == port and c.status == "LISTEN" for c in child.net_connections())
    ]


def read_counts(server):
    """Return the admission's metrics, over a new connection."""
    lines = httpx.get(server.metrics_url, timeout=SECONDS, trust_env=False).text
    return {
        name: int(value)
        for name, value in re.findall(r"^styleclip_requests_(\w+) (\d+)$", lines, re.MULTILINE)
    }


def test_every_process_serves_the_ports_and_reports_the_counts_of_all(server):
    for address in (server.http_url, server.grpc_url, server.metrics_url.removesuffix("/metrics")):
        assert len(list_listeners(address)) == PROCESSES
    before = read_counts(server)["admitted_total"]
    for address in (server.grpc_url, f"http://{server.http_url}") * 5:
        with Client(address) as client:  # each has a connection of its own
            client.edit_photo(AVATAR, client.domain().edit("a sad face"))
    counts = [read_counts(server) for _ in range(10)]
    assert counts == [counts[0]] * 10
    assert counts[0]["admitted_total"] >= before + 10
    assert (counts[0]["inside"], counts[0]["limit"]) == (0, 2)


def test_the_bound_is_that_of_all_processes_together(server):
    most = []
    with Client(server.grpc_url) as client:
        sad = client.domain().edit("a sad face")

    def edit(_):
        with Client(server.grpc_url, retries=0) as client:
            try:
                client.edit_photo(AVATAR, sad)
            except ServerBusy:
                return "busy"
        most.append(read_counts(server)["inside"])
        return "edited"

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(edit, range(36)))
    assert {"busy", "edited"} == set(results)
    assert max(most) <= 2 + PROCESSES - 1  # each may admit one at the same moment
    wait_until(lambda: read_counts(server)["inside"] == 0)


def test_a_killed_process_is_restarted_while_the_others_serve(server):
    before = list_listeners(server.http_url)
    before[0].kill()
    before[0].wait(SECONDS)
    for _ in range(5):
        with Client(server.grpc_url) as client:
            client.edit_photo(AVATAR, client.domain().edit("a sad face"))
    wait_until(lambda: len(list_listeners(server.http_url)) == PROCESSES)
    assert {p.pid for p in before[1:]} < {p.pid for p in list_listeners(server.http_url)}
    assert server.restarts == 0


def test_the_ports_are_refused_to_another_server(server, tmp_path):
    for option in ("http", "grpc", "metrics"):
        port = int(getattr(server, f"{option}_url").removesuffix("/metrics").rpartition(":")[2])
        taken = Options(domain="avatars", log=tmp_path / "log", **{f"{option}_port": port})
        with pytest.raises(ServerStartFailed, match=f"--{option}-port"), running_server(taken):
            pass


def test_loads_in_one_file_add_up_and_an_ended_process_runs_nothing(tmp_path):
    loads = [Load.open(tmp_path / "load", process, 3) for process in range(3)]
    loads[0].limit = 4
    loads[1].admit(3)
    loads[2].admit(1)
    loads[2].refuse()
    assert [(load.limit, load.running, load.admitted, load.refused) for load in loads] == [
        (4, 4, 2, 1)
    ] * 3
    restarted = Load.open(tmp_path / "load", 1, 3)
    assert (restarted.limit, restarted.running) == (4, 1)
    assert (restarted.admitted, restarted.refused) == (2, 1)


def test_the_bound_goes_on_adapting_after_a_restart(tmp_path):
    before = Admission(4, 8, load=Load.open(tmp_path / "load", 0, 1))
    for _ in range(500):
        with before.enter():
            pass
    before.load.limit = 3
    after = Load.open(tmp_path / "load", 0, 1)
    after.admit(1)
    assert after.limit == 3
    assert after.admitted > after.changed  # else its latency would not count


def test_a_request_of_another_process_counts(tmp_path):
    first, second = (
        Admission(2, 8, load=Load.open(tmp_path / "load", process, 2)) for process in range(2)
    )
    with ExitStack() as running:
        running.enter_context(first.enter())
        running.enter_context(second.enter())
        with pytest.raises(Refused):
            first.refuse_if_full()
        with pytest.raises(Refused), second.enter():
            pass
    first.load.limit = 3
    assert second.limit == 3


@pytest.mark.parametrize(
    ("options", "engine", "cores", "processes"),
    [
        ({}, "cpu", 64, 1),
        ({}, "torch", 16, 4),
        ({}, "torch", 2, 1),
        ({}, "gpu", 64, 8),
        ({"api_processes": 2}, "openvino", 2, 2),
        ({"api_processes": 2, "rate_limit": 5}, "torch", 16, 1),
    ],
)
def test_there_are_as_many_processes_as_pay(monkeypatch, options, engine, cores, processes):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert count_processes(Options(**options), engine) == processes
