"""What each call of the client means, without saying how it is carried.

A plan is a generator: it yields the calls to make, gets their answers, and returns the result.
`Client` and `AsyncClient` run the same plans over gRPC or HTTP, so each is written once.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from styleclip_client import protocol
from styleclip_client.images import Picture, photo_bytes
from styleclip_client.protocol import Call, Infer, Tensors
from styleclip_client.results import Edited, Face, Inverted, ModelState, ModelTiming, Status
from styleclip_contract import limits, wire
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import (
    EditsMismatch,
    FaceIndexOutOfRange,
    InvalidLatent,
    ServerError,
    UnknownFormat,
)
from styleclip_contract.wire import Model, Tensor

T = TypeVar("T")
Plan: TypeAlias = Generator[Call, Any, T]

_ENSEMBLES = (wire.INVERT, wire.EDIT, wire.EDIT_PHOTO)
_DTYPES = {
    "BOOL": np.bool_,
    "BYTES": np.object_,
    "FP32": np.float32,
    "INT32": np.int32,
    "UINT8": np.uint8,
}


def edit_photo(
    photo: Picture,
    edits: Edit | Sequence[Edit],
    *,
    align: bool | None = None,
    face: int = -1,
    paste: bool = False,
    format: str = "JPEG",
    quality: int = 95,
    mark: bool = True,
    keep_gps: bool = False,
) -> Plan[Edited]:
    """Edit the face in `photo`; several edits are summed.

    `align`: find and align a face (true), take the picture as a face crop (false), or as
    the domain's networks were trained (None). `face` is which one, -1 the largest. `paste`
    puts the face back into the photo. `format` is JPEG, PNG or WEBP. `mark` writes into the file
    that AI edited it, with which model and texts; `keep_gps` leaves the place of the photo in it.
    """
    answer = yield _infer(
        wire.EDIT_PHOTO,
        {
            wire.PHOTO: [photo_bytes(photo)],
            wire.ALIGN: None if align is None else [align],
            wire.FACE: _face(face),
            wire.PASTE: [True] if paste else None,
            **_texts(edits),
            **_encoding(format, quality),
            **_metadata(mark, keep_gps),
        },
    )
    return _edited(answer)


def faces(photo: Picture) -> Plan[list[Face]]:
    """Every face in `photo`, best first: their numbers are what `face` means elsewhere."""
    answer = yield _infer(wire.ALIGN_MODEL, {wire.PHOTO: [photo_bytes(photo)], wire.ALIGN: [True]})
    rows = answer[wire.FACES.name][0].tolist()
    return [Face((left, top, right, bottom), score) for left, top, right, bottom, score in rows]


def invert(photo: Picture, *, align: bool | None = None, face: int = -1) -> Plan[Inverted]:
    """The latent of the face in `photo`, for any number of `edit` calls."""
    answer = yield _infer(
        wire.INVERT,
        {
            wire.PHOTO: [photo_bytes(photo)],
            wire.ALIGN: None if align is None else [align],
            wire.FACE: _face(face),
        },
    )
    return Inverted(answer[wire.W_PLUS.name][0], answer[wire.QUAD.name][0])


def edit(
    w_plus: ArrayLike,
    edits: Edit | Sequence[Edit],
    *,
    format: str = "JPEG",
    quality: int = 95,
    mark: bool = True,
) -> Plan[Edited]:
    """Edit an inverted face, `w_plus` float32 [L, 512]: nothing is inverted again."""
    answer = yield _infer(
        wire.EDIT,
        {
            wire.W_PLUS: _latent(w_plus),
            **_texts(edits),
            **_encoding(format, quality),
            **_metadata(mark),
        },
    )
    return _edited(answer)


def paste(
    photo: Picture,
    inverted: Inverted,
    edits: Edit | Sequence[Edit],
    *,
    format: str = "JPEG",
    quality: int = 95,
    mark: bool = True,
    keep_gps: bool = False,
) -> Plan[Edited]:
    """Put an inverted face of `photo`, edited, back into it: nothing is inverted again."""
    latent, texts = _latent(inverted.w_plus), _texts(edits)
    answer = yield _infer(wire.DIRECTION, {wire.W_PLUS: latent, **texts})
    moved, delta = answer[wire.CHANNELS.name][0], answer[wire.DELTA.name][0]
    answer = yield _infer(wire.STYLEGAN2, {wire.W_PLUS: latent, wire.DELTA: delta})
    answer = yield _infer(
        wire.COMPOSE,
        {
            wire.IMAGE: answer[wire.IMAGE.name][0],
            wire.PHOTO: [photo_bytes(photo)],
            wire.QUAD: inverted.quad,
            wire.PASTE: [True],
            **texts,
            **_encoding(format, quality),
            **_metadata(mark, keep_gps),
        },
    )
    return Edited(answer[wire.PICTURE.name][0][0], [int(count) for count in moved])


def draw(w_plus: ArrayLike, edits: Edit | Sequence[Edit] = ()) -> Plan[NDArray[np.uint8]]:
    """The pixels of an inverted face, edited or as it is: RGB, uint8 [H, W, 3], never encoded."""
    latent = _latent(w_plus)
    if edits:
        answer = yield _infer(wire.DIRECTION, {wire.W_PLUS: latent, **_texts(edits)})
        delta = answer[wire.DELTA.name][0]
    else:
        delta = np.zeros(sum((yield from domain()).style_channels), np.float32)
    answer = yield _infer(wire.STYLEGAN2, {wire.W_PLUS: latent, wire.DELTA: delta})
    return np.array(answer[wire.IMAGE.name][0])  # one's own, wherever the answer lies


def direction(edits: Edit | Sequence[Edit]) -> Plan[NDArray[np.float32]]:
    """What the edits add to the styles, float32 [S]: `Domain.style_channels` cuts it up."""
    answer = yield _infer(wire.DIRECTION, _texts(edits))
    delta: NDArray[np.float32] = answer[wire.DELTA.name][0]
    return delta


def timings() -> Plan[tuple[ModelTiming, ...]]:
    """How long each model took since it was loaded, over everybody's requests."""
    answer = yield protocol.STATISTICS
    return tuple(_timing(model) for model in answer.get("model_stats", ()))


def domain() -> Plan[Domain]:
    """What the server's generator draws, with defaults and presets."""
    answer = yield protocol.config_of(wire.STYLEGAN2)
    parameters = answer.get("parameters", {})
    if "domain" not in parameters:
        raise ServerError("the server's generator does not say which domain it is of")
    try:
        return Domain.from_json(parameters["domain"]["string_value"])
    except ValueError as error:
        raise ServerError(f"the server answered with something else: {error}") from error


def status(url: str) -> Plan[Status]:
    """What the server at `url` serves and whether it is ready."""
    live = yield protocol.LIVE
    ready = yield protocol.READY
    metadata = yield protocol.METADATA
    index = yield protocol.INDEX
    models = tuple(
        sorted(
            (
                ModelState(
                    *(str(model.get(key, "")) for key in ("name", "version", "state", "reason"))
                )
                for model in index
            ),
            key=lambda model: (model.name, model.version),
        )
    )
    serving = {model.name for model in models if model.state == "READY"}
    found = (yield from domain()) if wire.STYLEGAN2.name in serving else None
    return Status(
        url=url,
        live=live,
        ready=ready and all(model.name in serving for model in _ENSEMBLES),
        version=str(metadata.get("version", "")),
        models=models,
        domain=found,
    )


def _infer(model: Model, values: Mapping[Tensor, Any]) -> Infer:
    """A call of `model` with a batch of one; an optional tensor whose value is None stays out."""
    by_name = {tensor.name: value for tensor, value in values.items() if value is not None}
    tensors: Tensors = {}
    for tensor in model.inputs:
        if tensor.name in by_name:
            array = np.asarray(by_name[tensor.name], _DTYPES[tensor.datatype])
            tensors[tensor.name] = array[np.newaxis]
        elif not tensor.optional:
            raise ValueError(f"{model.name} needs {tensor.name}")
    return Infer(model, tensors)


def _latent(w_plus: ArrayLike) -> NDArray[np.float32]:
    latent = np.asarray(w_plus, np.float32)
    if latent.ndim != 2 or latent.shape[1] != wire.W_DIM:
        raise InvalidLatent(
            f"W+ has shape {list(latent.shape)}; [L, {wire.W_DIM}] is expected, "
            "as `invert` returns it"
        )
    if not np.isfinite(latent).all():
        raise InvalidLatent("W+ holds NaN or infinity")
    return latent


def _face(face: int) -> list[int] | None:
    if not -1 <= face <= 1000:  # it travels as int32
        raise FaceIndexOutOfRange(f"the face is {face}; 0 or more is expected, or -1: the largest")
    return None if face == -1 else [face]


def _texts(edits: Edit | Sequence[Edit]) -> dict[Tensor, list[Any]]:
    several = [edits] if isinstance(edits, Edit) else list(edits)
    if not 1 <= len(several) <= limits.EDITS:
        raise EditsMismatch(f"{len(several)} edits; 1 to {limits.EDITS} are expected")
    return {
        wire.NEUTRAL: [edit.neutral.encode() for edit in several],
        wire.TARGET: [edit.target.encode() for edit in several],
        wire.STRENGTH: [edit.strength for edit in several],
        wire.THRESHOLD: [edit.threshold for edit in several],
    }


def _encoding(format: str, quality: int) -> dict[Tensor, list[Any]]:
    low, high = limits.QUALITY
    if format.upper() not in limits.FORMATS:
        raise UnknownFormat(f"the format is {format!r}; {', '.join(limits.FORMATS)} are known")
    if not low <= quality <= high:
        raise UnknownFormat(f"the quality is {quality}; {low} to {high} is expected")
    return {wire.FORMAT: [format.upper().encode()], wire.QUALITY: [quality]}


def _metadata(mark: bool, keep_gps: bool = False) -> dict[Tensor, list[bool] | None]:
    """Left out where they are the server's default."""
    return {
        wire.MARK: None if mark else [False],
        wire.KEEP_GPS: [True] if keep_gps else None,
    }


def _edited(answer: Tensors) -> Edited:
    return Edited(
        picture=answer[wire.PICTURE.name][0][0],
        channels=[int(count) for count in answer[wire.CHANNELS.name][0]],
    )


def _timing(model: Mapping[str, Any]) -> ModelTiming:
    # gRPC's JSON leaves out zeros and writes 64-bit numbers as texts.
    statistics = model.get("inference_stats", {})

    def of(what: str, key: str) -> int:
        return int(statistics.get(what, {}).get(key, 0))

    return ModelTiming(
        name=str(model["name"]),
        requests=of("success", "count"),
        failures=of("fail", "count"),
        seconds=of("success", "ns") / 1e9,
        waiting=of("queue", "ns") / 1e9,
    )
