"""The client for asyncio: the calls of `Client` as coroutines, over the same requests.

    from styleclip_client import AsyncClient

    async with AsyncClient("http://localhost:8000") as client:
        edited = await client.edit_photo("me.jpg", edit)

The docstrings of `Client` describe the arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tenacity import AsyncRetrying

from styleclip_client import parallel_calls, protocol, requests
from styleclip_client.client_base import CLOSE_TIMEOUT, ClientBase, seconds_left
from styleclip_client.failures import CallFailed
from styleclip_client.images import Photo, photo_bytes
from styleclip_client.protocol import InferRequest, Request, Tensors
from styleclip_client.results import Edited, Face, Inverted, ModelTiming, Status
from styleclip_contract import limits, wire
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import StyleclipError

if TYPE_CHECKING:
    from styleclip_client.shared_memory import Placement, SharedMemory


class AsyncTransport(Protocol):
    """Carries the requests of an `AsyncClient`."""

    async def send(self, request: Request, timeout: float) -> Any:
        """Return the response to `request` within `timeout` seconds, or raise CallFailed."""

    async def close(self) -> None:
        """Close the connection."""


class AsyncClient(ClientBase):
    """A connection to one server for one event loop, closed by `async with`."""

    def _connect(self) -> None:
        # A list, so that clients returned by `within` share the transport. It is empty until the
        # first request, because both libraries bind to the event loop that runs then.
        self._transports: list[AsyncTransport] = []

    def _transport(self) -> AsyncTransport:
        if not self._transports:
            # Imported when needed: a user of gRPC loads no HTTP library, and vice versa.
            if self._connection.address.grpc:
                from styleclip_client.grpc_transport import AsyncGrpcTransport

                self._transports.append(AsyncGrpcTransport(self._connection))
            else:
                from styleclip_client.http_transport import AsyncHttpTransport

                self._transports.append(AsyncHttpTransport(self._connection))
        return self._transports[0]

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._shared and self._transports:
            await self._close_shared_memory(self._shared)
        while self._transports:
            await self._transports.pop().close()

    async def edit_photo(
        self,
        photo: Photo,
        edits: Edit | Sequence[Edit],
        *,
        align: bool | None = None,
        face: int = -1,
        paste: bool = False,
        format: str = limits.DEFAULT_FORMAT,
        quality: int = limits.DEFAULT_QUALITY,
        mark: bool = True,
        keep_gps: bool = False,
        fidelity: str | None = None,
    ) -> Edited:
        """Edit the face in a photo; see `Client.edit_photo`."""
        deadline = self._deadline()
        request = await asyncio.to_thread(
            requests.build_edit_photo_request,
            photo,
            edits,
            requests.OutputOptions(format, quality, mark, keep_gps),
            align=align,
            face=face,
            paste=paste,
        )
        request = requests.with_fidelity(request, await self._fidelity(fidelity, deadline))
        return requests.parse_edited(await self._infer(request, deadline))

    def edit_many(
        self,
        photos: Iterable[Photo],
        edits: Edit | Sequence[Edit],
        *,
        concurrency: int = 4,
        **options: Any,
    ) -> AsyncIterator[Edited | parallel_calls.Failure]:
        """`Client.edit_many` for `async for`; leaving the loop early cancels running calls."""
        calls = (functools.partial(self.edit_photo, photo, edits, **options) for photo in photos)
        return parallel_calls.in_order_async(calls, concurrency)

    async def faces(self, photo: Photo) -> list[Face]:
        """Find every face in a photo, best first; other methods take its index as `face`."""
        deadline = self._deadline()
        request = await asyncio.to_thread(requests.build_faces_request, photo)
        return requests.parse_faces(await self._infer(request, deadline))

    async def invert(
        self,
        photo: Photo,
        *,
        align: bool | None = None,
        face: int = -1,
        fidelity: str | None = None,
    ) -> Inverted:
        """Invert the face in a photo; see `Client.invert`."""
        deadline = self._deadline()
        request = await asyncio.to_thread(
            requests.build_invert_request, photo, align=align, face=face
        )
        request = requests.with_fidelity(request, await self._fidelity(fidelity, deadline))
        return requests.parse_inverted(await self._infer(request, deadline))

    async def sample(
        self, seed: int, truncation: float = limits.DEFAULT_TRUNCATION
    ) -> NDArray[np.float32]:
        """Return the random latent of a seed, float32 [L, 512], for `edit` and `draw`.

        A seed gives the same latent each time. `truncation` ψ, 0 to 1: lower is more average.
        """
        deadline = self._deadline()
        request = requests.build_sample_request(seed, truncation)
        return requests.parse_latent(await self._infer(request, deadline))

    async def edit(
        self,
        w_plus: ArrayLike | Inverted,
        edits: Edit | Sequence[Edit],
        *,
        format: str = limits.DEFAULT_FORMAT,
        quality: int = limits.DEFAULT_QUALITY,
        mark: bool = True,
        fidelity: str | None = None,
    ) -> Edited:
        """Edit an inverted face without inverting it again; see `Client.edit`."""
        deadline = self._deadline()
        output = requests.OutputOptions(format, quality, mark)
        request = requests.build_edit_request(w_plus, edits, output)
        fidelity = await self._fidelity(fidelity, deadline, w_plus)
        request = requests.with_fidelity(request, fidelity, w_plus)
        return requests.parse_edited(await self._infer(request, deadline))

    async def paste(
        self,
        photo: Photo,
        inverted: Inverted,
        edits: Edit | Sequence[Edit],
        *,
        format: str = limits.DEFAULT_FORMAT,
        quality: int = limits.DEFAULT_QUALITY,
        mark: bool = True,
        keep_gps: bool = False,
        fidelity: str | None = None,
    ) -> Edited:
        """Paste the edit of an inverted face back into its photo."""
        deadline = self._deadline()
        data = await asyncio.to_thread(photo_bytes, photo)
        direction = await self._infer(
            requests.build_direction_request(edits, inverted.w_plus), deadline
        )
        fidelity = await self._fidelity(fidelity, deadline, inverted)
        synthesis = requests.build_synthesis_request(
            inverted, requests.parse_delta(direction), fidelity
        )
        image = requests.parse_image(await self._infer(synthesis, deadline))
        output = requests.OutputOptions(format, quality, mark, keep_gps)
        composition = requests.build_paste_request(image, data, inverted.quad, edits, output)
        picture = requests.parse_picture(await self._infer(composition, deadline))
        return Edited(picture, requests.parse_channels(direction))

    async def draw(
        self,
        w_plus: ArrayLike | Inverted,
        edits: Edit | Sequence[Edit] = (),
        *,
        fidelity: str | None = None,
    ) -> NDArray[np.uint8]:
        """Synthesize an inverted face, edited or as it is: RGB, uint8 [H, W, 3], never encoded."""
        deadline = self._deadline()
        latent = requests.check_latent(w_plus)
        fidelity = await self._fidelity(fidelity, deadline, w_plus)
        if edits:
            direction = requests.build_direction_request(edits, latent)
            delta = requests.parse_delta(await self._infer(direction, deadline))
        else:
            delta = np.zeros((await self._domain(deadline)).style_size, np.float32)
        synthesis = requests.build_synthesis_request(w_plus, delta, fidelity)
        image = requests.parse_image(await self._infer(synthesis, deadline))
        return image.copy()  # the original may be a view of shared memory

    async def direction(
        self, edits: Edit | Sequence[Edit], w_plus: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return the sum of the edits in StyleSpace, float32 [S].

        `Domain.style_channels` says how many channels belong to each layer. Only an edit by a
        latent mapper (`Direction.follows_face`) needs the face, `w_plus` float32 [L, 512].
        """
        deadline = self._deadline()
        request = requests.build_direction_request(edits, w_plus)
        return requests.parse_delta(await self._infer(request, deadline))

    async def domain(self) -> Domain:
        """Return what the server's generator draws, with default values and presets of edits."""
        return await self._domain(self._deadline())

    async def timings(self) -> tuple[ModelTiming, ...]:
        """Return the time that each model took since it was loaded, over all requests."""
        return requests.parse_timings(await self._send(protocol.STATISTICS, self._deadline()))

    async def status(self) -> Status:
        """Return what the server serves and whether it is ready, without any retry."""
        once, deadline = self.within(self.timeout, retries=0), self._deadline()
        live = await once._send(protocol.LIVE, deadline)
        ready = await once._send(protocol.READY, deadline)
        metadata = await once._send(protocol.METADATA, deadline)
        models = requests.parse_models(await once._send(protocol.INDEX, deadline))
        has_generator = wire.STYLEGAN2.name in requests.ready_models(models)
        domain = await once._domain(deadline) if has_generator else None
        return requests.parse_status(self.url, live, ready, metadata, models, domain)

    async def _domain(self, deadline: float) -> Domain:
        config = await self._send(protocol.model_config(wire.STYLEGAN2), deadline)
        domain = requests.parse_domain(config)
        self._served.append(domain)
        return domain

    async def _fidelity(
        self, fidelity: str | None, deadline: float, face: ArrayLike | Inverted | None = None
    ) -> str:
        """Return the fidelity of a call; a latent alone has no features."""
        latent_only = face is not None and requests.crop_of(face) is None
        if fidelity == limits.LATENT or (fidelity is None and latent_only):
            return limits.LATENT
        domain = self._served[0] if self._served else await self._domain(deadline)
        return domain.fidelity(fidelity)

    async def _infer(self, request: InferRequest, deadline: float) -> Tensors:
        request = self._identified(request)
        if self._shared:
            return await self._infer_in_shared_memory(self._shared, request, deadline)
        response: Tensors = await self._send(request, deadline)
        return response

    async def _infer_in_shared_memory(
        self, shared: SharedMemory, request: InferRequest, deadline: float
    ) -> Tensors:
        with shared.place(request) as placement:
            await self._register(shared, placement, deadline)
            try:
                response = await self._send(placement.request, deadline)
            except StyleclipError as error:
                if not placement.unregister_if_unknown(error):
                    raise
                await self._register(shared, placement, deadline)
                response = await self._send(placement.request, deadline)
            return shared.reserve_outputs(placement, response)

    async def _register(self, shared: SharedMemory, placement: Placement, deadline: float) -> None:
        for region in placement.unregistered():
            with shared.registering(region):
                await self._send(protocol.register_region(region), deadline)

    async def _close_shared_memory(self, shared: SharedMemory) -> None:
        once = self.within(CLOSE_TIMEOUT, retries=1)
        deadline = once._deadline()
        while region := shared.pop_registered():
            with contextlib.suppress(StyleclipError):
                await once._send(protocol.unregister_region(region), deadline)
            region.destroy()

    async def _send(self, request: Request, deadline: float) -> Any:
        """Return the response to `request`, with retries, or raise the named error."""

        async def attempt() -> Any:
            return await self._transport().send(request, seconds_left(deadline))

        try:
            return await AsyncRetrying(**self._retry_options())(attempt)
        except CallFailed as failure:
            raise self._named_error(failure, request) from failure
