"""What an operator sees: metrics on Triton's port, log lines with the ids of requests."""

import json
import re
import urllib.request

import pytest
from PIL import Image
from styleclip_client import Client
from styleclip_client.errors import NoChannelLeft, NoFaceFound, NotAnImage
from styleclip_server import request_log
from styleclip_server.launcher import default_repository, running_server
from styleclip_server.triton import Options

PHOTO = default_repository().parent / "demo/samples/avatar-1.png"


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """A server of its own, whose counters nobody else moves: (client, scrape, log)."""
    log = tmp_path_factory.mktemp("observed") / "log"
    ports = dict.fromkeys(("http_port", "grpc_port", "metrics_port"), 0)
    with (
        running_server(Options(default_repository(), log=log, **ports), canary=0) as server,
        Client(server.grpc_url, name="shop") as client,
    ):
        yield client, lambda: scrape(server.metrics_url), log


def scrape(url):
    """name{labels} → value of every line of ours."""
    text = urllib.request.urlopen(url).read().decode()
    return {
        series: float(value)
        for series, value in re.findall(r"^(styleclip_\S+) (\S+)$", text, re.MULTILINE)
    }


def grown(scrape, act):
    before = scrape()
    act()
    return {
        series: value - before.get(series, 0)
        for series, value in scrape().items()
        if value != before.get(series, 0)
    }


def test_the_canary_of_the_start_was_not_counted(observed):
    _, look, _ = observed
    assert not any(look().values())


def test_an_edit_is_counted_with_its_strength_threshold_cache_and_format(observed):
    client, look, _ = observed
    edit = client.domain().edit("a sad face", strength=4, threshold=0.12)
    seen = grown(look, lambda: [client.edit_photo(PHOTO, edit, format="PNG") for _ in range(3)])
    assert seen['styleclip_edits_total{domain="avatars"}'] == 3
    assert seen['styleclip_pictures_total{domain="avatars",format="PNG"}'] == 3
    assert seen['styleclip_cache_requests_total{cache="offsets",result="miss"}'] == 1
    assert seen['styleclip_cache_requests_total{cache="offsets",result="hit"}'] == 2
    # The edit's texts are the first that this server sees, but for the canary's neutral one.
    assert seen['styleclip_cache_requests_total{cache="texts",result="miss"}'] == 1
    assert seen['styleclip_strength_bucket{domain="avatars",le="4"}'] == 3
    assert 'styleclip_strength_bucket{domain="avatars",le="3"}' not in seen
    assert seen['styleclip_threshold_bucket{domain="avatars",le="0.12"}'] == 3
    assert 'styleclip_threshold_bucket{domain="avatars",le="0.1"}' not in seen


def test_photos_without_a_face_and_unreadable_ones_are_counted_by_the_name_of_the_error(observed):
    client, look, _ = observed

    def act():
        with pytest.raises(NoFaceFound):
            client.invert(PHOTO, align=True)
        with pytest.raises(NotAnImage):
            client.invert(b"no picture")

    assert grown(look, act) == {
        'styleclip_refusals_total{error="NoFaceFound",step="align"}': 1,
        'styleclip_refusals_total{error="NotAnImage",step="align"}': 1,
        **{
            f'styleclip_faces_found_bucket{{domain="avatars",le="{le}"}}': 1
            for le in (0, 1, 2, 3, 5, 10, "+Inf")
        },
        'styleclip_faces_found_count{domain="avatars"}': 1,
    }


def test_the_faces_of_a_photo_are_counted(observed, golden):
    client, look, _ = observed
    photo = Image.open(golden / "align/astronaut.png")
    seen = grown(look, lambda: client.invert(photo, align=True, face=0))
    assert seen['styleclip_faces_found_count{domain="avatars"}'] == 1
    assert seen['styleclip_faces_found_sum{domain="avatars"}'] == 2


def test_labels_are_bounded(observed):
    _, look, _ = observed
    labels = {label for series in look() for label in re.findall(r'(\w+)="', series)}
    assert labels == {"domain", "step", "error", "format", "cache", "result", "le"}


def test_a_failure_is_a_line_of_json_with_the_id_that_the_client_knows(observed):
    client, _, log = observed
    secret = "a very private text"
    with pytest.raises(NoChannelLeft) as caught:
        client.direction(client.domain().edit(secret, threshold=1))
    assert re.fullmatch("shop-[0-9a-f]{32}", caught.value.request_id)
    (entry,) = [line for line in lines(log) if line["request_id"] == caught.value.request_id]
    assert entry["step"] == "direction" and entry["outcome"] == "NoChannelLeft"
    assert secret not in log.read_text()


def test_texts_are_in_a_line_only_where_asked_for(monkeypatch):
    import numpy as np

    inputs = {"NEUTRAL": np.array([[b"a face"]], object), "PHOTO": np.array([[b"1234"]], object)}
    silent = request_log.line("direction", "7", 0.01, inputs, ValueError("a face is wrong"))
    assert "a face" not in json.dumps(silent) and silent["photo_bytes"] == [4]
    monkeypatch.setenv(request_log.TEXTS_VARIABLE, "1")
    told = request_log.line("direction", "7", 0.01, inputs, ValueError("a face is wrong"))
    assert told["neutral"] == ["a face"] and told["message"] == "a face is wrong"


def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
