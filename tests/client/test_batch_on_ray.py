"""A batch on a Ray cluster: each photo is edited once, whatever is killed during it."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

import gateways
from batch_outputs import list_images, modification_times
from edit_texts import SAD_OPTIONS
from paths import SAMPLES
from polling import SECONDS, wait_until
from styleclip_client.batch.job import Task
from styleclip_client.batch.scheduler import MAX_FAILURES, Scheduler
from styleclip_client.batch.workers import ServerFault, TaskResult
from styleclip_client.cli import run
from styleclip_client.commands.options import DONE, SERVER_FAILED, WRONG_USAGE
from styleclip_contract.errors import ServerUnavailable

PHOTOS = sorted(SAMPLES.glob("avatar-*.png"))
COMMAND = Path(sys.executable).with_name("styleclip")


def test_a_killed_batch_on_a_cluster_leaves_each_image_once(server, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number in range(14):
        shutil.copy(PHOTOS[number % len(PHOTOS)], folder / f"{number:02}.png")
    command = [COMMAND, "batch", folder, *SAD_OPTIONS, "-o", out, "--ray", "local", "--json"]
    with gateways.http_gateway(server.http_url, stall_after=5) as gateway:
        process = subprocess.Popen([*command, "--server", gateway.url], stdout=subprocess.DEVNULL)
        wait_until(lambda: len(list_images(out)) >= 3)
        cluster = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for part in cluster:  # rather than wait until each part notices
            with suppress(psutil.NoSuchProcess):
                part.kill()
        _, alive = psutil.wait_procs(cluster, timeout=SECONDS)
    before = modification_times(out)
    assert not alive and 3 <= len(before) < 14
    with gateways.forwarder(server.grpc_url) as port:  # the same server by another name
        urls = [server.grpc_url, f"127.0.0.1:{port}"]
        command += [word for url in urls for word in ("--server", url)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    content = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (DONE, "")
    assert len(content["done_before"]) == len(before) and content["failed"] == []
    assert {entry["server"] for entry in content["edited"]} == set(urls)
    after = modification_times(out)
    assert len(after) == 14 and all(after[name] == before[name] for name in before)
    assert not list(out.glob(".*.part"))
    for name in after:
        Image.open(out / name).load()


def test_a_missing_cluster_is_reported_with_what_starts_one(server, tmp_path, capsys):
    shutil.copy(PHOTOS[0], tmp_path)
    command = ["batch", tmp_path, *SAD_OPTIONS, "-o", tmp_path / "out", "--server", server.grpc_url]
    assert run([str(part) for part in [*command, "--ray", "127.0.0.1:9"]]) == SERVER_FAILED
    stderr = capsys.readouterr().err
    assert "ClusterUnavailable" in stderr and "ray start" in stderr


def test_an_object_store_needs_pyarrow_and_a_known_scheme(server, tmp_path, capsys):
    arguments = ["nowhere://photos", *SAD_OPTIONS, "-o", tmp_path, "--server", server.grpc_url]
    assert run(["batch", *map(str, arguments)]) == WRONG_USAGE
    assert "cannot be opened" in capsys.readouterr().err


class FakeServer:
    """A server that edits by `edit(task)`; `tasks` are those that it was given."""

    def __init__(self, url, edit):
        self.url, self.edit, self.tasks = url, edit, []

    def submit(self, task):
        self.tasks.append(task)
        future = Future()
        future.set_result(self.edit(task))
        return future

    def close(self):
        pass


TASKS = [Task(f"{number}.png", f"{number}.png", "PNG") for number in range(20)]


def test_only_a_photo_that_crashes_servers_is_abandoned():
    def edit(task):
        if task.photo == "7.png":
            return TaskResult(task, "a", error="it died", fault=ServerFault.FAILED)
        return TaskResult(task, "a")

    server = FakeServer("a", edit)
    results = list(Scheduler([server], 4).run(TASKS))
    assert [r.task.photo for r in results if r.error] == ["7.png"]
    assert sorted(r.task.photo for r in results) == sorted(task.photo for task in TASKS)
    assert [task.photo for task in server.tasks].count("7.png") == MAX_FAILURES


def test_a_batch_without_servers_fails_with_a_reason():
    def edit(task):
        return TaskResult(task, "a", error="no answer", fault=ServerFault.UNREACHABLE)

    server = FakeServer("a", edit)
    with pytest.raises(ServerUnavailable, match="no answer"):
        list(Scheduler([server], 4, stall_timeout=0.5).run(TASKS))
    assert len(server.tasks) < 10  # it pauses in between


def test_a_busy_server_does_not_fail_a_photo():
    left = dict.fromkeys(TASKS[:1], MAX_FAILURES + 1)

    def edit(task):
        left[task] -= 1
        if left[task] > 0:
            return TaskResult(task, "a", error="busy", fault=ServerFault.BUSY)
        return TaskResult(task, "a")

    (result,) = Scheduler([FakeServer("a", edit)], 1).run(TASKS[:1])
    assert result.error == ""
