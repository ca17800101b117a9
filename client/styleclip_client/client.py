"""The client for threads.

    from styleclip_client import Client

    with Client("localhost:8001") as client:
        edit = client.domain().edit("a face with sunglasses")
        client.edit_photo("me.jpg", edit).image().show()

Each method builds its requests and parses the responses with `requests`; a transport carries them
over gRPC or HTTP.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tenacity import Retrying

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


class Transport(Protocol):
    """Carries the requests of a `Client`."""

    def send(self, request: Request, timeout: float) -> Any:
        """Return the response to `request` within `timeout` seconds, or raise CallFailed."""

    def close(self) -> None:
        """Close the connection."""


class Client(ClientBase):
    """A connection to one server; safe to share between threads, closed by `with`.

    Raises:
        StyleclipError: from every method that calls the server; a subclass of
            `styleclip_client.errors` names the failure.
    """

    def _connect(self) -> None:
        self._transport: Transport
        # Imported when needed: a user of gRPC loads no HTTP library, and vice versa.
        if self._connection.address.grpc:
            from styleclip_client.grpc_transport import GrpcTransport

            self._transport = GrpcTransport(self._connection)
        else:
            from styleclip_client.http_transport import HttpTransport

            self._transport = HttpTransport(self._connection)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._shared:
            self._close_shared_memory(self._shared)
        self._transport.close()

    def edit_photo(
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
        """Edit the face in a photo.

        Args:
            photo: a path, bytes, a PIL image or a uint8 array [H, W], [H, W, 3] or [H, W, 4].
            edits: one edit, or several, which are summed.
            align: find and align a face (true), take the photo as a face crop (false), or do what
                the domain's networks were trained for (None).
            face: which face, best first; -1 is the largest.
            paste: put the edited face back into the photo.
            format: JPEG, PNG or WEBP.
            quality: 1 to 100, of JPEG and WebP.
            mark: write into the file that AI edited it, with which model and texts.
            keep_gps: with `paste`, keep where the photo was taken.
            fidelity: "latent"; or "features", which keep what a latent cannot hold, where the
                server has them; None: the domain's default, requested at the first such call.
        """
        deadline = self._deadline()
        output = requests.OutputOptions(format, quality, mark, keep_gps)
        request = requests.build_edit_photo_request(
            photo, edits, output, align=align, face=face, paste=paste
        )
        request = requests.with_fidelity(request, self._fidelity(fidelity, deadline))
        return requests.parse_edited(self._infer(request, deadline))

    def edit_many(
        self,
        photos: Iterable[Photo],
        edits: Edit | Sequence[Edit],
        *,
        concurrency: int = 4,
        **options: Any,
    ) -> Iterator[Edited | parallel_calls.Failure]:
        """Edit each photo by `edit_photo`, `concurrency` at once, in their order.

        `options` are those of `edit_photo`. Yields for each photo the `Edited`, or the
        StyleclipError or OSError that it failed with.
        """
        calls = (functools.partial(self.edit_photo, photo, edits, **options) for photo in photos)
        return parallel_calls.in_order(calls, concurrency)

    def faces(self, photo: Photo) -> list[Face]:
        """Detect every face in a photo, best first; other methods take its index as `face`."""
        deadline = self._deadline()
        request = requests.build_faces_request(photo)
        return requests.parse_faces(self._infer(request, deadline))

    def invert(
        self,
        photo: Photo,
        *,
        align: bool | None = None,
        face: int = -1,
        fidelity: str | None = None,
    ) -> Inverted:
        """Invert the face in a photo: the result serves any number of `edit` calls.

        With the fidelity "features" it has the face crop, which those edits need.
        """
        deadline = self._deadline()
        request = requests.build_invert_request(photo, align=align, face=face)
        request = requests.with_fidelity(request, self._fidelity(fidelity, deadline))
        return requests.parse_inverted(self._infer(request, deadline))

    def sample(
        self, seed: int, truncation: float = limits.DEFAULT_TRUNCATION
    ) -> NDArray[np.float32]:
        """Return the random latent of a seed, float32 [L, 512], for `edit` and `draw`.

        A seed gives the same latent each time. `truncation` ψ, 0 to 1: lower is more average.
        """
        deadline = self._deadline()
        request = requests.build_sample_request(seed, truncation)
        return requests.parse_latent(self._infer(request, deadline))

    def edit(
        self,
        w_plus: ArrayLike | Inverted,
        edits: Edit | Sequence[Edit],
        *,
        format: str = limits.DEFAULT_FORMAT,
        quality: int = limits.DEFAULT_QUALITY,
        mark: bool = True,
        fidelity: str | None = None,
    ) -> Edited:
        """Edit an inverted face without inverting it again.

        `w_plus` is what `invert` returned; or its latent alone, float32 [L, 512], which is edited
        with the fidelity "latent".
        """
        deadline = self._deadline()
        output = requests.OutputOptions(format, quality, mark)
        request = requests.build_edit_request(w_plus, edits, output)
        fidelity = self._fidelity(fidelity, deadline, w_plus)
        request = requests.with_fidelity(request, fidelity, w_plus)
        return requests.parse_edited(self._infer(request, deadline))

    def paste(
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
        data = photo_bytes(photo)
        direction = self._infer(requests.build_direction_request(edits, inverted.w_plus), deadline)
        fidelity = self._fidelity(fidelity, deadline, inverted)
        synthesis = requests.build_synthesis_request(
            inverted, requests.parse_delta(direction), fidelity
        )
        image = requests.parse_image(self._infer(synthesis, deadline))
        output = requests.OutputOptions(format, quality, mark, keep_gps)
        composition = requests.build_paste_request(image, data, inverted.quad, edits, output)
        picture = requests.parse_picture(self._infer(composition, deadline))
        return Edited(picture, requests.parse_channels(direction))

    def draw(
        self,
        w_plus: ArrayLike | Inverted,
        edits: Edit | Sequence[Edit] = (),
        *,
        fidelity: str | None = None,
    ) -> NDArray[np.uint8]:
        """Return the pixels of an inverted face, edited or not: RGB uint8 [H, W, 3]."""
        deadline = self._deadline()
        latent = requests.check_latent(w_plus)
        fidelity = self._fidelity(fidelity, deadline, w_plus)
        if edits:
            direction = requests.build_direction_request(edits, latent)
            delta = requests.parse_delta(self._infer(direction, deadline))
        else:
            delta = np.zeros(self._domain(deadline).style_size, np.float32)
        synthesis = requests.build_synthesis_request(w_plus, delta, fidelity)
        image = requests.parse_image(self._infer(synthesis, deadline))
        return image.copy()  # the original may be a view of shared memory

    def direction(
        self, edits: Edit | Sequence[Edit], w_plus: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return the sum of the edits in StyleSpace, float32 [S].

        `Domain.style_channels` says how many channels belong to each layer. Only an edit by a
        latent mapper (`Direction.follows_face`) needs the face, `w_plus` float32 [L, 512].
        """
        deadline = self._deadline()
        request = requests.build_direction_request(edits, w_plus)
        return requests.parse_delta(self._infer(request, deadline))

    def domain(self) -> Domain:
        """Return what the server's generator draws, with default values and presets of edits."""
        return self._domain(self._deadline())

    def timings(self) -> tuple[ModelTiming, ...]:
        """Return the time that each model took since it was loaded, over all requests."""
        return requests.parse_timings(self._send(protocol.STATISTICS, self._deadline()))

    def status(self) -> Status:
        """Return what the server serves and whether it is ready, without any retry."""
        once, deadline = self.within(self.timeout, retries=0), self._deadline()
        live = once._send(protocol.LIVE, deadline)
        ready = once._send(protocol.READY, deadline)
        metadata = once._send(protocol.METADATA, deadline)
        models = requests.parse_models(once._send(protocol.INDEX, deadline))
        has_generator = wire.STYLEGAN2.name in requests.ready_models(models)
        domain = once._domain(deadline) if has_generator else None
        return requests.parse_status(self.url, live, ready, metadata, models, domain)

    def _domain(self, deadline: float) -> Domain:
        config = self._send(protocol.model_config(wire.STYLEGAN2), deadline)
        domain = requests.parse_domain(config)
        self._served.append(domain)
        return domain

    def _fidelity(
        self, fidelity: str | None, deadline: float, face: ArrayLike | Inverted | None = None
    ) -> str:
        """Return the fidelity of a call; a latent alone has no features."""
        latent_only = face is not None and requests.crop_of(face) is None
        if fidelity == limits.LATENT or (fidelity is None and latent_only):
            return limits.LATENT
        domain = self._served[0] if self._served else self._domain(deadline)
        return domain.fidelity(fidelity)

    def _infer(self, request: InferRequest, deadline: float) -> Tensors:
        request = self._identified(request)
        if self._shared:
            return self._infer_in_shared_memory(self._shared, request, deadline)
        response: Tensors = self._send(request, deadline)
        return response

    def _infer_in_shared_memory(
        self, shared: SharedMemory, request: InferRequest, deadline: float
    ) -> Tensors:
        with shared.place(request) as placement:
            self._register(shared, placement, deadline)
            try:
                response = self._send(placement.request, deadline)
            except StyleclipError as error:
                if not placement.unregister_if_unknown(error):
                    raise
                self._register(shared, placement, deadline)
                response = self._send(placement.request, deadline)
            return shared.reserve_outputs(placement, response)

    def _register(self, shared: SharedMemory, placement: Placement, deadline: float) -> None:
        for region in placement.unregistered():
            with shared.registering(region):
                self._send(protocol.register_region(region), deadline)

    def _close_shared_memory(self, shared: SharedMemory) -> None:
        once = self.within(CLOSE_TIMEOUT, retries=1)
        deadline = once._deadline()
        while region := shared.pop_registered():
            with contextlib.suppress(StyleclipError):
                once._send(protocol.unregister_region(region), deadline)
            region.destroy()

    def _send(self, request: Request, deadline: float) -> Any:
        """Return the response to `request`, with retries, or raise the named error."""

        def attempt() -> Any:
            return self._transport.send(request, seconds_left(deadline))

        try:
            return Retrying(**self._retry_options())(attempt)
        except CallFailed as failure:
            raise self._named_error(failure, request) from failure
