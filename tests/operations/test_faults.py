"""A short form of `make chaos`: no client disturbs the server, and it heals after faults.

The tests share a server and run in this order: the last one ends it.
"""

import os
import signal
from contextlib import contextmanager

import psutil
import pytest

from polling import wait_until
from styleclip_client import Client
from styleclip_contract.errors import ServerUnavailable
from tools.chaos import faults
from tools.chaos.fuzz.fuzzer import fuzz
from tools.chaos.load import ANSWERED, PHOTOS, Load, count_outcomes
from tools.chaos.server import Server


@pytest.fixture(scope="module")
def target():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def short_faults(monkeypatch):
    monkeypatch.setattr(faults, "SECONDS", 1.0)


def assert_edits(server):
    with Client(server.grpc, timeout=120, retries=100) as client:
        client.edit_photo(PHOTOS[0], client.domain().edit("a sad face"))


def process_ids(server):
    return {process.pid for process in server.list_processes()}


def triton_id(server):
    """Return the process id of Triton; None while there is none."""
    return next((process.pid for process in server.find_processes("bin/tritonserver")), None)


@contextmanager
def restart(server):
    """In the block the supervisor is made to restart Triton; wait until it has done so."""
    before = triton_id(server)
    yield
    wait_until(lambda: triton_id(server) not in (before, None))
    assert_edits(server)


@pytest.mark.parametrize("fault", faults.BAD_CLIENTS, ids=lambda fault: fault.name)
def test_a_bad_client_disturbs_no_other_client(target, fault):
    before = process_ids(target)
    fault.inject(target)
    assert_edits(target)
    assert process_ids(target) == before


def test_malformed_requests_end_no_process_and_no_other_clients_request(target):
    result = fuzz(target, 400, seed=11)
    assert not result["ends"]
    for bystander in result["bystanders"]:
        assert bystander["answered"] > 0
        assert not bystander["lost"]
    start, _, end = result["start, peak, end"]["api files"]
    assert end < start + 50
    assert_edits(target)


def test_overload_is_refused_with_a_named_error_that_can_be_retried(target):
    def is_overloaded():
        counts = count_outcomes(load.outcomes)
        return counts.get(ANSWERED, 0) >= 20 and counts.get("ServerBusy", 0) >= 50

    before = process_ids(target)
    with Load(target.grpc, rate=50, retries=0, timeout=120) as load:
        wait_until(is_overloaded)
    assert count_outcomes(load.outcomes).keys() == {ANSWERED, "ServerBusy"}
    assert process_ids(target) == before
    assert_edits(target)


def test_a_killed_step_gives_a_named_error_that_can_be_retried(target):
    with Client(target.grpc, timeout=120, retries=0) as client:
        edit = client.domain().edit("a sad face")
        with restart(target):
            target.process.send_signal(signal.SIGSTOP)  # it would restart Triton in a moment
            try:
                for step in target.find_processes("/direction/1/"):
                    step.kill()
                with pytest.raises(ServerUnavailable):
                    client.edit_photo(PHOTOS[0], edit)
            finally:
                target.process.send_signal(signal.SIGCONT)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_the_server_heals_after_a_full_disk_and_a_killed_step(target):
    with restart(target):
        faults.fill_disk_and_kill_step(target)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_the_server_heals_after_full_shared_memory(target):
    faults.fill_shared_memory(target)
    assert_edits(target)


def test_killing_the_launcher_leaves_no_process(target):
    assert_edits(target)
    with Load(target.grpc, rate=8, retries=0, timeout=2) as load:
        wait_until(lambda: load.outcomes)  # the steps are busy and wait for locks of Triton
        processes = target.list_processes()
        target.process.kill()
        _, left = psutil.wait_procs(processes, timeout=120)
    assert not left
