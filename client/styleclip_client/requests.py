"""Inference requests from Python values, and Python values from the server's responses.

Pure functions that `Client` and `AsyncClient` share. Requests are checked before they are sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from styleclip_client.images import Photo, photo_bytes
from styleclip_client.protocol import DTYPES, InferRequest, Tensors
from styleclip_client.results import Edited, Face, Inverted, ModelState, ModelTiming, Status
from styleclip_contract import limits, wire
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import (
    EditsMismatch,
    FaceIndexOutOfRange,
    InvalidCrop,
    InvalidLatent,
    InvalidSeed,
    ServerError,
    UnknownFormat,
)
from styleclip_contract.wire import Model, Tensor


@dataclass(frozen=True)
class OutputOptions:
    """How an edited image is encoded; `Client.edit_photo` describes the fields."""

    format: str
    quality: int
    mark: bool
    keep_gps: bool = False

    def tensors(self) -> dict[Tensor, list[Any] | None]:
        """Return the tensors, None where the server has the same default.

        Raises:
            UnknownFormat: the format or the quality is not supported.
        """
        low, high = limits.QUALITY
        if self.format.upper() not in limits.FORMATS:
            raise UnknownFormat(
                f"the format is {self.format!r}; {', '.join(limits.FORMATS)} are known"
            )
        if not low <= self.quality <= high:
            raise UnknownFormat(f"the quality is {self.quality}; {low} to {high} is expected")
        return {
            wire.FORMAT: [self.format.upper().encode()],
            wire.QUALITY: [self.quality],
            wire.MARK: None if self.mark else [False],
            wire.KEEP_GPS: [True] if self.keep_gps else None,
        }


def build_edit_photo_request(
    photo: Photo,
    edits: Edit | Sequence[Edit],
    output: OutputOptions,
    *,
    align: bool | None,
    face: int,
    paste: bool,
) -> InferRequest:
    """Build the request that edits the face in a photo."""
    return build_request(
        wire.EDIT_PHOTO,
        {
            wire.PHOTO: [photo_bytes(photo)],
            **_alignment(align, face),
            wire.PASTE: [True] if paste else None,
            **_edits(edits),
            **output.tensors(),
        },
    )


def build_faces_request(photo: Photo) -> InferRequest:
    """Build the request that detects the faces in a photo."""
    return build_request(wire.ALIGN_MODEL, {wire.PHOTO: [photo_bytes(photo)], wire.ALIGN: [True]})


def build_invert_request(photo: Photo, *, align: bool | None, face: int) -> InferRequest:
    """Build the request that inverts the face in a photo."""
    return build_request(wire.INVERT, {wire.PHOTO: [photo_bytes(photo)], **_alignment(align, face)})


def build_sample_request(seed: int, truncation: float) -> InferRequest:
    """Build the request that draws the random latent of a seed."""
    if not 0 <= seed <= limits.SEED:  # sent as int64
        raise InvalidSeed(f"the seed is {seed}; 0 to {limits.SEED} is expected")
    return build_request(wire.SAMPLE, {wire.SEED: [seed], wire.TRUNCATION: [truncation]})


def build_edit_request(
    face: ArrayLike | Inverted, edits: Edit | Sequence[Edit], output: OutputOptions
) -> InferRequest:
    """Build the request that edits an inverted face, or its latent, float32 [L, 512]."""
    return build_request(
        wire.EDIT, {wire.W_PLUS: check_latent(face), **_edits(edits), **output.tensors()}
    )


def build_direction_request(
    edits: Edit | Sequence[Edit], face: ArrayLike | Inverted | None = None
) -> InferRequest:
    """Build the request that sums `edits` in StyleSpace; latent mappers need the face."""
    latent = None if face is None else check_latent(face)
    return build_request(wire.DIRECTION, {wire.W_PLUS: latent, **_edits(edits)})


def build_synthesis_request(
    face: ArrayLike | Inverted, delta: NDArray[np.float32], fidelity: str
) -> InferRequest:
    """Build the request that synthesizes a face, float32 [L, 512], offset by `delta`, [S]."""
    values = {wire.W_PLUS: check_latent(face), wire.DELTA: delta}
    return with_fidelity(build_request(wire.STYLEGAN2, values), fidelity, face)


def build_paste_request(
    image: NDArray[np.uint8],
    photo: bytes,
    quad: NDArray[np.float32],
    edits: Edit | Sequence[Edit],
    output: OutputOptions,
) -> InferRequest:
    """Build the request that pastes `image`, RGB uint8 [H, W, 3], into `photo` at `quad`."""
    return build_request(
        wire.COMPOSE,
        {
            wire.IMAGE: image,
            wire.PHOTO: [photo],
            wire.QUAD: quad,
            wire.PASTE: [True],
            **_edits(edits),
            **output.tensors(),
        },
    )


def build_request(model: Model, values: Mapping[Tensor, Any]) -> InferRequest:
    """Build the request that runs `model` on a batch of one, without tensors whose value is None.

    Raises:
        ValueError: an input that is not optional is missing.
    """
    by_name = {tensor.name: value for tensor, value in values.items() if value is not None}
    tensors: Tensors = {}
    for tensor in model.inputs:
        if tensor.name in by_name:
            array = np.asarray(by_name[tensor.name], DTYPES.get(tensor.datatype, np.object_))
            tensors[tensor.name] = array[np.newaxis]
        elif not tensor.optional:
            raise ValueError(f"{model.name} needs {tensor.name}")
    return InferRequest(model, tensors)


def with_fidelity(
    request: InferRequest, fidelity: str, face: ArrayLike | Inverted | None = None
) -> InferRequest:
    """Return `request` with a fidelity; an edit of `face` with features needs its crop.

    Raises:
        InvalidCrop: the face has none.
    """
    if fidelity == limits.DEFAULT_FIDELITY:
        return request
    if face is not None and crop_of(face) is None:
        raise InvalidCrop(
            f"the face crop is missing: invert the photo with the fidelity {fidelity}, which keeps "
            "the crop beside the latent"
        )
    model = wire.FEATURE_MODELS.get(request.model.name, request.model)
    values = {wire.FIDELITY.name: fidelity.encode(), wire.CROP.name: crop_of(face)}
    tensors = {
        tensor.name: np.array([[values[tensor.name]]], np.object_)
        for tensor in model.inputs
        if values.get(tensor.name) is not None
    }
    return replace(request, model=model, tensors={**request.tensors, **tensors})


def parse_picture(response: Tensors) -> bytes:
    """Return the encoded image."""
    picture: bytes = response[wire.PICTURE.name][0][0]
    return picture


def parse_channels(response: Tensors) -> list[int]:
    """Return the number of StyleSpace channels that each edit moved."""
    return [int(count) for count in response[wire.CHANNELS.name][0]]


def parse_edited(response: Tensors) -> Edited:
    """Return the encoded image and the number of channels that each edit moved."""
    return Edited(parse_picture(response), parse_channels(response))


def parse_faces(response: Tensors) -> list[Face]:
    """Return the faces, best first."""
    rows = response[wire.FACES.name][0].tolist()
    return [Face((left, top, right, bottom), score) for left, top, right, bottom, score in rows]


def parse_latent(response: Tensors) -> NDArray[np.float32]:
    """Return a latent, float32 [L, 512]."""
    latent: NDArray[np.float32] = response[wire.W_PLUS.name][0]
    return latent


def parse_inverted(response: Tensors) -> Inverted:
    """Return the latent and the quad of an inverted face, and its crop if it was requested."""
    crop = response[wire.CROP.name][0][0] if wire.CROP.name in response else None
    return Inverted(response[wire.W_PLUS.name][0], response[wire.QUAD.name][0], crop)


def parse_delta(response: Tensors) -> NDArray[np.float32]:
    """Return the offset in StyleSpace, float32 [S]."""
    delta: NDArray[np.float32] = response[wire.DELTA.name][0]
    return delta


def parse_image(response: Tensors) -> NDArray[np.uint8]:
    """Return the synthesized image, RGB uint8 [H, W, 3]; it may be a view of shared memory."""
    image: NDArray[np.uint8] = response[wire.IMAGE.name][0]
    return image


def parse_domain(config: Mapping[str, Any]) -> Domain:
    """Return the domain from the configuration of the generator.

    Raises:
        ServerError: the configuration has no domain, or a damaged one.
    """
    parameters = config.get("parameters", {})
    if "domain" not in parameters:
        raise ServerError("the configuration of the server's generator names no domain")
    try:
        return Domain.from_json(parameters["domain"]["string_value"])
    except ValueError as error:
        raise ServerError(f"the server's generator has an invalid domain: {error}") from error


def parse_models(index: Sequence[Mapping[str, Any]]) -> tuple[ModelState, ...]:
    """Return the models of the repository index, by name and version."""
    keys = ("name", "version", "state", "reason")
    models = (ModelState(*(str(model.get(key, "")) for key in keys)) for model in index)
    return tuple(sorted(models, key=lambda model: (model.name, model.version)))


def ready_models(models: Sequence[ModelState]) -> set[str]:
    """Return the names of the models that are loaded."""
    return {model.name for model in models if model.state == "READY"}


def parse_status(
    url: str,
    live: bool,
    ready: bool,
    metadata: Mapping[str, Any],
    models: tuple[ModelState, ...],
    domain: Domain | None,
) -> Status:
    """Return the status; the server can edit photos if it is ready and all ensembles are loaded."""
    loaded = ready_models(models)
    return Status(
        url=url,
        live=live,
        ready=ready and all(model.name in loaded for model in wire.ENSEMBLES),
        version=str(metadata.get("version", "")),
        models=models,
        domain=domain,
    )


def parse_timings(statistics: Mapping[str, Any]) -> tuple[ModelTiming, ...]:
    """Return the time that each model took."""
    return tuple(_timing(model) for model in statistics.get("model_stats", ()))


def _timing(model: Mapping[str, Any]) -> ModelTiming:
    # gRPC's JSON leaves out zeros and writes 64-bit numbers as strings.
    statistics = model.get("inference_stats", {})

    def number(group: str, key: str) -> int:
        return int(statistics.get(group, {}).get(key, 0))

    return ModelTiming(
        name=str(model["name"]),
        requests=number("success", "count"),
        failures=number("fail", "count"),
        seconds=number("success", "ns") / 1e9,
        waiting=number("queue", "ns") / 1e9,
    )


def check_latent(face: ArrayLike | Inverted) -> NDArray[np.float32]:
    """Return the latent of a face as float32 [L, 512].

    Raises:
        InvalidLatent: it has another shape, or contains NaN or infinity.
    """
    latent = np.asarray(face.w_plus if isinstance(face, Inverted) else face, np.float32)
    if latent.ndim != 2 or latent.shape[1] != wire.W_DIM:
        raise InvalidLatent(
            f"W+ has shape {list(latent.shape)}; [L, {wire.W_DIM}] is expected, "
            "as `invert` returns it"
        )
    if not np.isfinite(latent).all():
        raise InvalidLatent("W+ contains NaN or infinity")
    return latent


def crop_of(face: ArrayLike | Inverted | None) -> bytes | None:
    """Return the crop of an inverted face; None for a latent alone."""
    return face.crop if isinstance(face, Inverted) else None


def _alignment(align: bool | None, face: int) -> dict[Tensor, list[Any] | None]:
    """Return ALIGN and FACE; None where the server's default applies."""
    if not -1 <= face <= 1000:  # sent as int32
        raise FaceIndexOutOfRange(f"the face is {face}; 0 or more is expected, or -1: the largest")
    return {
        wire.ALIGN: None if align is None else [align],
        wire.FACE: None if face == -1 else [face],
    }


def _edits(edits: Edit | Sequence[Edit]) -> dict[Tensor, list[Any] | None]:
    """Return the tensors of the edits; DIRECTION is None if all edits are texts."""
    sequence = [edits] if isinstance(edits, Edit) else list(edits)
    if not 1 <= len(sequence) <= limits.EDITS:
        raise EditsMismatch(f"{len(sequence)} edits; 1 to {limits.EDITS} are expected")
    return {
        wire.NEUTRAL: [edit.neutral.encode() for edit in sequence],
        wire.TARGET: [edit.target.encode() for edit in sequence],
        wire.STRENGTH: [edit.strength for edit in sequence],
        wire.THRESHOLD: [edit.threshold for edit in sequence],
        wire.NAMED_DIRECTION: [edit.direction.encode() for edit in sequence]
        if any(edit.direction for edit in sequence)
        else None,
    }
