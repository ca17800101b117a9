"""A batch on a Ray cluster: each photo once, whatever is killed during it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import gateways
from edit_texts import SAD_OPTIONS
from paths import SAMPLES
from styleclip_client.batch.job import Task
from styleclip_client.batch.scheduler import MAX_FAILURES, Scheduler
from styleclip_client.batch.workers import ServerFault, TaskResult
from styleclip_client.cli import run
from styleclip_client.commands.options import DONE, SERVER_FAILED, WRONG_USAGE
from styleclip_contract.errors import ServerUnavailable

PHOTOS = sorted(SAMPLES.glob("avatar-*.png"))
COMMAND = Path(sys.executable).with_name("styleclip")


def images(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}


def test_a_killed_batch_on_a_cluster_leaves_each_image_once(server, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number in range(14):
        shutil.copy(PHOTOS[number % len(PHOTOS)], folder / f"{number:02}.png")
    with gateways.forwarder(server.grpc_url) as port:  # the same server by another name
        urls = [server.grpc_url, f"127.0.0.1:{port}"]
        command = [COMMAND, "batch", folder, *SAD_OPTIONS, "-o", out, "--ray", "local", "--json"]
        for url in urls:
            command += ["--server", url]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(images(out)) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = settled(out)
        assert 3 <= len(before) < 14
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    content = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (DONE, "")
    assert len(content["done_before"]) == len(before) and content["failed"] == []
    assert {entry["server"] for entry in content["edited"]} == set(urls)
    after = images(out)
    assert len(after) == 14 and all(after[name] == before[name] for name in before)
    assert not list(out.glob(".*.part"))
    for name in after:
        Image.open(out / name).load()


def settled(out):
    """The images, once the cluster whose driver was killed has ended its tasks."""
    before, since = images(out), time.monotonic()
    while time.monotonic() < since + 3:
        time.sleep(0.2)
        now = images(out)
        if now != before:
            before, since = now, time.monotonic()
    return before


def test_a_missing_cluster_is_reported_at_once(server, tmp_path, capsys):
    shutil.copy(PHOTOS[0], tmp_path)
    command = ["batch", tmp_path, *SAD_OPTIONS, "-o", tmp_path / "out", "--server", server.grpc_url]
    start = time.monotonic()
    assert run([str(part) for part in [*command, "--ray", "127.0.0.1:9"]]) == SERVER_FAILED
    assert time.monotonic() < start + 60
    stderr = capsys.readouterr().err
    assert "ClusterUnavailable" in stderr and "ray start" in stderr


def test_an_object_store_needs_pyarrow_and_a_known_scheme(server, tmp_path, capsys):
    arguments = ["nowhere://photos", *SAD_OPTIONS, "-o", tmp_path, "--server", server.grpc_url]
    assert run(["batch", *map(str, arguments)]) == WRONG_USAGE
    assert "cannot be opened" in capsys.readouterr().err


class Server:
    """A worker whose results a test decides; `tasks` are those that it was given."""

    def __init__(self, url, answer):
        self.url, self.answer, self.tasks = url, answer, []

    def submit(self, task):
        from concurrent.futures import Future

        self.tasks.append(task)
        future = Future()
        future.set_result(self.answer(task))
        return future

    def close(self):
        pass


TASKS = [Task(f"{number}.png", f"{number}.png", "PNG") for number in range(20)]


def test_only_a_photo_that_crashes_servers_is_abandoned():
    def answer(task):
        if task.photo == "7.png":
            return TaskResult(task, "a", error="it died", fault=ServerFault.FAILED)
        return TaskResult(task, "a")

    server = Server("a", answer)
    results = list(Scheduler([server], 4).run(TASKS))
    assert [r.task.photo for r in results if r.error] == ["7.png"]
    assert sorted(r.task.photo for r in results) == sorted(task.photo for task in TASKS)
    assert [task.photo for task in server.tasks].count("7.png") == MAX_FAILURES


def test_a_batch_without_servers_fails_with_a_reason():
    def answer(task):
        return TaskResult(task, "a", error="gone", fault=ServerFault.UNREACHABLE)

    server = Server("a", answer)
    with pytest.raises(ServerUnavailable, match="gone"):
        list(Scheduler([server], 4, stall_timeout=0.5).run(TASKS))
    assert len(server.tasks) < 10  # it pauses in between


def test_a_busy_server_does_not_fail_a_photo():
    left = dict.fromkeys(TASKS[:1], MAX_FAILURES + 1)

    def answer(task):
        left[task] -= 1
        if left[task] > 0:
            return TaskResult(task, "a", error="busy", fault=ServerFault.BUSY)
        return TaskResult(task, "a")

    (result,) = Scheduler([Server("a", answer)], 1).run(TASKS[:1])
    assert result.error == ""
