"""Metrics on Triton's port, and log lines and traces with the ids of requests."""

import json
import os
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counters import read_metrics
from paths import AVATAR
from polling import wait_until
from servers import running_server
from styleclip_client import Client
from styleclip_contract.errors import NoChannelLeft, NoFaceFound, NotAnImage
from styleclip_server.serving import request_log
from styleclip_server.serving.options import Options
from styleclip_server.serving.server_log import ServerLog


@pytest.fixture(scope="module")
def spans():
    """A collector of OpenTelemetry's protocol: (its URL, the spans it received)."""
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in body["resourceSpans"]:
                received.extend(span for scope in resource["scopeSpans"] for span in scope["spans"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{collector.server_port}/v1/traces", received
        collector.shutdown()


@pytest.fixture(scope="module")
def observed(tmp_path_factory, spans):
    """A server that no other test uses, so that its counters are known: (client, scrape, log)."""
    log = tmp_path_factory.mktemp("observed") / "log"
    options = Options(
        domain="avatars", log=log, log_format="json", log_requests="all", trace_to=spans[0]
    )
    with (
        running_server(options) as server,
        Client(server.grpc_url, name="shop") as client,
    ):
        yield client, lambda: read_metrics(server), log


def count_changes(scrape, action):
    """Return how much each metric changed by calling `action`."""
    before = scrape()
    action()
    return {
        series: value - before.get(series, 0)
        for series, value in scrape().items()
        if value != before.get(series, 0)
    }


def test_the_canary_at_the_start_is_not_counted(observed):
    _, scrape, _ = observed
    counts = scrape()
    assert counts.pop("styleclip_requests_limit") > 0  # not a count
    assert not any(counts.values())


def test_an_edit_is_counted_with_its_strength_threshold_cache_and_format(observed):
    client, scrape, _ = observed
    edit = client.domain().edit("a sad face", strength=4, threshold=0.12)
    changes = count_changes(
        scrape, lambda: [client.edit_photo(AVATAR, edit, format="PNG") for _ in range(3)]
    )
    assert changes['styleclip_edits_total{domain="avatars"}'] == 3
    assert changes['styleclip_pictures_total{domain="avatars",format="PNG"}'] == 3
    assert changes['styleclip_cache_requests_total{cache="offsets",result="miss"}'] == 1
    assert changes['styleclip_cache_requests_total{cache="offsets",result="hit"}'] == 2
    # The edit's texts are the first of this server, except the canary's neutral text.
    assert changes['styleclip_cache_requests_total{cache="texts",result="miss"}'] == 1
    assert changes['styleclip_strength_bucket{domain="avatars",le="4"}'] == 3
    assert 'styleclip_strength_bucket{domain="avatars",le="3"}' not in changes
    assert changes['styleclip_threshold_bucket{domain="avatars",le="0.12"}'] == 3
    assert 'styleclip_threshold_bucket{domain="avatars",le="0.1"}' not in changes


def test_photos_without_a_face_and_unreadable_ones_are_counted_by_the_name_of_the_error(observed):
    client, scrape, _ = observed

    def invert_bad_photos():
        with pytest.raises(NoFaceFound):
            client.invert(AVATAR, align=True)
        with pytest.raises(NotAnImage):
            client.invert(b"not an image")

    assert count_changes(scrape, invert_bad_photos) == {
        "styleclip_requests_admitted_total": 2,
        'styleclip_refusals_total{error="NoFaceFound",step="align"}': 1,
        'styleclip_refusals_total{error="NotAnImage",step="align"}': 1,
        **{
            f'styleclip_faces_found_bucket{{domain="avatars",le="{le}"}}': 1
            for le in (0, 1, 2, 3, 5, 10, "+Inf")
        },
        'styleclip_faces_found_count{domain="avatars"}': 1,
    }


def test_the_faces_of_a_photo_are_counted(observed, golden):
    client, scrape, _ = observed
    photo = Image.open(golden / "align/astronaut.png")
    changes = count_changes(scrape, lambda: client.invert(photo, align=True, face=0))
    assert changes['styleclip_faces_found_count{domain="avatars"}'] == 1
    assert changes['styleclip_faces_found_sum{domain="avatars"}'] == 2


def test_labels_are_bounded(observed):
    _, scrape, _ = observed
    labels = {label for series in scrape() for label in re.findall(r'(\w+)="', series)}
    assert labels == {"domain", "step", "error", "format", "cache", "result", "le"}


def test_a_failure_is_a_line_of_json_with_the_id_that_the_client_knows(observed):
    client, _, log = observed
    secret = "a very private text"
    with pytest.raises(NoChannelLeft) as caught:
        client.direction(client.domain().edit(secret, threshold=1))
    assert re.fullmatch("shop-[0-9a-f]{32}", caught.value.request_id)
    (entry,) = wait_until(
        lambda: [e for e in read_entries(log) if e.get("request_id") == caught.value.request_id]
    )
    assert entry["step"] == "direction" and entry["outcome"] == "NoChannelLeft"
    assert secret not in log.read_text()


def test_an_edit_leaves_one_id_in_every_step_and_span_but_no_text(observed, spans):
    client, _, log = observed

    def composed():
        return [
            entry["request_id"] for entry in read_entries(log) if entry.get("step") == "compose"
        ]

    before = composed()
    client.edit_photo(AVATAR, client.domain().edit("a face with sunglasses"))
    (newest,) = wait_until(lambda: composed()[len(before) :])
    steps = [entry["step"] for entry in read_entries(log) if entry.get("request_id") == newest]
    assert steps == ["align", "direction", "compose"]
    assert "sunglasses" not in log.read_text()

    def traced():
        return {
            attributes["triton.model_name"]
            for span in spans[1]
            if (attributes := read_attributes(span)).get("triton.request_id") == newest
        }

    expected = {"edit_photo", "align", "e4e", "direction", "stylegan2", "compose"}
    assert wait_until(lambda: traced() == expected)


def test_every_line_of_the_json_log_is_json(observed):
    _, _, log = observed
    assert {"time", "level", "message"} <= set(json.loads(log.read_text().splitlines()[0]))
    assert read_entries(log)  # all lines are


def test_texts_are_logged_only_with_the_option(monkeypatch):
    inputs = {"NEUTRAL": np.array([[b"a face"]], object), "PHOTO": np.array([[b"1234"]], object)}
    silent = request_log.entry("direction", "7", 0.01, inputs, ValueError("a face is wrong"))
    assert "a face" not in json.dumps(silent) and silent["photo_bytes"] == [4]
    monkeypatch.setenv(request_log.TEXTS_VARIABLE, "1")
    full = request_log.entry("direction", "7", 0.01, inputs, ValueError("a face is wrong"))
    assert full["neutral"] == ["a face"] and full["message"] == "a face is wrong"


@contextmanager
def pipe_to(log):
    """A pipe whose lines go to the log; all are written when the block ends."""
    read, write = os.pipe()
    log.follow(os.fdopen(read, "rb"))
    with os.fdopen(write, "wb") as pipe:
        yield pipe
    log.finish()


def test_an_unwritable_log_stops_nothing(tmp_path):
    log = ServerLog(Path("/dev/full"), "text")
    with pipe_to(log) as pipe:
        pipe.write(b"dropped\n" * 10_000)  # more than fits into a pipe
    assert log.last_lines[-1] == "dropped"


def test_a_log_is_written_again_once_the_disk_has_room(tmp_path):
    folder = tmp_path / "full"
    folder.touch()  # no folder: the log cannot be opened
    log = ServerLog(folder / "log", "text")
    with pipe_to(log) as pipe:
        pipe.write(b"left out\n")
        pipe.flush()
        assert wait_until(lambda: log.last_lines)
        folder.unlink()
        folder.mkdir()
        pipe.write(b"written\n")
    assert (folder / "log").read_text() == "written\n"


def test_a_long_log_is_rotated(tmp_path):
    path = tmp_path / "log"
    with pipe_to(ServerLog(path, "text")) as pipe:
        for _ in range(25_000):
            pipe.write(b"x" * 999 + b"\n")
    assert path.stat().st_size < 11e6 and (tmp_path / "log.old").stat().st_size < 11e6
    assert {file.name for file in tmp_path.iterdir()} == {"log", "log.old"}


def read_entries(log):
    """Return the lines of the log, except one that is being written."""
    lines, _, _ = log.read_text().rpartition("\n")
    return [json.loads(line) for line in lines.splitlines()]


def read_attributes(span):
    """The string attributes of a span."""
    strings = {}
    for entry in span.get("attributes", ()):
        strings[entry["key"]] = entry["value"].get("stringValue")
    return strings
