"""POST /v1/sweep: one edit at many strengths."""

import asyncio
import base64
import io
import threading
import zipfile

import pytest

from edit_requests import SAD, events, image_of, photo
from styleclip_server.api.web.events import stream


def test_a_sheet_has_an_image_for_each_strength(api):
    response = api.post("/v1/sweep", files=[photo()], data={**SAD, "steps": "3", "size": "64"})
    assert response.headers["content-type"] == "image/png"
    assert image_of(response.content).width == 3 * 70 + 6


def test_thresholds_make_a_grid_with_a_row_for_each(api):
    data = {**SAD, "steps": "2", "size": "32", "thresholds": ["0.1", "0.2", "1"]}
    response = api.post(
        "/v1/sweep", files=[photo()], data=data, headers={"accept": "application/json"}
    ).json()
    assert response["thresholds"] == [0.1, 0.2, 1]
    assert response["strengths"] == [-5, 10]
    assert response["nothing_left"] == [[-5, 1], [10, 1]]
    assert image_of(base64.b64decode(response["image"])).format == "PNG"


def test_a_sweep_as_gif_goes_forward_and_backward(api):
    data = {**SAD, "steps": "4", "size": "32", "format": "gif", "from": "0", "to": "8"}
    response = api.post("/v1/sweep", files=[photo()], data=data)
    assert response.headers["content-type"] == "image/gif"
    assert image_of(response.content).n_frames == 6  # forward and backward


def test_the_images_of_a_sweep_come_one_by_one_in_an_archive(api):
    latent = api.post("/v1/invert", files=[photo()]).content
    response = api.post(
        "/v1/sweep",
        files=[("latent", latent)],
        data={**SAD, "steps": "2"},
        headers={"accept": "application/zip"},
    )
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    names = archive.namelist()
    assert names == [
        "001-strength--5-threshold-0.15.png", "002-strength-10-threshold-0.15.png",
    ]  # fmt: skip
    assert image_of(archive.read(names[0])).size == (256, 256)


def test_progress_of_a_sweep_is_reported_by_events(api):
    response = api.post(
        "/v1/sweep",
        files=[photo()],
        data={**SAD, "steps": "3", "size": "32"},
        headers={"accept": "text/event-stream"},
    )
    *progress, (last, result) = events(response)
    assert progress == [("progress", {"done": done, "total": 3}) for done in (1, 2, 3)]
    assert last == "result" and result["media_type"] == "image/png"


def test_the_result_of_events_is_built_outside_the_event_loop():
    threads = []

    async def work(report):
        threads.append(threading.get_ident())

    def build_json(result):
        threads.append(threading.get_ident())
        return {}

    async def read():
        return [event async for event in stream(work, build_json, "id").body_iterator]

    assert b"result" in asyncio.run(read())[-1]
    loop_thread, build_thread = threads
    assert build_thread != loop_thread


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"steps": "1"}, "InvalidInput", "steps"),
        ({"steps": "100", "size": "2048"}, "InvalidInput", "million"),
        ({"steps": "70", "format": "webp"}, "InvalidInput", "16383"),
        ({"steps": "100", "size": "650", "format": "jpeg"}, "InvalidInput", "65500"),
        ({"to": "21"}, "InvalidStrength", "to is 21"),
        ({"format": "gif", "thresholds": "0.1"}, "InvalidInput", "no rows"),
        ({"format": "bmp"}, "UnknownFormat", "gif"),
        ({"thresholds": "1"}, "NoChannelLeft", "lower"),
    ],
)
def test_a_sweep_that_cannot_be_drawn_is_refused(api, fields, name, words):
    data = {**SAD, "steps": "2", **fields}
    problem = api.post("/v1/sweep", files=[photo()], data=data).json()
    assert problem["name"] == name and words in problem["detail"]


def test_a_name_that_is_not_documented_is_refused_in_json_and_forms(api):
    for body in ({"json": {**SAD, "low": 1}}, {"files": [photo()], "data": {**SAD, "low": "1"}}):
        problem = api.post("/v1/sweep", **body).json()
        assert problem["detail"].startswith("there is no field 'low'")
