"""A short form of `make chaos`: what clients do cannot hurt the server, and it heals."""

import os
import time

import psutil
import pytest

from styleclip_client import Client
from styleclip_contract.errors import ServerUnavailable, StyleclipError
from tools.chaos import faults
from tools.chaos.fuzz import Fuzzer
from tools.chaos.load import ANSWERED, PHOTOS, Load, counts
from tools.chaos.server import Server


@pytest.fixture(scope="module")
def victim():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(faults, "LASTS", 1.0)


def works(server):
    with Client(server.grpc, retries=12) as client:
        client.edit_photo(PHOTOS[0], client.domain().edit("a sad face"))


@pytest.mark.parametrize("fault", faults.CLIENTS, ids=lambda fault: fault.name)
def test_no_client_stops_the_others(victim, fault):
    before = [process.pid for process in victim.family()]
    fault.hurt(victim)
    works(victim)
    assert [process.pid for process in victim.family()] == before


def test_malformed_requests_crash_nothing(victim):
    before = [process.pid for process in victim.family()]
    fuzzer = Fuzzer(victim, seed=11)
    for _ in range(200):
        assert fuzzer.draw()()
    works(victim)
    assert [process.pid for process in victim.family()] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
@pytest.mark.parametrize("hurt", [faults.full_shared_memory, faults.full_disk_and_a_dead_step])
def test_full_memory_and_disks_are_survived(victim, hurt):
    hurt(victim)
    works(victim)


def test_overload_is_refused_with_a_named_error_that_may_be_tried_again(victim):
    with Load(victim.grpc, rate=50, retries=0) as load:
        time.sleep(3)
    assert set(counts(load.outcomes)) == {ANSWERED, "ServerBusy"}
    works(victim)


def test_a_dead_step_is_a_named_error_that_may_be_tried_again(victim):
    faults.kill("/direction/1/")(victim)
    with Client(victim.grpc, retries=0) as client, pytest.raises(StyleclipError) as caught:
        client.edit_photo(PHOTOS[0], client.within(60).domain().edit("a sad face"))
    assert isinstance(caught.value, ServerUnavailable)
    works(victim)


def test_what_is_killed_with_its_supervisor_leaves_no_process():
    server = Server()
    with Load(server.grpc, rate=8, retries=0, timeout=2):
        time.sleep(2)  # steps are at work, and wait for locks that Triton holds
        everyone = server.family()
        for process in (*server.processes("bin/tritonserver"), everyone[0]):
            process.kill()
        _, left = psutil.wait_procs(everyone, timeout=5)
    server.stop()
    assert not left
