"""The description of one image of a head: all that the renderer needs, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

Color = tuple[float, float, float]  # linear RGB
Vector = tuple[float, float, float]


@dataclass
class SkinLook:
    """What varies the skin of heads.

    Attributes:
        tone: 0 to 9 on the Monk scale, in between allowed; redness, contrast: about 1.
        age: years; freckles, lipstick, shadow_of_beard, stubble: strengths, 0 to 1.
        lipstick_color, hair_color: linear RGB.
        recession: of the hairline, in radians; scalp: how much the hair's color shows on the scalp.
        offset: shift of the noise, so that no two heads share it.
    """

    tone: float
    redness: float
    age: float
    freckles: float
    lipstick: float
    lipstick_color: Color
    shadow_of_beard: float
    beard: str
    hair_color: Color
    recession: float
    scalp: float
    brow_tint: float
    brow_thickness: float
    brow_height: float
    offset: float


@dataclass
class Lamp:
    """A lamp: direction toward it as the camera sees it (x right, y up, z to the camera)."""

    direction: Vector
    color: Color
    size: float  # angular radius, radians
    count: int = 6


@dataclass
class Lighting:
    """Lamps, and the light of the surroundings from the top, bottom, left and right."""

    lamps: list[Lamp]
    ambient: dict[str, Color]


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
class Film:
    """How the linear image becomes a photo: exposure and warmth about 1 and 0, noise of grain."""

    exposure: float
    warmth: float
    grain: float


@dataclass
class Hair:
    """The hair of the head; `style` is "" for a bald one, `part` as in `hairstyles.Cut`."""

    color: Color
    style: str
    length: float
    part: float
    fringe: bool


@dataclass
class Beard:
    """A beard of a style, "" for none; its length is in decimeters."""

    style: str
    length: float
    color: Color


@dataclass
class Brows:
    """Thickness relative to the usual one, height in decimeters above it."""

    thickness: float
    height: float
    color: Color


@dataclass
class Eyes:
    """The gaze is (right, up), as slopes; `lash_length` is about 1."""

    color: Color
    gaze: tuple[float, float]
    lash_length: float


@dataclass
class Wear:
    """What a person wears; glasses, headwear and earrings are "" for none."""

    glasses: str
    frame_color: Color
    headwear: str
    headwear_color: Color
    earrings: str
    clothes: str
    clothes_color: Color
    second_color: Color
    pattern: str


@dataclass
class Background:
    """What is behind the person, and its colors."""

    kind: str
    colors: list[Color]


@dataclass
class Head:
    """One image of a person.

    Attributes:
        seed: what it was drawn from, and what the details in rendering are drawn from.
        labels: by attribute, as `attributes.json` names them.
        targets: weights of the mesh's targets: the shape of the head and its expression.
    """

    seed: int
    labels: dict[str, str]
    targets: dict[str, float]
    skin: SkinLook
    eyes: Eyes
    hair: Hair
    beard: Beard
    brows: Brows
    wear: Wear
    camera: Camera
    lighting: Lighting
    background: Background
    film: Film
