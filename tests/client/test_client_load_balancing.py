"""One name for several servers, like a headless service of Kubernetes: each gets its share.

Two real servers listen on the same port of two loopback addresses. The client runs in a mount
namespace of its own, in which /etc/hosts gives one name to both.
"""

import shlex
import subprocess
import sys
from contextlib import contextmanager

import pytest

import servers
from counters import count_requests
from paths import AVATAR
from polling import SECONDS, wait_until
from styleclip_server.serving import supervisor
from styleclip_server.serving.options import Options

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
NAME = "styleclip-server.test"

# Edits as often as each line of standard input says, four at once, and prints the failures.
CLIENT = """
import sys
from pathlib import Path
from styleclip_client import Client

url, photo = sys.argv[1:]
with Client(url) as client:
    edit = client.domain().edit("a sad face")
    for line in sys.stdin:
        results = list(client.edit_many([Path(photo)] * int(line), edit))
        failed = [result for result in results if isinstance(result, Exception)]
        print(failed or "done", flush=True)
"""


def build_options(host, folder, port=0):
    log = folder / f"{host}.log"
    return Options(domain="avatars", host=host, grpc_port=port, log=log, connection_age=5)


@pytest.fixture
def first(tmp_path):
    with servers.running_server(build_options(FIRST, tmp_path)) as server:
        yield server


@pytest.fixture
def second(first, tmp_path):
    """The test stops it while it edits."""
    port = int(first.grpc_url.rpartition(":")[2])
    with supervisor.running_server(build_options(SECOND, tmp_path, port), canary=0) as server:
        yield server


class HostsFile:
    """The hosts file of the client's namespace."""

    def __init__(self, path):
        self.path = path

    def resolve_to(self, *addresses):
        """Make NAME resolve to `addresses`."""
        lines = [f"{address} {name}" for address, name in [(FIRST, "localhost")]]
        lines += [f"{address} {NAME}" for address in addresses]
        self.path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def hosts(tmp_path):
    hosts = HostsFile(tmp_path / "hosts")
    hosts.resolve_to(FIRST)
    inside = f"mount --bind {shlex.quote(str(hosts.path))} /etc/hosts"
    try:
        tried = subprocess.run(["unshare", "-rm", "sh", "-c", inside], capture_output=True)
    except FileNotFoundError:
        pytest.skip("unshare (util-linux) is not installed")
    if tried.returncode:
        pytest.skip("this machine does not allow mount namespaces")
    return hosts


@contextmanager
def client(hosts, server):
    """Yield a function that edits photos by a client of NAME, and calls `interrupt` halfway."""
    port = server.grpc_url.rpartition(":")[2]
    command = [sys.executable, "-c", CLIENT, f"{NAME}:{port}", str(AVATAR)]
    inside = f"mount --bind {shlex.quote(str(hosts.path))} /etc/hosts && exec {shlex.join(command)}"
    with subprocess.Popen(
        ["unshare", "-rm", "env", f"no_proxy={NAME}", "sh", "-c", inside],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def edit(times, interrupt=lambda: None):
            process.stdin.write(f"{times}\n")
            process.stdin.flush()
            interrupt()
            line = process.stdout.readline()
            assert line == "done\n", line or process.communicate()[1]

        try:
            yield edit
        finally:
            process.stdin.close()
            process.wait(SECONDS)


def count_edits(server):
    """Return how many photos `server` has edited; the newest may be missing."""
    return count_requests(server, "edit_photo")


def test_servers_behind_one_name_share_requests_while_they_come_and_go(hosts, first, second):
    unused = wait_until(lambda: count_edits(second))  # by its own canary, at its start
    with client(hosts, first) as edit:
        edit(2)
        assert count_edits(second) == unused
        hosts.resolve_to(FIRST, SECOND)

        def second_is_used():
            edit(2)
            return count_edits(second) > unused

        wait_until(second_is_used)

        def both_get_a_share():  # not while one is connected again, as its `connection_age` wants
            before = [count_edits(server) for server in (first, second)]
            edit(12)

            def shares():
                return [count_edits(first) - before[0], count_edits(second) - before[1]]

            wait_until(lambda: sum(shares()) >= 12)
            return min(shares()) >= 3

        wait_until(both_get_a_share)
        # As in Kubernetes: the address goes first, and the server once it gets no requests.
        hosts.resolve_to(FIRST)

        def second_is_unused():
            before = count_edits(second)
            edit(4)
            return count_edits(second) == before

        wait_until(second_is_unused)
        edit(8, interrupt=second.stop)
