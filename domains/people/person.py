"""People: what all photos of one person have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from domains.people.attributes import TABLE, UNSEEN
from domains.people.head import Color
from domains.people.materials import EYE_COLORS, HAIR_COLORS

ANCESTRIES = ("african", "asian", "caucasian")  # as the targets are named
_HEAD_SHAPES = {  # with relative frequencies
    "diamond": 0.15,
    "invertedtriangular": 0.15,
    "oval": 0.35,
    "rectangular": 0.1,
    "round": 0.15,
    "square": 0.05,
    "triangular": 0.05,
}
_OPPOSITES = (
    ("decr", "incr"),
    ("down", "up"),
    ("in", "out"),
    ("concave", "convex"),
    ("backward", "forward"),
    ("compress", "uncompress"),
    ("narrow", "wide"),
)


@dataclass
class Person:
    """What a person's photos have in common.

    Attributes:
        years: age.
        ancestry: weights of ANCESTRIES, whose sum is 1.
        targets: weights of the mesh's targets, without those of an expression.
        labels: by attribute, as `attributes.json` names them.
        skin_tone: 0 to 9 on the Monk scale, in between allowed; redness: about 1.
        hair_color, eye_color: linear RGB.
        hair_length: factor of the style's length, about 1.
        part: where the parting lies, in decimeters to the left of the middle.
        fringe: whether hair falls over the forehead.
        recession: of the hairline, in radians.
        beard_length: in decimeters.
        brow_thickness: factor of the usual one; brow_height: decimeters above the usual one.
        offset: 0 to 1, shift of the skin's noise.
    """

    sex: str
    years: float
    ancestry: dict[str, float]
    targets: dict[str, float]
    labels: dict[str, str]
    skin_tone: float
    redness: float
    hair_color: Color
    hair_length: float
    part: float
    fringe: bool
    recession: float
    beard_length: float
    brow_thickness: float
    brow_height: float
    eye_color: Color
    offset: float

    @property
    def is_woman(self) -> bool:
        """Whether the person is female and no child."""
        return self.sex == "female" and self.years > 15


def choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """Draw a name by relative weights."""
    names = list(weights)
    p = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def draw_prior(rng: np.random.Generator, attribute: str, leave: Iterable[str] = ()) -> str:
    """Draw a value of an attribute by its prior, except some."""
    values = TABLE[attribute].values
    return choose(rng, {v.name: v.weight for v in values if v.name not in set(leave)})


def vary(rng: np.random.Generator, color: Sequence[float], amount: float) -> Color:
    gain = np.exp(rng.normal(0, amount)) * np.exp(rng.normal(0, amount / 3, 3))
    r, g, b = np.clip(np.asarray(color) * gain, 0.002, 0.9)
    return float(r), float(g), float(b)


def _macro_targets(
    sex: str, years: float, ancestry: dict[str, float], weight: float
) -> dict[str, float]:
    """Return the weights of the targets of sex, age, ancestry and weight (-1 thin to 1 stout)."""
    ages, stops = ("baby", "child", "young", "old"), (1.0, 11.0, 25.0, 82.0)
    shares = dict.fromkeys(ages, 0.0)
    index = int(np.clip(np.searchsorted(stops, years) - 1, 0, 2))
    t = float(np.clip((years - stops[index]) / (stops[index + 1] - stops[index]), 0, 1))
    shares[ages[index]], shares[ages[index + 1]] = 1 - t, t
    builds = {
        "averageweight": 1 - abs(weight),
        "maxweight": max(weight, 0.0),
        "minweight": max(-weight, 0.0),
    }
    targets = {}
    for age, share in shares.items():
        for name, part in ancestry.items():
            targets[f"macro/{name}-{sex}-{age}"] = share * part
        for build, part in builds.items():
            targets[f"macro/universal-{sex}-{age}-averagemuscle-{build}"] = share * part
    return targets


# How much features vary, where not by 1; the position of the head on the neck is not a feature.
_STRENGTH = {
    "head/head-trans": 0.0,
    "forehead/forehead-trans": 0.4,
    "cheek/": 0.7,
    "chin/": 0.6,
    "head/": 0.3,
    "eyes/": 0.6,
    "eyebrows/": 0.5,
    "mouth/": 0.5,
    "nose/": 0.75,
    "ears/": 0.6,
    "head/head-age": 0.0,
    "head/head-angle": 0.3,
    "head/head-scale": 0.35,
    "neck/": 0.3,
    "eyes/eye-push": 0.3,
    "nose/nose-trans": 0.4,
    "forehead/": 0.45,
}


def _strength(feature: str) -> float:
    """Return how much a feature varies, by the longest prefix that is listed."""
    matching = [prefix for prefix in _STRENGTH if feature.startswith(prefix)]
    return _STRENGTH[max(matching, key=len)] if matching else 1.0


# The average face of the mesh has a wider jaw and smaller eyes than people have.
_USUAL = {"l-eye-scale": 0.2, "chin-width": -0.2, "head-fat": -0.1}


@dataclass(frozen=True)
class _Feature:
    """A pair of opposite targets of the face, and how much the feature varies."""

    name: str
    negative: str
    positive: str
    strength: float


@cache
def find_features(names: frozenset[str]) -> list[_Feature]:
    """Return the features among the targets' names; of those of both sides, the left one's."""
    features = {}
    for target in sorted(names):
        folder, _, name = target.partition("/")
        if folder in ("macro", "unit") or name.startswith("r-"):
            continue
        for low, high in _OPPOSITES:
            opposite = f"{target.removesuffix(low)}{high}"
            if target.endswith(f"-{low}") and opposite in names:
                name = name.removesuffix(f"-{low}")
                strength = _strength(f"{folder}/{name.removeprefix('l-')}")
                features[folder, name] = _Feature(name, target, opposite, strength)
    return list(features.values())


def _feature_targets(
    rng: np.random.Generator, names: Iterable[str], amount: float
) -> dict[str, float]:
    """Draw how a face differs from the average of its kind: weights of features' targets."""
    targets: dict[str, float] = {}
    for feature in find_features(frozenset(names)):
        usual = _USUAL.get(feature.name, 0.0)
        value = float(np.clip(rng.normal(usual, amount * feature.strength), -0.7, 0.7))
        target = feature.negative if value < 0 else feature.positive
        if not feature.name.startswith("l-"):
            targets[target] = abs(value)
            continue
        for side in (feature.name, f"r-{feature.name.removeprefix('l-')}"):
            targets[target.replace(feature.name, side, 1)] = abs(value) * float(
                rng.uniform(0.9, 1.1)
            )
    targets[f"head/head-{choose(rng, _HEAD_SHAPES)}"] = float(rng.uniform(0.0, 0.5))
    return targets


def _hair_style(
    rng: np.random.Generator, sex: str, years: float, ancestry: dict[str, float]
) -> str:
    if sex == "male":
        weights = {
            "bald": 0.04 + 0.16 * (years > 35),
            "buzz cut": 0.18,
            "short": 0.32,
            "side-parted": 0.2,
            "bob": 0.03,
            "long": 0.04,
            "wavy": 0.03,
            "curly": 0.1,
            "tied back": 0.03,
        }
    else:
        weights = {
            "bald": 0.02,
            "buzz cut": 0.03,
            "short": 0.09,
            "side-parted": 0.07,
            "bob": 0.19,
            "long": 0.19,
            "wavy": 0.18,
            "curly": 0.11,
            "tied back": 0.15,
        }
    weights["curly"] *= 1 + 2 * ancestry["african"]
    if years < 14:
        weights["bald"] = 0.0
    return choose(rng, weights)


def _hair_color(rng: np.random.Generator, years: float, light: float) -> str:
    """Draw a hair color; `light` (0 to 1) is how light the skin is."""
    gray = float(np.clip((years - 45) / 25, 0, 1))
    return choose(
        rng,
        {
            "black": 0.22 + 0.45 * (1 - light),
            "dark brown": 0.18 + 0.08 * (1 - light),
            "brown": 0.20,
            "blond": 0.05 + 0.22 * light,
            "red": 0.04 + 0.14 * light,
            "grey": 0.02 + 0.9 * gray,
            "white": 0.01 + 0.6 * gray * gray,
        },
    )


def _draw_tone(rng: np.random.Generator, ancestry: dict[str, float]) -> float:
    """Draw a skin tone, -0.4 to 9.4, mostly as the ancestry has it."""
    tone = 7.4 * ancestry["african"] + 3.2 * ancestry["asian"] + 1.6 * ancestry["caucasian"]
    usual = float(np.clip(rng.normal(tone, 1.4), -0.4, 9.4))
    return usual if rng.random() < 0.7 else float(rng.uniform(-0.4, 9.4))


def _draw_eye_color(rng: np.random.Generator, light: float) -> str:
    weights = {
        "brown": 0.25 + 0.7 * (1 - light),
        "blue": 0.28 * light + 0.03,
        "green": 0.2 * light + 0.03,
        "grey": 0.15 * light + 0.02,
    }
    return choose(rng, weights)


def _draw_beard(rng: np.random.Generator, sex: str, years: float) -> str:
    if sex == "female" or years <= 16:
        return "none"
    weights = {
        "none": 0.36,
        "stubble": 0.16,
        "moustache": 0.11,
        "goatee": 0.11,
        "short beard": 0.13,
        "full beard": 0.13,
    }
    return choose(rng, weights)


def _draw_brows(rng: np.random.Generator, sex: str) -> str:
    thin, thick = (0.4, 0.2) if sex == "female" else (0.12, 0.48)
    return choose(rng, {"thin": thin, "medium": 0.4, "thick": thick})


def _draw_fringe(rng: np.random.Generator, sex: str, style: str) -> bool:
    falls = rng.random() < (0.35 if sex == "female" else 0.15)
    return bool(falls) and style in ("bob", "long", "short")


def _draw_recession(rng: np.random.Generator, sex: str, years: float) -> float:
    if sex == "female" or years <= 28:
        return 0.0
    return float(np.clip(rng.normal(0.10, 0.12), 0, 0.35))


_YEARS = {"child": (6, 13), "young": (17, 34), "middle-aged": (38, 56), "old": (62, 85)}
_BROW_THICKNESS = {"thin": (0.60, 0.75), "medium": (0.85, 1.1), "thick": (1.25, 1.45)}
_BEARD_LENGTHS = {"short beard": 0.075, "full beard": 0.27, "moustache": 0.13, "goatee": 0.13}


def sample_person(seed: int, targets: Iterable[str]) -> Person:
    """Draw the person of a seed; `targets` are the names of the mesh's targets."""
    rng = np.random.default_rng([seed, 1])
    sex = choose(rng, {"female": 0.5, "male": 0.5})
    age = draw_prior(rng, "age")
    years = float(rng.uniform(*_YEARS[age]))
    ancestry = dict(zip(ANCESTRIES, map(float, rng.dirichlet([0.3] * 3)), strict=True))
    tone = _draw_tone(rng, ancestry)
    light = float(np.clip(1 - tone / 6, 0, 1))
    style = _hair_style(rng, sex, years, ancestry)
    color = _hair_color(rng, years, light)
    eye_color = _draw_eye_color(rng, light)
    beard = _draw_beard(rng, sex, years)
    brows = _draw_brows(rng, sex)
    freckled = rng.random() < 0.02 + 0.16 * light
    shape = _macro_targets(sex, years, ancestry, float(np.clip(rng.normal(0, 0.3), -0.7, 0.7)))
    shape |= _feature_targets(rng, targets, 0.3 if years < 14 else 0.4)
    labels = {
        "sex": sex,
        "age": age,
        "skin": f"monk {round(float(np.clip(tone, 0, 9))) + 1}",
        "hair_style": style,
        "hair_color": UNSEEN if style == "bald" else color,
        "beard": beard,
        "brows": brows,
        "freckles": "yes" if freckled else "no",
        "eye_color": eye_color,
    }
    return Person(
        sex=sex,
        years=years,
        ancestry=ancestry,
        targets=shape,
        labels=labels,
        skin_tone=float(np.clip(tone, 0, 9)),
        redness=float(rng.uniform(0.5, 1.5)),
        hair_color=vary(rng, HAIR_COLORS[color], 0.16),
        hair_length=float(rng.uniform(0.8, 1.2)),
        part=float(rng.uniform(-0.4, 0.4)),
        fringe=_draw_fringe(rng, sex, style),
        recession=_draw_recession(rng, sex, years),
        beard_length=_BEARD_LENGTHS.get(beard, 0.0) * float(rng.uniform(0.8, 1.3)),
        brow_thickness=float(rng.uniform(*_BROW_THICKNESS[brows])),
        brow_height=float(rng.normal(0, 0.015)),
        eye_color=vary(rng, EYE_COLORS[eye_color], 0.15),
        offset=float(rng.random()),
    )
