"""A short form of `make chaos`: no client disturbs the server, and it heals after faults."""

import os
import time

import psutil
import pytest

from styleclip_client import Client
from styleclip_contract.errors import ServerUnavailable, StyleclipError
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
    with Client(server.grpc, retries=12) as client:
        client.edit_photo(PHOTOS[0], client.domain().edit("a sad face"))


@pytest.mark.parametrize("fault", faults.BAD_CLIENTS, ids=lambda fault: fault.name)
def test_a_bad_client_disturbs_no_other_client(target, fault):
    before = [process.pid for process in target.list_processes()]
    fault.inject(target)
    assert_edits(target)
    assert [process.pid for process in target.list_processes()] == before


def test_malformed_requests_end_nothing_and_cost_no_other_client_a_request(target):
    result = fuzz(target, 400, seed=11)
    assert not result["ends"]
    for bystander in result["bystanders"]:
        assert bystander["answered"] > 0
        assert not bystander["lost"]
    start, _, end = result["start, peak, end"]["api files"]
    assert end < start + 50
    assert_edits(target)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("inject", [faults.fill_shared_memory, faults.fill_disk_and_kill_step])
def test_the_server_heals_after_full_memory_and_disks(target, inject):
    inject(target)
    assert_edits(target)


def test_overload_is_refused_with_a_named_error_that_can_be_retried(target):
    with Load(target.grpc, rate=50, retries=0) as load:
        time.sleep(3)
    assert set(count_outcomes(load.outcomes)) == {ANSWERED, "ServerBusy"}
    assert_edits(target)


def test_a_killed_step_gives_a_named_error_that_can_be_retried(target):
    faults.kill("/direction/1/")(target)
    with Client(target.grpc, retries=0) as client, pytest.raises(StyleclipError) as caught:
        client.edit_photo(PHOTOS[0], client.within(60).domain().edit("a sad face"))
    assert isinstance(caught.value, ServerUnavailable)
    assert_edits(target)


def test_killing_the_launcher_and_triton_leaves_no_process():
    server = Server()
    with Load(server.grpc, rate=8, retries=0, timeout=2):
        time.sleep(2)  # the steps are busy and wait for locks that Triton holds
        processes = server.list_processes()
        for process in (*server.find_processes("bin/tritonserver"), processes[0]):
            process.kill()
        _, left = psutil.wait_procs(processes, timeout=5)
    server.stop()
    assert not left
