"""The client: a few typed calls over gRPC (KServe v2, as Triton speaks it).

    from styleclip_client import Client

    with Client("localhost:8001") as client:
        edit = client.domain().edit("a face with sunglasses")
        client.edit_photo("me.jpg", edit).image().show()

Tensor names, dtypes and shapes come from `styleclip_client.contract`, so nothing here spells
them out. Every failure is one of `styleclip_client.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import ArrayLike, NDArray
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from styleclip_client import contract, limits
from styleclip_client.contract import Model
from styleclip_client.edits import Domain, Edit
from styleclip_client.errors import (
    DeadlineExceeded,
    EditsMismatch,
    FaceIndexOutOfRange,
    InvalidInput,
    InvalidLatent,
    ServerError,
    ServerUnavailable,
    StyleclipError,
    UnknownFormat,
    from_wire,
)
from styleclip_client.pictures import Picture, photo_bytes
from styleclip_client.results import Edited, Inverted, ModelState, ModelTiming, Status

DEFAULT_PORT = 8001  # Triton's gRPC port
# gRPC refuses answers over 4 MB unless told otherwise; a large PNG has more.
_SEND_LIMIT = limits.PHOTO_BYTES + 2**20
_RECEIVE_LIMIT = 256 * 2**20
_ENSEMBLES = (contract.INVERT, contract.EDIT, contract.EDIT_PHOTO)


class Client:
    """A connection to one server; safe to share between threads, closed by `with`.

    `url` is "host", "host:port" or "grpc://host:port"; `timeout` is in seconds, for each call.
    Nothing is sent before the first call.
    """

    def __init__(self, url: str = "localhost:8001", timeout: float = 60.0) -> None:
        self.url, loopback = _address(url)
        self.timeout = timeout
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", _SEND_LIMIT),
            ("grpc.max_receive_message_length", _RECEIVE_LIMIT),
            # gRPC waits up to two minutes before it looks again for a server that went away.
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if loopback:  # an http_proxy of the environment would send even this to the proxy
            options.append(("grpc.enable_http_proxy", 0))
        self._grpc = triton.InferenceServerClient(self.url, channel_args=options)

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
        self._grpc.close()

    def edit_photo(
        self,
        photo: Picture,
        edits: Edit | Sequence[Edit],
        *,
        align: bool | None = None,
        face: int = -1,
        paste: bool = False,
        format: str = "JPEG",
        quality: int = 95,
    ) -> Edited:
        """Edit the face in `photo`; several edits are summed.

        `align`: find and align a face (true), take the picture as a face crop (false), or as
        the domain's networks were trained (None). `face` is which one, -1 the largest. `paste`
        puts the face back into the photo. `format` is JPEG, PNG or WEBP.
        """
        answer = self._infer(
            contract.EDIT_PHOTO,
            {
                contract.PHOTO.name: [photo_bytes(photo)],
                contract.ALIGN.name: None if align is None else [align],
                contract.FACE.name: _face(face),
                contract.PASTE.name: [True] if paste else None,
                **_texts(edits),
                **_encoding(format, quality),
            },
        )
        return _edited(answer)

    def invert(self, photo: Picture, *, align: bool | None = None, face: int = -1) -> Inverted:
        """The latent of the face in `photo`, for any number of `edit` calls."""
        answer = self._infer(
            contract.INVERT,
            {
                contract.PHOTO.name: [photo_bytes(photo)],
                contract.ALIGN.name: None if align is None else [align],
                contract.FACE.name: _face(face),
            },
        )
        return Inverted(answer[contract.W_PLUS.name], answer[contract.QUAD.name])

    def edit(
        self,
        w_plus: ArrayLike,
        edits: Edit | Sequence[Edit],
        *,
        format: str = "JPEG",
        quality: int = 95,
    ) -> Edited:
        """Edit an inverted face, `w_plus` float32 [L, 512]: nothing is inverted again."""
        latent = np.asarray(w_plus, np.float32)
        if latent.ndim != 2 or latent.shape[1] != contract.W_DIM:
            raise InvalidLatent(
                f"W+ has shape {list(latent.shape)}; [L, {contract.W_DIM}] is expected, "
                "as `invert` returns it"
            )
        if not np.isfinite(latent).all():
            raise InvalidLatent("W+ holds NaN or infinity")
        answer = self._infer(
            contract.EDIT,
            {contract.W_PLUS.name: latent, **_texts(edits), **_encoding(format, quality)},
        )
        return _edited(answer)

    def direction(self, edits: Edit | Sequence[Edit]) -> NDArray[np.float32]:
        """What the edits add to the styles, float32 [S]: `Domain.style_channels` cuts it up."""
        answer = self._infer(contract.DIRECTION, {contract.W_PLUS.name: None, **_texts(edits)})
        delta: NDArray[np.float32] = answer[contract.DELTA.name]
        return delta

    def timings(self) -> tuple[ModelTiming, ...]:
        """How long each model took since it was loaded, over everybody's requests."""
        try:
            answer = self._grpc.get_inference_statistics(client_timeout=self.timeout)
        except InferenceServerException as error:
            raise named_error(error, self.url, self.timeout) from error
        return tuple(
            ModelTiming(
                name=model.name,
                requests=model.inference_stats.success.count,
                failures=model.inference_stats.fail.count,
                seconds=model.inference_stats.success.ns / 1e9,
                waiting=model.inference_stats.queue.ns / 1e9,
            )
            for model in answer.model_stats
        )

    def domain(self) -> Domain:
        """What the server's generator draws, with defaults and presets."""
        try:
            answer = self._grpc.get_model_config(
                contract.STYLEGAN2.name, client_timeout=self.timeout
            )
        except InferenceServerException as error:
            raise named_error(error, self.url, self.timeout) from error
        parameters = answer.config.parameters
        if "domain" not in parameters:
            raise ServerError("the server's generator does not say which domain it is of")
        return Domain.from_json(parameters["domain"].string_value)

    def status(self) -> Status:
        """What the server serves and whether it is ready; ServerUnavailable without an answer."""
        try:
            live = self._grpc.is_server_live(client_timeout=self.timeout)
            ready = self._grpc.is_server_ready(client_timeout=self.timeout)
            version = self._grpc.get_server_metadata(client_timeout=self.timeout).version
            index = self._grpc.get_model_repository_index(client_timeout=self.timeout)
        except InferenceServerException as error:
            raise named_error(error, self.url, self.timeout) from error
        models = tuple(
            sorted(
                (ModelState(m.name, m.version, m.state, m.reason) for m in index.models),
                key=lambda model: (model.name, model.version),
            )
        )
        serving = {model.name for model in models if model.state == "READY"}
        domain = self.domain() if contract.STYLEGAN2.name in serving else None
        return Status(
            url=self.url,
            live=live,
            ready=ready and all(model.name in serving for model in _ENSEMBLES),
            version=version,
            models=models,
            domain=domain,
        )

    def _infer(self, model: Model, values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Ask `model` with a batch of one: all its outputs, without the batch."""
        try:
            # All outputs: Triton's ensembles fail for some when asked for only a part of them.
            result = self._grpc.infer(
                model.name, _inputs(model, values), client_timeout=self.timeout
            )
        except InferenceServerException as error:
            raise named_error(error, self.url, self.timeout) from error
        answer = {}
        for tensor in model.outputs:
            array = result.as_numpy(tensor.name)
            if array is None:
                raise ServerError(f"{model.name} answered without {tensor.name}")
            answer[tensor.name] = array[0]
        return answer


def named_error(error: InferenceServerException, url: str, timeout: float) -> StyleclipError:
    """The named error behind what Triton or gRPC answered at `url`."""
    message, code = error.message() or "", (error.status() or "").removeprefix("StatusCode.")
    named = from_wire(message)
    if str(named) != message:  # else the message named none
        return named
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(
            f"no answer from {url} within {timeout:g} s: raise the time-out, "
            "or see with `styleclip status` whether the server is busy"
        )
    if "queue size" in message:
        return ServerUnavailable("the server has too many requests waiting: try again later")
    if code == "NOT_FOUND" or "unknown model" in message:
        return ServerUnavailable(
            f"{url} does not serve a model that this needs ({message}): see `styleclip status`"
        )
    if code == "UNAVAILABLE":
        return ServerUnavailable(
            f"no StyleCLIP server answers at {url}: start one with `make serve`, and "
            "give its gRPC address (port 8001 unless told otherwise)"
        )
    if code == "INVALID_ARGUMENT":
        return InvalidInput(message)
    return named if message else ServerError(code)


def _address(url: str) -> tuple[str, bool]:
    """`url` as "host:port", and whether it is this machine's loopback; ValueError if neither."""
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme != "grpc":
        raise ValueError(f"{url!r} is not a gRPC address: give host:port, as localhost:8001")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):  # "[::1]" has colons and no port
        host, port = rest, str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
        raise ValueError(f"{url!r} is not a server address: give host:port, as localhost:8001")
    loopback = host in ("localhost", "[::1]") or host.startswith("127.")
    return f"{host}:{port}", loopback


def _inputs(model: Model, values: Mapping[str, Any]) -> list[triton.InferInput]:
    """The request's tensors in a batch of one; an optional one whose value is None stays out."""
    inputs = []
    for tensor in model.inputs:
        value = values[tensor.name]
        if value is None:
            if not tensor.optional:
                raise ValueError(f"{model.name} needs {tensor.name}")
            continue
        array = np.asarray(value, triton_to_np_dtype(tensor.datatype))[np.newaxis]
        entry = triton.InferInput(tensor.name, list(array.shape), tensor.datatype)
        entry.set_data_from_numpy(array)
        inputs.append(entry)
    return inputs


def _face(face: int) -> list[int] | None:
    if not -1 <= face <= 1000:  # it travels as int32
        raise FaceIndexOutOfRange(f"the face is {face}; 0 or more is expected, or -1: the largest")
    return None if face == -1 else [face]


def _texts(edits: Edit | Sequence[Edit]) -> dict[str, list[Any]]:
    several = [edits] if isinstance(edits, Edit) else list(edits)
    if not 1 <= len(several) <= limits.EDITS:
        raise EditsMismatch(f"{len(several)} edits; 1 to {limits.EDITS} are expected")
    return {
        contract.NEUTRAL.name: [edit.neutral.encode() for edit in several],
        contract.TARGET.name: [edit.target.encode() for edit in several],
        contract.STRENGTH.name: [edit.strength for edit in several],
        contract.THRESHOLD.name: [edit.threshold for edit in several],
    }


def _encoding(format: str, quality: int) -> dict[str, list[Any]]:
    low, high = limits.QUALITY
    if format.upper() not in limits.FORMATS:
        raise UnknownFormat(f"the format is {format!r}; {', '.join(limits.FORMATS)} are known")
    if not low <= quality <= high:
        raise UnknownFormat(f"the quality is {quality}; {low} to {high} is expected")
    return {
        contract.FORMAT.name: [format.upper().encode()],
        contract.QUALITY.name: [quality],
    }


def _edited(answer: Mapping[str, NDArray[Any]]) -> Edited:
    return Edited(
        picture=answer[contract.PICTURE.name][0],
        channels=[int(count) for count in answer[contract.CHANNELS.name]],
    )
