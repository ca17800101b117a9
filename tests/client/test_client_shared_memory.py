"""Raw pixels through the memory that client and server share, on a real server that allows it."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from paths import AVATAR
from polling import wait_until
from styleclip_client import AsyncClient, Client, requests, shared_memory
from styleclip_contract import errors, wire
from styleclip_server.api.abandoned_regions import SECONDS
from styleclip_server.serving.options import Options, default_repository
from styleclip_server.serving.supervisor import running_server


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    log = tmp_path_factory.mktemp("sharing") / "server.log"
    options = Options(
        default_repository(),
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        log=log,
        allow_shared_memory=True,
    )
    with running_server(options) as running:
        yield running


@pytest.fixture(scope="module")
def known(sharing):
    """A latent, an edit, and its results without shared memory."""
    with Client(sharing.grpc_url) as client:
        edit = client.domain().edit("a sad face")
        face = client.invert(AVATAR)
        return face, edit, client.draw(face.w_plus, edit), client.paste(AVATAR, face, edit)


@pytest.fixture(params=["grpc", "http"])
def url(request, sharing):
    address = sharing.grpc_url if request.param == "grpc" else sharing.http_url
    return f"{request.param}://{address}"


@pytest.fixture(autouse=True)
def no_region_is_left():
    def regions():
        return set(Path("/dev/shm").glob(f"{wire.SHARED_MEMORY_PREFIX}{os.getpid()}-*"))

    before = regions()
    yield
    gc.collect()
    assert regions() <= before


def test_pixels_are_the_same_with_and_without_shared_memory(url, known):
    face, edit, pixels, pasted = known
    with Client(url, shared_memory=True) as client:
        drawn = client.draw(face.w_plus, edit)
        assert np.array_equal(drawn, pixels) and drawn.dtype == np.uint8
        assert client.paste(AVATAR, face, edit).picture == pasted.picture
        assert client.edit(face.w_plus, edit).channels == pasted.channels
        plain = client.draw(face.w_plus)
        drawn[:] = 0  # a copy: no other image changes
        assert np.array_equal(client.draw(face.w_plus), plain)
        assert not np.array_equal(plain, pixels)


def test_the_async_client_also_uses_shared_memory(url, known):
    face, edit, pixels, pasted = known

    async def work():
        async with AsyncClient(url, shared_memory=True) as client:
            drawn = await asyncio.gather(*(client.draw(face.w_plus, edit) for _ in range(4)))
            return drawn, await client.paste(AVATAR, face, edit)

    drawn, edited = asyncio.run(work())
    assert all(np.array_equal(image, pixels) for image in drawn)
    assert edited.picture == pasted.picture


def test_threads_do_not_get_each_others_pixels(url, known, sharing):
    face, edit, _, _ = known
    edits = [edit, *(preset.edit for preset in _domain(sharing).presets[:3])]
    with Client(sharing.grpc_url) as client:
        expected = [client.draw(face.w_plus, edit) for edit in edits]
    wrong = []
    with Client(url, shared_memory=True) as client:

        def work(number):
            for turn in range(3):
                which = (number + turn) % len(edits)
                if not np.array_equal(client.draw(face.w_plus, edits[which]), expected[which]):
                    wrong.append(which)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def _domain(server):
    with Client(server.grpc_url) as client:
        return client.domain()


def infer(client, model, values):
    """The raw answer of one model, as `draw` gets it before it copies the image."""
    return client._infer(requests.build_request(model, values), client._deadline())


def test_a_region_is_reused_only_after_its_pixels_are_released(sharing, known):
    face, edit, pixels, _ = known
    with Client(sharing.grpc_url, shared_memory=True) as client:
        delta = client.direction(edit)
        answer = infer(client, wire.STYLEGAN2, {wire.W_PLUS: face.w_plus, wire.DELTA: delta})
        image = answer.pop(wire.IMAGE.name)
        client.draw(face.w_plus)
        assert np.array_equal(image[0], pixels)
        assert len(client._shared._registered) == 2
        view = image[0, ::2]
        del image
        client.draw(face.w_plus)
        assert np.array_equal(view, pixels[::2])  # a view keeps it, too
        del view
        for _ in range(3):
            client.draw(face.w_plus, edit)
        assert len(client._shared._registered) == 2


def test_a_large_array_of_the_caller_is_passed_in_shared_memory(sharing):
    image = np.random.default_rng(3).integers(0, 256, (1200, 1500, 3), dtype=np.uint8)
    assert image.nbytes > shared_memory.MIN_TENSOR_BYTES

    def encode(client):
        answer = infer(client, wire.COMPOSE, {wire.IMAGE: image, wire.FORMAT: [b"PNG"]})
        return requests.parse_picture(answer)

    with Client(sharing.grpc_url, shared_memory=True) as client, Client(sharing.grpc_url) as other:
        assert encode(client) == encode(other)
        assert [region.size for region in client._shared._registered] == [2**23]


def test_regions_are_registered_again_after_a_server_restart(sharing, known):
    face, edit, pixels, _ = known
    with Client(sharing.grpc_url, shared_memory=True, retries=12) as client:
        client.draw(face.w_plus, edit)
        restarts = sharing.restarts
        os.kill(sharing.pid, 9)
        deadline = time.monotonic() + 60
        while sharing.restarts == restarts and time.monotonic() < deadline:
            time.sleep(0.1)
        assert np.array_equal(client.draw(face.w_plus, edit), pixels)
        assert len(client._shared._registered) == 1


def test_an_error_leaks_no_region(url, known):
    face, edit, pixels, _ = known
    with Client(url, shared_memory=True) as client:
        for _ in range(3):
            with pytest.raises(errors.StyleclipError):
                client.draw(face.w_plus[:5], edit)  # too few latents for this domain
            with pytest.raises(errors.StyleclipError):
                client.draw(face.w_plus[:5])
        assert np.array_equal(client.draw(face.w_plus, edit), pixels)
        assert len(client._shared._registered) == 1


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_server_without_shared_memory_raises_a_named_error(server, known, kind):
    address = server.grpc_url if kind == "grpc" else server.http_url
    face, edit, _, _ = known
    with (
        Client(f"{kind}://{address}", shared_memory=True) as client,
        pytest.raises(errors.AccessRefused, match="--allow-shared-memory"),
    ):
        client.draw(face.w_plus, edit)


def regions(server):
    with triton.InferenceServerClient(server.grpc_url) as inference:
        return inference.get_system_shared_memory_status(as_json=True).get("regions", {})


def test_closed_clients_leave_no_region_on_the_server(url, known, sharing):
    face, edit, _, _ = known

    def draw(_):
        with Client(url, shared_memory=True) as client:
            client.draw(face.w_plus, edit)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(draw, range(30)))
    assert regions(sharing) == {}


@pytest.mark.parametrize("group", [False, True])
def test_the_region_of_a_killed_client_is_closed(known, sharing, tmp_path, group):
    face, _, _, _ = known
    face.save(tmp_path / "face.npz")
    code = (
        "import sys, time; from styleclip_client import Client, Inverted\n"
        "client = Client(sys.argv[1], shared_memory=True)\n"
        "client.draw(Inverted.load(sys.argv[2]).w_plus)\n"
        "print('drawn', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, sharing.grpc_url, str(tmp_path / "face.npz")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"drawn\n"
        names = list(regions(sharing))
        assert len(names) == 1
        time.sleep(2 * SECONDS)
        assert list(regions(sharing)) == names  # not while its client lives
        # With its helper process, Python's resource tracker, nobody removes the file.
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    wait_until(lambda: regions(sharing) == {})
    assert not Path("/dev/shm", names[0]).exists()
