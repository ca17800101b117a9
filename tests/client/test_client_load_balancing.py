"""One name for several servers, like a headless service of Kubernetes: each gets its share.

Two real servers listen on the same port of two loopback addresses. The client runs in a mount
namespace of its own, in which /etc/hosts gives one name to both.
"""

import shlex
import subprocess
import sys
from contextlib import contextmanager
from statistics import median

import pytest

import servers
from counters import count_requests, read_metrics
from paths import AVATAR, PERSON
from polling import SECONDS, wait_until
from styleclip_server.serving import supervisor
from styleclip_server.serving.options import Options

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
NAME = "styleclip-server.test"

# Edits as often as each line of standard input says, four at once, and prints the failures.
EDIT_PHOTOS = """
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

# Inverts once, edits with the strength of each line, and prints the image's hash and milliseconds.
MOVE_SLIDER = """
import hashlib
import sys
import time
from dataclasses import replace
from styleclip_client import Client

url, photo = sys.argv[1:]
with Client(url) as client:
    face = client.invert(photo, fidelity="features")
    edit = client.domain().edit("a smiling face")
    for line in sys.stdin:
        start = time.perf_counter()
        edited = client.edit(face, replace(edit, strength=float(line)), fidelity="features")
        milliseconds = 1000 * (time.perf_counter() - start)
        print(hashlib.sha256(edited.picture).hexdigest(), milliseconds, flush=True)
"""


def build_options(host, folder, port=0, **options):
    return Options(host=host, grpc_port=port, log=folder / f"{host}.log", **options)


def port_of(server):
    return int(server.grpc_url.rpartition(":")[2])


@pytest.fixture
def first(tmp_path):
    options = build_options(FIRST, tmp_path, domain="avatars", connection_age=5)
    with servers.running_server(options) as server:
        yield server


@pytest.fixture
def second(first, tmp_path):
    """The test stops it while it edits."""
    port = port_of(first)
    options = build_options(SECOND, tmp_path, port, domain="avatars", connection_age=5)
    with supervisor.running_server(options, canary=0) as server:
        yield server


@pytest.fixture
def two_of_people(tmp_path):
    """Two servers of people."""
    with (
        servers.running_server(build_options(FIRST, tmp_path)) as one,
        servers.running_server(build_options(SECOND, tmp_path, port_of(one))) as other,
    ):
        yield one, other


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
def client(hosts, server, script, photo):
    """Run a script with a client of NAME; yield a function from a line to the script's answer.

    It calls `interrupt` between them.
    """
    command = [sys.executable, "-c", script, f"{NAME}:{port_of(server)}", str(photo)]
    inside = f"mount --bind {shlex.quote(str(hosts.path))} /etc/hosts && exec {shlex.join(command)}"
    with subprocess.Popen(
        ["unshare", "-rm", "env", f"no_proxy={NAME}", "sh", "-c", inside],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def ask(line, interrupt=lambda: None):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            interrupt()
            answer = process.stdout.readline()
            assert answer, process.communicate()[1]
            return answer.strip()

        try:
            yield ask
        finally:
            process.stdin.close()
            process.wait(SECONDS)


def count_edits(server):
    """Return how many photos `server` has edited; the newest may be missing."""
    return count_requests(server, "edit_photo")


def test_servers_behind_one_name_share_requests_while_they_come_and_go(hosts, first, second):
    unused = wait_until(lambda: count_edits(second))  # by its own canary, at its start
    with client(hosts, first, EDIT_PHOTOS, AVATAR) as ask:

        def edit(times, **options):
            assert ask(times, **options) == "done"

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


def count_lookups(server):
    """Return how often the cache of features found a face, and how often not."""
    metrics = read_metrics(server)
    name = 'styleclip_cache_requests_total{cache="features",result="%s"}'
    return tuple(metrics.get(name % result, 0) for result in ("hit", "miss"))


def move_slider(ask, servers, strength):
    """Ask until each server has answered; return the images, and each answer's (missed, ms)."""
    before = [count_lookups(server) for server in servers]
    images, times = set(), []

    def all_have_answered():
        misses = sum(count_lookups(server)[1] for server in servers)
        image, milliseconds = ask(strength).split()
        after = [count_lookups(server) for server in servers]
        images.add(image)
        times.append((sum(counts[1] for counts in after) > misses, float(milliseconds)))
        return all(sum(now) > sum(then) for now, then in zip(after, before, strict=True))

    wait_until(all_have_answered)
    return images, times


def test_a_slider_gets_the_same_images_from_both_servers_of_a_name(hosts, two_of_people):
    """Each request has the face crop, so a server that has never seen the face answers too."""
    hosts.resolve_to(FIRST, SECOND)
    unused = [count_lookups(server) for server in two_of_people]
    images, times = set(), []
    with client(hosts, two_of_people[0], MOVE_SLIDER, PERSON) as ask:
        for strength in range(7):
            of_strength, took = move_slider(ask, two_of_people, strength)
            assert len(of_strength) == 1
            images |= of_strength
            times += took
    assert len(images) == 7
    for server, (_, misses) in zip(two_of_people, unused, strict=True):
        assert count_lookups(server)[1] == misses + 1
    for name, missed in (("misses", True), ("hits", False)):
        chosen = [milliseconds for m, milliseconds in times if m == missed]
        print(f"{len(chosen)} {name}: median {median(chosen):.0f} ms")
