"""The work of a client that gives up is dropped, over each protocol."""

import contextlib

import httpx
import pytest
from PIL import Image

from image_files import encode_image
from paths import GOLDEN
from polling import wait_until
from styleclip_client import Client, Edit, errors

SECONDS = 3  # that a client waits; the search takes longer


@pytest.fixture(scope="module")
def slow_photo():
    """A photo in which the search for all faces takes many seconds."""
    with Image.open(GOLDEN / "align" / "astronaut.png") as astronaut:
        photo = astronaut.convert("RGB").resize((4800, 4800))
    return encode_image(photo, "JPEG")


def dropped_requests(server):
    """The lines in the server's log of requests that `align` dropped."""
    lines = server.options.log.read_text().splitlines()
    return [line for line in lines if '"outcome": "WorkCancelled"' in line and '"align"' in line]


def find_faces(address, photo):
    with Client(address, timeout=SECONDS, retries=0) as client:
        client.faces(photo)


def edit_photo(address, photo):
    with Client(address, timeout=SECONDS, retries=0) as client:
        client.edit_photo(
            photo, Edit("a face", "a sad face", 3, 0.1), align=True, face=0
        )  # searches for all faces


def post_faces(address, photo):
    httpx.post(f"{address}/v1/faces", files={"photo": photo}, timeout=SECONDS)


def post_edit(address, photo):
    fields = {"target": "a sad face", "align": "true", "face": "0"}
    httpx.post(f"{address}/v1/edit", files={"photo": photo}, data=fields, timeout=SECONDS)


@pytest.mark.parametrize(
    ("protocol", "call"),
    [
        ("grpc", find_faces),
        ("http", find_faces),
        ("http", post_faces),
        ("grpc", edit_photo),
        ("http", post_edit),
    ],
)
def test_the_work_of_a_client_that_gave_up_is_dropped(server, slow_photo, protocol, call):
    address = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"

    def is_dropped():
        before = len(dropped_requests(server))
        with pytest.raises((errors.DeadlineExceeded, httpx.TimeoutException)):
            call(address, slow_photo)
        # On a busy machine a client may give up before its request reaches the step.
        with contextlib.suppress(AssertionError):
            return wait_until(lambda: len(dropped_requests(server)) > before, 60)

    wait_until(is_dropped)
