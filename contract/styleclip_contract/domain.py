"""A domain as its `domain.json` describes it; server and client read the same text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from styleclip_contract import limits
from styleclip_contract.edits import Edit, check_strength, normalize_text
from styleclip_contract.errors import UnknownDirection, UnknownFidelity, UnknownPreset
from styleclip_contract.wire import FACE_SIZE, W_DIM

DOMAIN_FILE = "domain.json"


@dataclass(frozen=True)
class Preset:
    """A predefined edit with a title for people."""

    title: str
    edit: Edit


class EditDefaults(NamedTuple):
    """The neutral text and the numbers of an edit that gives only its target."""

    neutral: str
    strength: float
    threshold: float


@dataclass(frozen=True)
class Direction:
    """A named direction: an edit without texts, learned for the domain's generator.

    Attributes:
        name: what an edit calls it.
        title: a few words for people.
        low, high: the range of strengths.
        follows_face: a latent mapper: its offset depends on the face's latent, W+.
    """

    name: str
    title: str
    low: float
    high: float
    follows_face: bool = False

    def edit(self, strength: float) -> Edit:
        """Create an edit of this strength.

        Raises:
            InvalidStrength: it is outside of the range.
        """
        check_strength(strength, self.low, self.high, f"the strength of {self.name}")
        return Edit(direction=self.name, strength=strength)

    def to_json(self) -> dict[str, Any]:
        """Return the direction's entry in domain.json."""
        entry: dict[str, Any] = {
            "name": self.name,
            "title": self.title,
            "low": self.low,
            "high": self.high,
        }
        return entry | ({"follows_face": True} if self.follows_face else {})


@dataclass(frozen=True)
class Domain:
    """What the generator synthesizes, and default edit parameters for it.

    Attributes:
        name: the domain's folder name, and the value of `--domain`.
        title: one line for people.
        neutral, strength, threshold: defaults of an edit whose target no preset has.
        presets: predefined edits.
        align: whether photos are aligned by default; if not, they are face crops already.
        photos: whether it edits photos; without an encoder it edits latents and random seeds only.
        num_latents: L, the number of rows of W+; 0 if unknown.
        style_channels: the number of channels of each modulation in StyleSpace, in the order of
            DELTA; empty if unknown.
        resolution: height and width of the generator's image in pixels; 0 if unknown.
        crop_size: height and width of FACE_CROP in pixels. IMAGE has the same shape: the middle of
            the generator's image.
        w_dim: width of W+.
        directions: named directions.
        fidelities: the values of FIDELITY that the domain is served with.
        default_fidelity: the one that clients use unless the user names another.
        license: of the networks, for people; empty if unknown.
    """

    name: str
    title: str
    neutral: str
    strength: float
    threshold: float
    presets: tuple[Preset, ...] = ()
    align: bool = False
    photos: bool = True
    num_latents: int = 0
    style_channels: tuple[int, ...] = ()
    resolution: int = 0
    crop_size: tuple[int, int] = (FACE_SIZE, FACE_SIZE)
    w_dim: int = W_DIM
    directions: tuple[Direction, ...] = ()
    fidelities: tuple[str, ...] = (limits.DEFAULT_FIDELITY,)
    default_fidelity: str = limits.DEFAULT_FIDELITY
    license: str = ""

    @classmethod
    def from_json(cls, text: str) -> Domain:
        """Parse the text of a `domain.json`.

        Raises:
            ValueError: the text is not JSON, or a field is missing or invalid.
        """
        try:
            content = json.loads(text)
            defaults = content["defaults"]
            return cls(
                name=str(content["name"]),
                title=str(content["title"]),
                neutral=str(defaults["neutral"]),
                strength=float(defaults["strength"]),
                threshold=float(defaults["threshold"]),
                presets=tuple(_preset(entry) for entry in content.get("presets", ())),
                align=bool(content.get("align", False)),
                photos=bool(content.get("photos", True)),
                num_latents=int(content.get("num_latents", 0)),
                style_channels=tuple(int(n) for n in content.get("style_channels", ())),
                resolution=int(content.get("resolution", 0)),
                crop_size=_size(content.get("crop_size", cls.crop_size)),
                w_dim=int(content.get("w_dim", W_DIM)),
                directions=tuple(_direction(entry) for entry in content.get("directions", ())),
                fidelities=tuple(map(str, content.get("fidelities", cls.fidelities))),
                default_fidelity=str(content.get("default_fidelity", cls.default_fidelity)),
                license=str(content.get("license", content.get("licence", ""))),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the domain description is damaged: {error!r}") from error

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of IMAGE in pixels."""
        return middle_size(self.resolution, self.crop_size)

    @property
    def style_size(self) -> int:
        """S, the number of StyleSpace channels over all modulations."""
        return sum(self.style_channels)

    def edit(
        self,
        target: str,
        *,
        neutral: str | None = None,
        strength: float | None = None,
        threshold: float | None = None,
    ) -> Edit:
        """Create an edit towards `target`; omitted arguments are those of `defaults_for` it."""
        defaults = self.defaults_for(target)
        return Edit(
            defaults.neutral if neutral is None else neutral,
            target,
            defaults.strength if strength is None else strength,
            defaults.threshold if threshold is None else threshold,
        )

    def defaults_for(self, target: str) -> EditDefaults:
        """Return what an edit towards `target` takes where nothing else is given.

        The values are those of the first preset with the same target text, ignoring case and
        spaces, else the domain's: strengths that suit one target are too much or too little for
        another.
        """
        for preset in self.presets:
            edit = preset.edit
            if normalize_text(edit.target) == normalize_text(target):
                return EditDefaults(edit.neutral, edit.strength, edit.threshold)
        return EditDefaults(self.neutral, self.strength, self.threshold)

    def preset(self, title: str) -> Edit:
        """Return the edit of the preset with this title, ignoring case.

        Raises:
            UnknownPreset: no preset has this title; the message lists the titles.
        """
        for preset in self.presets:
            if normalize_text(preset.title) == normalize_text(title):
                return preset.edit
        known = ", ".join(repr(preset.title) for preset in self.presets) or "none"
        raise UnknownPreset(f"no preset {title!r} in domain {self.name}; it has: {known}")

    def direction(self, name: str) -> Direction:
        """Return the direction of this name, ignoring case.

        Raises:
            UnknownDirection: there is none; the message lists the names.
        """
        for direction in self.directions:
            if normalize_text(direction.name) == normalize_text(name):
                return direction
        known = ", ".join(direction.name for direction in self.directions) or "none"
        raise UnknownDirection(f"no direction {name!r} in domain {self.name}; it has: {known}")

    def fidelity(self, name: str | None) -> str:
        """Return the fidelity of this name, the default for None.

        Raises:
            UnknownFidelity: the domain is not served with it; the message lists those that it has.
        """
        name = self.default_fidelity if name is None else name
        if name not in self.fidelities:
            known = ", ".join(self.fidelities)
            raise UnknownFidelity(f"no fidelity {name!r} in domain {self.name}; it has: {known}")
        return name

    def strengths(self, edit: Edit) -> tuple[float, float]:
        """Return the range of strengths of an edit.

        Raises:
            UnknownDirection: the domain lacks the edit's direction.
        """
        if not edit.direction:
            return -limits.STRENGTH, limits.STRENGTH
        direction = self.direction(edit.direction)
        return direction.low, direction.high


def middle_size(resolution: int, crop_size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the middle of a square image, in the shape of `crop_size`."""
    height, width = (resolution * side // max(crop_size) for side in crop_size)
    return height, width


def _size(sides: Sequence[Any]) -> tuple[int, int]:
    height, width = map(int, sides)
    if not (height > 0 and width > 0):
        raise ValueError(f"a crop_size of {height} x {width}")
    return height, width


def _direction(entry: Mapping[str, Any]) -> Direction:
    return Direction(
        str(entry["name"]),
        str(entry["title"]),
        float(entry["low"]),
        float(entry["high"]),
        bool(entry.get("follows_face", False)),
    )


def _preset(entry: Mapping[str, Any]) -> Preset:
    edit = Edit(
        str(entry["neutral"]),
        str(entry["target"]),
        float(entry["strength"]),
        float(entry["threshold"]),
    )
    return Preset(str(entry["title"]), edit)
