"""The supervised server starts, restarts, refuses taken ports and leaves nothing behind."""

import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import httpx
import psutil
import pytest

from paths import AVATAR
from polling import SECONDS, wait_until
from processes import find_listener, list_processes
from styleclip_client import Client
from styleclip_contract.errors import InvalidInput, ServerUnavailable
from styleclip_server.serving import api_process, supervisor
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.installation import find_installation
from styleclip_server.serving.options import Options, default_repository
from styleclip_server.serving.supervisor import SupervisedServer, running_server
from styleclip_server.serving.triton_process import StepProcessDied, TritonProcess


def options(tmp_path, **changes):
    """Options of a server that leaves requests no time when it is stopped."""
    return Options(**{"domain": "avatars", "log": tmp_path / "log", "exit_timeout": 0, **changes})


def children_of(pid):
    return psutil.Process(pid).children(recursive=True)


def assert_edits(server):
    with Client(server.grpc_url) as client:
        client.edit_photo(AVATAR, client.domain().edit("a sad face"))


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """A server whose processes the tests kill; none may be left when it has stopped."""
    log = tmp_path_factory.mktemp("supervised") / "log"
    with running_server(Options(domain="avatars", log=log), canary=0) as server:
        yield server
        processes = list_processes(server)
    _, alive = psutil.wait_procs(processes, timeout=SECONDS)
    assert not alive
    with pytest.raises(ServerUnavailable):
        assert_edits(server)


def test_a_killed_step_restarts_triton_on_the_same_ports(supervised):
    address, triton, restarts = supervised.grpc_url, supervised.pid, supervised.restarts
    before = children_of(triton)
    stubs = [child for child in before if "stub" in " ".join(child.cmdline())]
    assert len(stubs) == 12
    stubs[0].kill()
    wait_until(lambda: supervised.restarts == restarts + 1)
    assert supervised.grpc_url == address and supervised.pid != triton
    assert_edits(supervised)
    _, alive = psutil.wait_procs(before, timeout=SECONDS)
    assert not alive


def test_a_killed_api_server_is_restarted_alone(supervised):
    triton, restarts = supervised.pid, supervised.restarts
    find_listener(int(supervised.http_url.rpartition(":")[2])).kill()
    wait_until(lambda: health_status(supervised) == 200)
    assert_edits(supervised)
    assert (supervised.pid, supervised.restarts) == (triton, restarts)


def test_an_api_server_that_hangs_is_restarted_alone(supervised, monkeypatch):
    triton, restarts = supervised.pid, supervised.restarts
    hanging = find_listener(int(supervised.http_url.rpartition(":")[2]))
    hanging.suspend()
    with monkeypatch.context() as patch:  # until it is ended: its successor needs time to start
        patch.setattr(supervisor, "LIVENESS_SECONDS", 0.1)
        patch.setattr(api_process, "_LIVE_SECONDS", 0.1)
        patch.setattr(api_process, "_START_SECONDS", 0)
        wait_until(lambda: not hanging.is_running())
    wait_until(lambda: health_status(supervised) == 200)
    assert_edits(supervised)
    assert (supervised.pid, supervised.restarts) == (triton, restarts)


def health_status(server):
    try:
        url = f"http://{server.http_url}/healthz"
        return httpx.get(url, timeout=SECONDS, trust_env=False).status_code
    except httpx.TransportError:
        return None


def test_a_dead_triton_is_reported_until_it_is_back(supervised, monkeypatch):
    may_start, start = threading.Event(), SupervisedServer._start_triton

    def start_later(self):
        may_start.wait()
        start(self)

    monkeypatch.setattr(SupervisedServer, "_start_triton", start_later)
    restarts = supervised.restarts
    os.kill(supervised.pid, signal.SIGKILL)
    try:
        wait_until(lambda: health_status(supervised) == 503)
    finally:
        may_start.set()
    wait_until(lambda: health_status(supervised) == 200)
    wait_until(lambda: supervised.restarts == restarts + 1)


def test_a_step_that_dies_while_the_server_starts_is_tried_once_more(tmp_path, monkeypatch):
    starts, wait = [], TritonProcess.wait_until_ready

    def fail_the_first(self):
        starts.append(self.pid)
        if len(starts) == 1:
            raise StepProcessDied("the process 1 of a Python step died")
        wait(self)

    monkeypatch.setattr(TritonProcess, "wait_until_ready", fail_the_first)
    with running_server(options(tmp_path), canary=0) as server:
        assert len(starts) == 2 and not psutil.pid_exists(starts[0])
        assert_edits(server)


def test_a_taken_port_is_refused_in_one_line_that_names_the_option(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServerStartFailed, match=f"port {port} .*--grpc-port"),
            running_server(options(tmp_path, grpc_port=port)),
        ):
            pass


def test_an_unknown_domain_or_repository_is_refused_with_the_known_ones(tmp_path):
    for change, reason in (
        ({"domain": "horses"}, "no domain 'horses', only .*avatars"),
        ({"repository": tmp_path}, "not a model repository"),
    ):
        with (
            pytest.raises(ServerStartFailed, match=reason),
            running_server(options(tmp_path, **change)),
        ):
            pass


def test_domains_may_be_in_another_folder_than_the_steps(tmp_path):
    steps, domains = tmp_path / "code", tmp_path / "domains"
    shutil.copytree(default_repository() / "steps", steps / "steps")
    shutil.copytree(default_repository() / "avatars", domains / "cartoons")
    elsewhere = options(tmp_path, repository=steps, domains=domains, domain="cartoons")
    with running_server(elsewhere, canary=0) as server:
        assert_edits(server)
    with (
        pytest.raises(ServerStartFailed, match=f"{domains} has no domain 'horses', only cartoons"),
        running_server(options(tmp_path, repository=steps, domains=domains, domain="horses")),
    ):
        pass


def test_a_full_triton_installation_can_replace_the_wheel(tmp_path, monkeypatch):
    # As in NVIDIA's container: all backends in one folder, libraries on the loader's path.
    wheel = find_installation()
    complete = tmp_path / "tritonserver"
    wheel.prepare_backends(complete / "backends")
    (complete / "bin").mkdir()
    (complete / "bin/tritonserver").symlink_to(wheel.binary)
    monkeypatch.setenv("LD_LIBRARY_PATH", ":".join(wheel.libraries))
    monkeypatch.setenv("STYLECLIP_TRITON", str(complete))
    with running_server(options(tmp_path), canary=0) as server:
        assert str(complete) in " ".join(psutil.Process(server.pid).cmdline())
        assert_edits(server)
    monkeypatch.setenv("STYLECLIP_TRITON", str(tmp_path))
    with (
        pytest.raises(ServerStartFailed, match="STYLECLIP_TRITON"),
        running_server(options(tmp_path)),
    ):
        pass


def test_a_damaged_network_is_reported_and_leaves_no_process(tmp_path):
    repository = tmp_path / "model_repository"
    shutil.copytree(default_repository(), repository)
    (repository / "avatars/e4e/1/model.onnx").write_bytes(b"no network")
    before = psutil.Process().children(recursive=True)  # the server of the other tests
    with (
        pytest.raises(ServerStartFailed, match="e4e"),
        running_server(options(tmp_path, repository=repository)),
    ):
        pass
    left = set(psutil.Process().children(recursive=True)) - set(before)
    assert not [p for p in left if "triton" in p.name()]


def test_the_command_serves_until_ctrl_c_and_leaves_nothing(tmp_path):
    log = tmp_path / "log"
    arguments = ["--domain", "avatars", "--log", log]
    arguments += [word for kind in ("http", "grpc", "metrics") for word in (f"--{kind}-port", "0")]
    command = [sys.executable, "-m", "styleclip_server", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:  # warnings come first, if there are some
            lines.append(line)
            if match := re.search(r"gRPC (\S+),", line):
                break
        address = match[1]
        assert "HTTP Request" not in "".join(lines)  # the launcher's own, for the API server's life
        with Client(address) as client:
            assert client.status().ready
            send_refused_requests(client)
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert children and not alive
    assert "Traceback" not in process.stderr.read()
    # A refused request that was not freed would count as in flight.
    assert "Found 0 model versions that have in-flight inferences" in log.read_text()


def send_refused_requests(client):
    """Send requests that a step refuses, the first or a later one."""
    latent = client.invert(AVATAR).w_plus
    edit = client.domain().edit("a sad face", threshold=1)
    for refused in (
        lambda: client.edit_photo(b"no photo", edit),
        lambda: client.edit_photo(AVATAR, edit),
        lambda: client.edit(latent, edit),
        lambda: client.invert(b"no photo"),
    ):
        with pytest.raises(InvalidInput):
            refused()


def test_an_incompatible_numpy_is_refused(tmp_path, monkeypatch):
    known = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.5.2" if name == "numpy" else known(name)
    )
    with pytest.raises(ServerStartFailed, match="numpy<2"), running_server(options(tmp_path)):
        pass
