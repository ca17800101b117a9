"""The same calls with threads and asyncio, over gRPC and HTTP, plain and with TLS."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gateways
from edit_texts import SUNGLASSES
from paths import AVATAR
from polling import SECONDS, wait_until
from styleclip_client import AsyncClient, Client, Edited
from styleclip_contract import errors


@pytest.fixture(params=["grpc", "http"])
def url(request, server):
    address = server.grpc_url if request.param == "grpc" else server.http_url
    return f"{request.param}://{address}"


def run_with_asyncio(url, work, **options):
    """What the coroutine `work(client)` returns."""

    async def inside():
        async with AsyncClient(url, **options) as client:
            return await work(client)

    return asyncio.run(inside())


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_every_transport_gives_the_same_results(server, url, compression):
    with Client(server.grpc_url) as reference:
        edit = reference.domain().edit(SUNGLASSES)
        expected = reference.edit_photo(AVATAR, edit, format="PNG")
        latent = reference.invert(AVATAR)
        delta = reference.direction(edit)

    async def work(client):
        assert (await client.domain()).edit(SUNGLASSES) == edit
        return (
            await client.edit_photo(AVATAR, edit, format="PNG"),
            await client.invert(AVATAR),
            await client.direction(edit),
            await client.edit(latent.w_plus, edit, format="PNG"),
        )

    with Client(url, compression=compression) as client:
        assert client.domain().edit(SUNGLASSES) == edit
        by_threads = (
            client.edit_photo(AVATAR, edit, format="PNG"),
            client.invert(AVATAR),
            client.direction(edit),
            client.edit(latent.w_plus, edit, format="PNG"),
        )
    for edited, inverted, direction, again in (
        by_threads,
        run_with_asyncio(url, work, compression=compression),
    ):
        assert edited == expected
        assert np.array_equal(inverted.w_plus, latent.w_plus)
        assert np.array_equal(inverted.quad, latent.quad)
        assert np.array_equal(direction, delta)
        assert again.channels == expected.channels


def test_every_transport_gives_the_same_status(server, url):
    with Client(server.grpc_url) as reference:
        expected = reference.status()
    with Client(url) as client:
        status, timings = client.status(), client.timings()
    by_asyncio = run_with_asyncio(url, lambda client: client.status())
    assert status == by_asyncio
    assert (status.live, status.ready, status.version) == (True, True, expected.version)
    assert (status.models, status.domain) == (expected.models, expected.domain)
    assert {timing.name for timing in timings} == {model.name for model in status.models}


def test_every_transport_names_the_error(url):
    async def work(client):
        edit = (await client.domain()).edit(SUNGLASSES, threshold=1)
        await client.edit_photo(AVATAR, edit)

    with pytest.raises(errors.NoChannelLeft, match="at most 0"):
        run_with_asyncio(url, work)
    with Client(url) as client:
        with pytest.raises(errors.NoChannelLeft, match="at most 0"):
            client.edit_photo(AVATAR, client.domain().edit(SUNGLASSES, threshold=1))
        with pytest.raises(errors.NotAnImage):
            client.invert(b"no image")


def test_one_client_serves_many_threads(url):
    with Client(url) as client:
        edit = client.domain().edit(SUNGLASSES)
        results = list(client.edit_many([AVATAR] * 12, edit, concurrency=6))
    assert len(results) == 12 and len({result.picture for result in results}) == 1


def test_many_photos_keep_their_order_and_a_failure_affects_no_other(url, tmp_path):
    photos = [AVATAR, b"no image", AVATAR.with_name("avatar-2.png"), tmp_path / "missing.jpg"]

    async def work(client):
        edit = (await client.domain()).edit(SUNGLASSES)
        return [result async for result in client.edit_many(photos, edit, format="PNG")]

    with Client(url) as client:
        edit = client.domain().edit(SUNGLASSES)
        alone = [client.edit_photo(photo, edit, format="PNG") for photo in photos[::2]]
        by_threads = list(client.edit_many(photos, edit, concurrency=2, format="PNG"))
    for results in (by_threads, run_with_asyncio(url, work)):
        assert [results[0], results[2]] == alone
        assert isinstance(results[1], errors.NotAnImage)
        assert isinstance(results[3], FileNotFoundError)


def test_photos_are_read_lazily(server):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield AVATAR

    async def work(client):
        edit = (await client.domain()).edit(SUNGLASSES)
        results = client.edit_many(endless(), edit, concurrency=2)
        first = await anext(results)
        await results.aclose()
        return first

    assert isinstance(run_with_asyncio(server.grpc_url, work), Edited)
    with Client(server.grpc_url) as client:
        results = client.edit_many(endless(), client.domain().edit(SUNGLASSES), concurrency=2)
        assert isinstance(next(results), Edited)
        results.close()
    assert len(taken) <= 2 * 2 * 2


@pytest.fixture
def certificate(tmp_path):
    return gateways.self_signed(tmp_path)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_tls_works_with_a_trusted_authority(server, certificate, scheme):
    target = server.grpc_url if scheme == "grpcs" else server.http_url
    with gateways.tls_gateway(target, *certificate) as port:
        url = f"{scheme}://localhost:{port}"
        with Client(url, ca=certificate[0]) as client:
            assert client.invert(AVATAR).w_plus.shape == (14, 512)
        latent = run_with_asyncio(url, lambda client: client.invert(AVATAR), ca=certificate[0])
        assert latent.w_plus.shape == (14, 512)
        with (
            Client(url, retries=0) as client,
            pytest.raises(errors.ServerUnavailable, match=r"(?i)certificate"),
        ):
            client.invert(AVATAR)


def test_a_token_is_sent_and_a_missing_one_raises_a_named_error(server):
    with gateways.http_gateway(server.http_url, token="secret") as gateway:
        with Client(gateway.url, token="secret") as client:
            assert client.status().ready
        with (
            Client(gateway.url) as client,
            pytest.raises(errors.AccessRefused, match="token"),
        ):
            client.domain()
        assert gateway.statuses[-1:] == [401] and gateway.statuses.count(401) == 1


def test_a_busy_gateway_is_retried_and_a_refused_photo_is_not(server):
    with (
        gateways.http_gateway(server.http_url, token="secret", busy=2) as gateway,
        Client(gateway.url, token="secret") as client,
    ):
        client.domain()
        assert gateway.statuses == [503, 503, 200]
        with pytest.raises(errors.NotAnImage):
            client.invert(b"no image")
        assert gateway.statuses == [503, 503, 200, 400]


def test_more_requests_than_fit_into_the_queue_are_all_carried_out(server):
    with Client(server.grpc_url, timeout=SECONDS, retries=1) as client:
        latent, edit = client.invert(AVATAR).w_plus, client.domain().edit("a sad face")

        def is_edited(one):
            try:
                return bool(one.edit(latent, edit).picture)
            except errors.ServerBusy:
                return False

        with ThreadPoolExecutor(24) as crowd:
            assert all(crowd.map(is_edited, [client] * 24))
            hasty = client.within(SECONDS, retries=0)
            wait_until(lambda: {*crowd.map(is_edited, [hasty] * 24)} == {True, False})


def test_retries_can_be_switched_off(server):
    with gateways.http_gateway(server.http_url, token="secret", busy=2) as gateway:
        with (
            Client(gateway.url, token="secret", retries=0) as client,
            pytest.raises(errors.ServerUnavailable),
        ):
            client.domain()
        assert gateway.statuses == [503]


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_server_that_comes_back_before_the_timeout_is_reached(server, kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    target = server.grpc_url if kind == "grpc" else server.http_url
    done = threading.Event()

    def come_back():
        time.sleep(0.3)
        with gateways.forwarder(target, port=port):
            done.wait()

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        with Client(f"{kind}://127.0.0.1:{port}", retries=6) as client:
            assert client.domain().name == "avatars"
    finally:
        done.set()
        thread.join()


def test_no_retry_exceeds_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        Client(f"127.0.0.1:{port}", timeout=3, retries=1000) as client,
        pytest.raises(errors.ServerUnavailable),
    ):
        client.domain()  # a thousand attempts would take an hour
