"""The fields of requests and responses; the OpenAPI description is generated from them.

A request is a form with files, or JSON with the same fields, in which files are base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from styleclip_client import Face
from styleclip_contract import limits

T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """A file of a request."""

    name: str
    data: bytes


def _parse_file(value: object) -> File:
    """Return a file of a form as it is, one of JSON decoded."""
    if isinstance(value, File):
        return value
    if not isinstance(value, str):
        raise ValueError("a file as base64 is expected")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return File("", base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise ValueError(f"this is not base64 ({error})") from error


def _as_list(value: object) -> object:
    """Return a list, also of a repeatable field that is given once."""
    return value if isinstance(value, list) else [value]


UploadedFile = Annotated[
    File,
    PlainValidator(_parse_file),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Several = Annotated[list[T], BeforeValidator(_as_list)]
Photos = Annotated[
    Several[UploadedFile],
    Field(max_length=limits.PHOTOS, description="The photo: JPEG, PNG, WebP, …"),
]
FaceNumber = Annotated[
    int,
    Field(description="Which face, best first, as /v1/faces numbers them; -1: the largest."),
]


class RequestModel(BaseModel):
    """A request; fields that are not known are refused, as they may be misspelled."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def fields_by_name(cls) -> dict[str, FieldInfo]:
        """Return the fields by the names that clients send."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


def is_repeatable(field: FieldInfo) -> bool:
    """Return whether a field may be given several times: its default is an empty list."""
    return bool(field.default == [])


class FaceRequest(RequestModel):
    """Which face of a photo."""

    photo: Photos = Field([])
    align: bool | Literal["auto"] = Field(
        "auto",
        description="Find and align a face; false: the photo is a face crop already; auto: as the "
        "domain needs.",
    )
    face: int | Literal["all"] = Field(
        -1,
        description="Which face, best first, as /v1/faces numbers them; -1: the largest; all: each "
        "with a score of 0.3 or more.",
    )

    fidelity: str | None = Field(
        None,
        description="features: keep details of the photo that a latent cannot hold, where "
        "/v1/domain lists it. Default: the domain's.",
        json_schema_extra={"enum": [*limits.FIDELITIES]},
    )

    @property
    def aligns(self) -> bool | None:
        """`align` as the client takes it."""
        return None if self.align == "auto" else self.align


class EditableRequest(FaceRequest):
    """Edits of a photo or of a latent; several edits are summed."""

    latent: UploadedFile | None = Field(
        None,
        description="A latent from /v1/invert, in place of the photo; each edit is faster. One for "
        "features is inverted with fidelity=features.",
    )
    target: Several[str] = Field(
        [],
        max_length=limits.EDITS,
        description="What the image should show. Repeatable.",
        examples=[["a smiling face"]],
    )
    neutral: Several[str] = Field(
        [],
        max_length=limits.EDITS,
        description="What the photo shows; once for all targets, or once per target. Default: of "
        "the preset with the same target, else the domain's; so are strength and threshold.",
    )
    strength: Several[float] = Field(
        [],
        max_length=limits.EDITS,
        description="α: how far; negative is the opposite way. Once for all edits (presets first, "
        "then targets, then directions), or once per edit. "
        f"From {-limits.STRENGTH:g} to {limits.STRENGTH:g}.",
    )
    threshold: Several[float] = Field(
        [],
        max_length=limits.EDITS,
        description="β, 0 to 1: a higher one changes fewer other things. As strength.",
    )
    preset: Several[str] = Field(
        [],
        max_length=limits.EDITS,
        description="An edit that the server knows; /v1/domain lists them. Repeatable.",
    )
    direction: Several[str] = Field(
        [],
        max_length=limits.EDITS,
        description="A named direction, with its strength (age=3) or without (age); /v1/domain "
        "lists them. Repeatable.",
    )
    recipe: str = Field(
        "", description="The edits of a recipe, as the web page saves it, in place of others."
    )


class EditRequest(EditableRequest):
    """POST /v1/edit."""

    paste: bool = Field(False, description="Put the edited face back into the photo.")
    format: str | None = Field(
        None,
        description="Format of the image; without it the header Accept decides. Default: jpeg.",
        json_schema_extra={"enum": [name.lower() for name in limits.FORMATS]},
    )
    quality: int = Field(
        limits.DEFAULT_QUALITY,
        description="Of JPEG and WebP.",
        json_schema_extra={"minimum": limits.QUALITY[0], "maximum": limits.QUALITY[1]},
    )
    mark: bool = Field(
        True, description="Write into the file that AI edited it, with which model and texts."
    )
    keep_gps: bool = Field(False, description="With paste: keep where the photo was taken.")


class InvertRequest(FaceRequest):
    """POST /v1/invert."""

    face: FaceNumber = -1


class FacesRequest(RequestModel):
    """POST /v1/faces."""

    photo: Photos = Field([])


class SweepRequest(EditableRequest):
    """POST /v1/sweep: the last edit at many strengths, the others as they are."""

    face: FaceNumber = -1
    low: float | None = Field(
        None,
        alias="from",
        description="α of the first image. Default: the opposite of the edit.",
        examples=[-5],
    )
    high: float | None = Field(
        None,
        alias="to",
        description="α of the last one. Default: twice the edit's strength.",
        examples=[10],
    )
    steps: int | None = Field(
        None,
        ge=limits.SWEEP_STEPS[0],
        le=limits.SWEEP_STEPS[1],
        description="Number of strengths, with first and last. Default: 7, of a GIF 13.",
        examples=[7],
    )
    thresholds: Several[float] = Field(
        [],
        max_length=limits.SWEEP_THRESHOLDS,
        description="A row for each β: an α × β grid. Repeatable.",
    )
    size: int | None = Field(
        None,
        ge=limits.SWEEP_SIDE[0],
        le=limits.SWEEP_SIDE[1],
        description="Side of each image in pixels. Default: 256, of a GIF 384.",
        examples=[256],
    )
    delay: int = Field(
        limits.DEFAULT_GIF_MILLISECONDS,
        ge=limits.GIF_MILLISECONDS[0],
        le=limits.GIF_MILLISECONDS[1],
        description="Milliseconds between the images of a GIF.",
    )
    format: str | None = Field(
        None,
        description="Format of the sheet; without it the header Accept decides. Default: png.",
        json_schema_extra={"enum": [*(name.lower() for name in limits.FORMATS), "gif"]},
    )


class FaceAnswer(BaseModel):
    """A face."""

    face: int = Field(description="Its number, which `face` takes elsewhere.")
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right, bottom in pixels of the upright photo."
    )
    score: float = Field(description="The detector's score; a higher one is more certain.")


def face_answers(faces: Mapping[int, Face]) -> list[FaceAnswer]:
    """Return faces by their number as responses have them."""
    return [FaceAnswer(face=i, box=each.box, score=each.score) for i, each in faces.items()]


class EditedImage(BaseModel):
    """An edited image, or why there is none."""

    name: str = Field(description="The photo's file name, without its suffix.")
    media_type: str | None = Field(default=None, examples=["image/jpeg"])
    image: str | None = Field(
        default=None,
        description="The file.",
        json_schema_extra={"contentEncoding": "base64"},
    )
    channels: list[int] = Field(default=[], description="StyleSpace channels that each edit moved.")
    unclear: list[FaceAnswer] = Field(
        default=[],
        description="With face=all: faces of the photo with a score below 0.3, which may be none "
        "and were not edited.",
    )
    problem: dict[str, Any] | None = Field(default=None, description="Problem details.")


class EditAnswer(BaseModel):
    """The images, in the order of the photos."""

    images: list[EditedImage]


class SweepAnswer(BaseModel):
    """A sweep as one image."""

    media_type: str
    image: str = Field(description="The file.", json_schema_extra={"contentEncoding": "base64"})
    strengths: list[float] = Field(description="α of the columns, or of a GIF's images.")
    thresholds: list[float] = Field(description="β of the rows.")
    nothing_left: list[tuple[float, float]] = Field(
        description="(α, β) at which no channel is left to change."
    )


class FacesAnswer(BaseModel):
    """The faces of a photo, best first."""

    faces: list[FaceAnswer]


class PresetAnswer(BaseModel):
    """An edit that the server knows."""

    title: str
    neutral: str
    target: str
    strength: float
    threshold: float


class DirectionAnswer(BaseModel):
    """A named direction."""

    name: str
    title: str
    low: float = Field(description="The least strength.")
    high: float = Field(description="The greatest strength.")
    follows_face: bool = Field(description="A latent mapper, which moves each face differently.")


class Defaults(BaseModel):
    """What an edit has unless it says otherwise."""

    neutral: str
    strength: float
    threshold: float


class Limits(BaseModel):
    """The limits of a request."""

    body_bytes: int
    photo_bytes: int = limits.PHOTO_BYTES
    photo_pixels: int = limits.PHOTO_PIXELS
    photos: int = limits.PHOTOS
    edits: int = limits.EDITS
    text_characters: int = limits.TEXT_CHARACTERS
    strength: float = limits.STRENGTH
    formats: list[str] = [name.lower() for name in limits.FORMATS]


class DomainAnswer(BaseModel):
    """What the server's generator draws."""

    name: str
    title: str
    resolution: int = Field(description="Side of the generator's square image in pixels.")
    align: bool = Field(description="Whether photos are aligned by default.")
    num_latents: int = Field(description="Rows of a latent.")
    fidelities: list[str] = Field(description="The values of `fidelity`.")
    default_fidelity: str
    license: str = Field(description="License of the networks, or where it is written.")
    defaults: Defaults
    presets: list[PresetAnswer]
    directions: list[DirectionAnswer]
    limits: Limits


class Health(BaseModel):
    """The server can edit images."""

    status: Literal["ok"] = "ok"
    seconds: float = Field(description="Since the small image that shows it was edited.")
