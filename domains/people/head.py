"""The description of one image of a head: all that the renderer needs, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from domains.people.materials import SkinLook

Color = tuple[float, float, float]


@dataclass
class Lamp:
    """A lamp: direction toward it as the camera sees it (x right, y up, z to the camera)."""

    direction: Color
    color: Color
    size: float  # angular radius, radians
    count: int = 6


@dataclass
class Camera:
    """Angles in radians, lengths in decimeters.

    Attributes:
        yaw, pitch, roll: where the camera stands around the head.
        distance: from the head's center; the shorter, the wider the lens.
        height: what the image covers at the head's distance.
        shift: of the head's center from the image's, as fractions of the image.
    """

    yaw: float
    pitch: float
    roll: float
    distance: float
    height: float
    shift: tuple[float, float]


@dataclass
class Head:
    """One image of a person. Colors are linear RGB; see the modules that use each part."""

    seed: int
    labels: dict[str, str]
    targets: dict[str, float]
    skin: SkinLook
    eye_color: Color
    gaze: tuple[float, float]
    hair_color: Color
    hair_style: str  # "" for bald
    hair_length: float
    part: float
    fringe: bool
    beard: str  # "" for none
    beard_length: float
    beard_color: Color
    brow_thickness: float
    brow_height: float
    brow_color: Color
    lash_length: float
    glasses: str
    frame_color: Color
    headwear: str
    headwear_color: Color
    earrings: str
    clothes: str
    clothes_color: Color
    second_color: Color
    pattern: str
    camera: Camera
    lamps: list[Lamp]
    ambient: dict[str, Color] = field(default_factory=dict)  # top, bottom, left, right
    background: str = "plain"
    background_colors: list[Color] = field(default_factory=list)
    exposure: float = 1.0
    warmth: float = 0.0
    grain: float = 0.01
