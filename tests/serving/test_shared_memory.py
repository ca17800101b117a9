"""Memory that clients and a server on one machine share: pixels in it, and what is refused."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from attack_target import Target
from paths import AVATAR
from polling import wait_until
from servers import running_server
from styleclip_client import AsyncClient, Client, requests, shared_memory
from styleclip_contract import errors, wire
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    """A server that allows shared memory."""
    log = tmp_path_factory.mktemp("sharing") / "server.log"
    options = Options(domain="avatars", log=log, allow_shared_memory=True)
    with running_server(options) as server:
        yield server


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
    def files():
        return set(Path("/dev/shm").glob(f"{wire.SHARED_MEMORY_PREFIX}{os.getpid()}-*"))

    before = files()
    yield
    gc.collect()
    assert files() <= before


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
    with Client(sharing.grpc_url) as client:
        edits = [edit, *(preset.edit for preset in client.domain().presets[:3])]
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


def infer(client, model, values):
    """Return the outputs of one model, as `draw` gets it before it copies the image."""
    return client._infer(requests.build_request(model, values), client._deadline())


def test_a_region_is_reused_only_after_its_pixels_are_released(sharing, known):
    face, edit, pixels, _ = known
    with Client(sharing.grpc_url, shared_memory=True) as client:
        delta = client.direction(edit)
        outputs = infer(client, wire.STYLEGAN2, {wire.W_PLUS: face.w_plus, wire.DELTA: delta})
        image = outputs.pop(wire.IMAGE.name)
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
        outputs = infer(client, wire.COMPOSE, {wire.IMAGE: image, wire.FORMAT: [b"PNG"]})
        return requests.parse_picture(outputs)

    with Client(sharing.grpc_url, shared_memory=True) as client, Client(sharing.grpc_url) as other:
        assert encode(client) == encode(other)
        assert [region.size for region in client._shared._registered] == [2**23]


def test_regions_are_registered_again_after_a_server_restart(sharing, known):
    face, edit, pixels, _ = known
    with Client(sharing.grpc_url, shared_memory=True, retries=12) as client:
        client.draw(face.w_plus, edit)
        restarts = sharing.restarts
        os.kill(sharing.pid, 9)
        wait_until(lambda: sharing.restarts > restarts)
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


def open_regions(server):
    """Return the regions that the server has open, by name."""
    with triton.InferenceServerClient(server.grpc_url) as inference:
        return inference.get_system_shared_memory_status(as_json=True).get("regions", {})


def wait_for_check_of_regions(server):
    """Wait until the server has closed a region whose file was removed, as each check does."""
    memory = SharedMemory(create=True, size=4096)
    with triton.InferenceServerClient(server.grpc_url) as inference:
        inference.register_system_shared_memory("without_a_file", f"/{memory.name}", 4096)
    memory.close()
    memory.unlink()
    wait_until(lambda: "without_a_file" not in open_regions(server))


def test_closed_clients_leave_no_region_on_the_server(url, known, sharing):
    face, edit, _, _ = known

    def draw(_):
        with Client(url, shared_memory=True) as client:
            client.draw(face.w_plus, edit)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(draw, range(30)))
    assert open_regions(sharing) == {}


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
        (name,) = open_regions(sharing)
        wait_for_check_of_regions(sharing)
        assert list(open_regions(sharing)) == [name]  # not while its client lives
        # With its helper process, Python's resource tracker, nobody removes the file.
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    wait_until(lambda: open_regions(sharing) == {})
    assert not Path("/dev/shm", name).exists()


def test_clients_cannot_register_regions_of_the_python_backend(sharing):
    """CVE-2025-23319, -23320, -23329, -23333, -23334."""
    target = Target(sharing)
    internal = next(Path("/dev/shm").glob("styleclip_*")).name

    def register(key, size, offset=0):
        request = pb.SystemSharedMemoryRegisterRequest(
            name="a", key=key, byte_size=size, offset=offset
        )
        return target.call(request, "SystemSharedMemoryRegister")

    for key in (f"/{internal}", internal, f"//{internal}", f"/../shm/{internal}"):
        assert register(key, 16) == "INVALID_ARGUMENT"
    body = json.dumps({"key": f"/{internal}", "offset": 0, "byte_size": 16}).encode()
    assert target.post("/v2/systemsharedmemory/region/b/register", body) == 400
    memory = SharedMemory(create=True, size=4096)
    try:
        assert register(f"/{memory.name}", 8192) == "INVALID_ARGUMENT"
        assert register(f"/{memory.name}", 4096, 2**63) == "INVALID_ARGUMENT"
        assert register(f"/{memory.name}", 4096) == "OK"
    finally:
        memory.close()
        memory.unlink()
    wait_until(lambda: open_regions(sharing) == {})


def test_a_server_that_allows_shared_memory_restricts_other_calls(sharing):
    with (
        triton.InferenceServerClient(sharing.grpc_url) as connection,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        connection.get_log_settings()


def test_shared_memory_needs_a_loopback_address(tmp_path):
    options = Options(host="0.0.0.0", no_token=True, log=tmp_path / "log", allow_shared_memory=True)
    with (
        pytest.raises(ServerStartFailed, match=r"--allow-shared-memory .* 0\.0\.0\.0"),
        running_server(options),
    ):
        pass
