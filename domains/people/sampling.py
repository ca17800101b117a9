"""Sampling: from a seed to the description of one photo of a person.

Several seeds in a row share a person (sex, age, shape, skin, hair, beard) and differ in expression,
wear, light, camera and background. The same seed gives the same description on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from domains.people.attributes import ATTRIBUTES, UNSEEN
from domains.people.head import Camera, Color, Head, Lamp
from domains.people.materials import EYE_COLORS, HAIR_COLORS, SkinLook

PHOTOS_OF_A_PERSON = 4
ANCESTRIES = ("african", "asian", "caucasian")  # as the targets are named
_CLOTHES_COLORS: dict[str, Color] = {
    "white": (0.72, 0.72, 0.70),
    "black": (0.018, 0.018, 0.02),
    "grey": (0.20, 0.20, 0.21),
    "red": (0.38, 0.025, 0.03),
    "blue": (0.035, 0.09, 0.32),
    "green": (0.04, 0.17, 0.07),
    "yellow": (0.62, 0.42, 0.05),
    "brown": (0.14, 0.07, 0.035),
    "pink": (0.62, 0.25, 0.32),
}
_HEAD_SHAPES = (
    "diamond",
    "invertedtriangular",
    "oval",
    "rectangular",
    "round",
    "square",
    "triangular",
)
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
    """What a person's photos have in common."""

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


def _choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names = list(weights)
    p = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def _prior(rng: np.random.Generator, attribute: str, leave: Iterable[str] = ()) -> str:
    values = ATTRIBUTES[attribute].values
    return _choose(rng, {v.name: v.weight for v in values if v.name not in set(leave)})


def _vary(rng: np.random.Generator, color: Sequence[float], amount: float) -> Color:
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


def _feature_groups(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return pairs of opposite targets of the face, (negative, positive), by their common name."""
    known = set(names)
    groups = {}
    for name in sorted(known):
        for low, high in _OPPOSITES:
            if name.endswith(f"-{low}") and f"{name.removesuffix(low)}{high}" in known:
                groups[name.removesuffix(f"-{low}")] = (name, f"{name.removesuffix(low)}{high}")
    return groups


# How much features vary, where not by 1; the position of the head on the neck is not a feature.
_STRENGTH = {
    "head/head-trans": 0.0,
    "forehead/forehead-trans": 0.4,
    "cheek/": 0.6,
    "chin/": 0.8,
    "head/": 0.6,
    "eyes/": 0.75,
    "mouth/": 0.8,
    "ears/": 0.8,
    "head/head-age": 0.0,
    "head/head-angle": 0.5,
    "head/head-scale": 0.7,
    "neck/": 0.4,
    "eyes/eye-push": 0.3,
    "nose/nose-trans": 0.6,
    "forehead/": 0.8,
}


def _feature_targets(
    rng: np.random.Generator, names: Iterable[str], amount: float
) -> dict[str, float]:
    """Draw how a face differs from the average of its kind: weights of features' targets."""
    targets: dict[str, float] = {}
    groups = _feature_groups(n for n in names if n.split("/")[0] not in ("macro", "unit"))
    for name, (low, high) in groups.items():
        folder, feature = name.split("/")
        if feature.startswith("r-"):
            continue
        plain = f"{folder}/{feature.removeprefix('l-')}"
        matching = [k for k in _STRENGTH if plain.startswith(k)]
        strength = amount * (_STRENGTH[max(matching, key=len)] if matching else 1.0)
        value = float(np.clip(rng.normal(0, strength), -1.0, 1.0))
        sides = (feature,)
        if feature.startswith("l-"):
            sides = (feature, f"r-{feature.removeprefix('l-')}")
        for side in sides:
            target = (low if value < 0 else high).replace(feature, side, 1)
            targets[target] = abs(value) * float(rng.uniform(0.9, 1.1) if len(sides) > 1 else 1.0)
    shape = _HEAD_SHAPES[int(rng.integers(len(_HEAD_SHAPES)))]
    targets[f"head/head-{shape}"] = float(rng.uniform(0.1, 0.8))
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
    return _choose(rng, weights)


def _hair_color(rng: np.random.Generator, years: float, light: float) -> str:
    """Draw a hair color; `light` (0 to 1) is how light the skin is."""
    grey = float(np.clip((years - 45) / 25, 0, 1))
    return _choose(
        rng,
        {
            "black": 0.22 + 0.45 * (1 - light),
            "dark brown": 0.18 + 0.08 * (1 - light),
            "brown": 0.20,
            "blond": 0.05 + 0.22 * light,
            "red": 0.04 + 0.14 * light,
            "grey": 0.02 + 0.9 * grey,
            "white": 0.01 + 0.6 * grey * grey,
        },
    )


def sample_person(seed: int, targets: Iterable[str]) -> Person:
    """Draw the person of a seed; `targets` are the names of the mesh's targets."""
    rng = np.random.default_rng([seed, 1])
    sex = _choose(rng, {"female": 0.5, "male": 0.5})
    age = _prior(rng, "age")
    low, high = {"child": (6, 13), "young": (17, 34), "middle-aged": (38, 56), "old": (62, 85)}[age]
    years = float(rng.uniform(low, high))
    mix = rng.dirichlet([0.45] * 3)
    ancestry = dict(zip(ANCESTRIES, map(float, mix), strict=True))
    tone = 7.4 * ancestry["african"] + 3.2 * ancestry["asian"] + 1.6 * ancestry["caucasian"]
    tone = (
        float(np.clip(rng.normal(tone, 1.4), -0.4, 9.4))
        if rng.random() < 0.7
        else float(rng.uniform(-0.4, 9.4))
    )
    skin_index = round(float(np.clip(tone, 0, 9)))
    light = float(np.clip(1 - tone / 6, 0, 1))
    style = _hair_style(rng, sex, years, ancestry)
    color = _hair_color(rng, years, light)
    eyes = {
        "brown": 0.25 + 0.7 * (1 - light),
        "blue": 0.28 * light + 0.03,
        "green": 0.2 * light + 0.03,
        "grey": 0.15 * light + 0.02,
    }
    eye_color = _choose(rng, eyes)
    beard = "none"
    if sex == "male" and years > 16:
        beard = _choose(
            rng,
            {
                "none": 0.36,
                "stubble": 0.16,
                "moustache": 0.11,
                "goatee": 0.11,
                "short beard": 0.13,
                "full beard": 0.13,
            },
        )
    brows = _choose(
        rng,
        {
            "thin": 0.4 if sex == "female" else 0.12,
            "medium": 0.4,
            "thick": 0.2 if sex == "female" else 0.48,
        },
    )
    freckled = rng.random() < 0.03 + 0.24 * light
    shape = _macro_targets(sex, years, ancestry, float(np.clip(rng.normal(0, 0.4), -0.9, 0.9)))
    shape |= _feature_targets(rng, targets, 0.30 if years < 14 else 0.42)
    fringe = bool(rng.random() < (0.35 if sex == "female" else 0.15)) and style in (
        "bob",
        "long",
        "wavy",
        "short",
    )
    recession = 0.0
    if sex == "male" and years > 28:
        recession = float(np.clip(rng.normal(0.10, 0.12), 0, 0.35))
    thickness = {
        "thin": rng.uniform(0.45, 0.65),
        "medium": rng.uniform(0.85, 1.1),
        "thick": rng.uniform(1.35, 1.75),
    }
    lengths = {
        "stubble": 0.0,
        "short beard": 0.075,
        "full beard": 0.27,
        "moustache": 0.13,
        "goatee": 0.13,
    }
    labels = {
        "sex": sex,
        "age": age,
        "skin": f"monk {skin_index + 1}",
        "hair_style": style,
        "hair_color": UNSEEN if style == "bald" else color,
        "beard": beard,
        "brows": brows,
        "freckles": "yes" if freckled else "no",
        "eye_color": eye_color,
    }
    return Person(
        sex,
        years,
        ancestry,
        shape,
        labels,
        float(np.clip(tone, 0, 9)),
        float(rng.uniform(0.5, 1.5)),
        _vary(rng, HAIR_COLORS[color], 0.16),
        float(rng.uniform(0.8, 1.2)),
        float(rng.uniform(-0.4, 0.4)),
        fringe,
        recession,
        lengths.get(beard, 0.0) * float(rng.uniform(0.8, 1.3)),
        float(thickness[brows]),
        float(rng.normal(0, 0.015)),
        _vary(rng, EYE_COLORS[eye_color], 0.15),
        float(rng.random()),
    )


def _expression(rng: np.random.Generator, name: str) -> dict[str, float]:
    """Return the weights of the face's units for an expression."""
    both = {
        "neutral": {},
        "smile": {"mouthSmile": (0.55, 0.95), "cheekSquint": (0.2, 0.5), "eyeSquint": (0.0, 0.3)},
        "laugh": {
            "mouthSmile": (0.7, 1.0),
            "cheekSquint": (0.3, 0.7),
            "eyeSquint": (0.1, 0.5),
            "mouthUpperUp": (0.1, 0.4),
        },
        "sad": {"mouthFrown": (0.7, 1.0), "mouthLowerDown": (0.0, 0.15)},
        "angry": {
            "browDown": (0.8, 1.0),
            "noseSneer": (0.3, 0.7),
            "mouthPress": (0.2, 0.6),
            "eyeSquint": (0.2, 0.4),
            "mouthFrown": (0.2, 0.5),
        },
        "surprised": {"eyeWide": (0.6, 1.0), "browOuterUp": (0.6, 1.0)},
        "eyes closed": {"eyeBlink": (1.0, 1.0), "mouthSmile": (0.0, 0.3)},
    }[name]
    single = {
        "laugh": {"jawOpen": (0.25, 0.5)},
        "sad": {"browInnerUp": (0.7, 1.0), "mouthShrugLower": (0.1, 0.4)},
        "surprised": {"jawOpen": (0.25, 0.55), "browInnerUp": (0.6, 1.0)},
    }.get(name, {})
    weights = {}
    for unit, (low, high) in both.items():
        value = rng.uniform(low, high)
        for side in ("Left", "Right"):
            weights[f"unit/{unit}{side}"] = float(value * rng.uniform(0.92, 1.0))
    for unit, (low, high) in single.items():
        weights[f"unit/{unit}"] = float(rng.uniform(low, high))
    return weights


def _lamps(rng: np.random.Generator, light: str) -> tuple[list[Lamp], dict[str, Color], float]:
    """Draw lamps, the surroundings' colors by direction, and the warmth of a kind of light."""
    side = float(rng.choice([-1.0, 1.0]))
    key = np.array([side * rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.8), 1.0])
    strength, size, ambient, warmth = 1.5, 0.30, 0.55, float(rng.normal(0, 0.02))
    if light == "from the left":
        key = np.array([-rng.uniform(1.0, 1.8), rng.uniform(0.1, 0.6), 1.0])
        strength, ambient = 2.2, 0.40
    elif light == "from the right":
        key = np.array([rng.uniform(1.0, 1.8), rng.uniform(0.1, 0.6), 1.0])
        strength, ambient = 2.2, 0.40
    elif light == "dramatic":
        key = np.array([side * rng.uniform(0.8, 1.4), rng.uniform(0.4, 0.9), 0.8])
        strength, size, ambient = 3.0, 0.12, 0.20
    elif light == "sunny":
        key = np.array([side * rng.uniform(0.3, 1.2), rng.uniform(0.5, 0.9), 0.9])
        strength, size, ambient = 2.6, 0.06, 0.45
    elif light == "warm":
        strength, ambient, warmth = 1.8, 0.40, float(rng.uniform(0.05, 0.12))
    elif rng.random() < 0.5:  # soft
        strength, size, ambient = 0.9, 0.45, 0.75
    tint = _vary(rng, (1.0, 0.96, 0.90), 0.06)
    lamp = Lamp(tuple(map(float, key)), tuple(strength * c for c in tint), size, 8)  # type: ignore[arg-type]
    lamps = [lamp]
    if rng.random() < 0.4:  # from behind
        back = (float(rng.choice([-1.0, 1.0])) * 1.0, float(rng.uniform(0.2, 0.8)), -0.7)
        power = float(rng.uniform(0.5, 1.8))
        lamps.append(Lamp(back, (power, power, power), 0.2, 3))
    top = _vary(rng, np.array([0.95, 1.0, 1.08]) * ambient, 0.10)
    bottom = _vary(rng, np.array([1.0, 0.93, 0.85]) * ambient * rng.uniform(0.3, 0.7), 0.10)
    left = _vary(rng, [rng.uniform(0.7, 0.9)] * 3, 0.06)
    right = _vary(rng, [rng.uniform(0.7, 0.9)] * 3, 0.06)
    return lamps, {"top": top, "bottom": bottom, "left": left, "right": right}, warmth


def _background_colors(rng: np.random.Generator, kind: str) -> list[Color]:
    if kind in ("plain", "gradient"):
        base = np.array(_hsv(rng.random(), rng.uniform(0.0, 0.45), rng.uniform(0.08, 0.7)))
        other = base * rng.uniform(0.3, 0.9) if kind == "gradient" else base * 0.9
        return [tuple(map(float, base)), tuple(map(float, other))]  # type: ignore[list-item]
    hues = {"indoors": (0.03, 0.14), "street": (0.50, 0.65), "leaves": (0.18, 0.36)}[kind]
    colors: list[Color] = []
    for _ in range(7):
        hue = rng.uniform(*hues) if rng.random() < 0.7 else rng.random()
        saturation = rng.uniform(0.05, 0.6 if kind == "leaves" else 0.4)
        colors.append(_hsv(hue, saturation, float(np.exp(rng.uniform(-3.2, 0.0)))))
    return colors


def _hsv(hue: float, saturation: float, value: float) -> Color:
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    r, g, b = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return float(r), float(g), float(b)


def _camera(rng: np.random.Generator) -> Camera:
    yaw = float(np.clip(rng.normal(0, 11), -25, 25))
    pitch = float(np.clip(rng.normal(0, 5), -12, 12))
    return Camera(
        math.radians(yaw),
        math.radians(pitch),
        math.radians(float(np.clip(rng.normal(0, 4), -10, 10))),
        float(rng.uniform(7.5, 18.0)),
        float(rng.uniform(4.0, 4.9)),
        (float(rng.normal(0, 0.02)), float(rng.normal(0.0, 0.02))),
    )


def sample(seed: int, targets: Iterable[str]) -> Head:
    """Draw the photo of a seed.

    Args:
        seed: 0 or more; PHOTOS_OF_A_PERSON in a row show the same person.
        targets: names of the mesh's targets.
    """
    person = sample_person(seed // PHOTOS_OF_A_PERSON, targets)
    rng = np.random.default_rng([seed, 2])
    labels = dict(person.labels)
    expression = _prior(rng, "expression")
    kinds = {"none": 0.70, "round glasses": 0.1, "square glasses": 0.1, "sunglasses": 0.1}
    if expression == "eyes closed":
        kinds["sunglasses"] = 0.0
    glasses = _choose(rng, kinds)
    headwear = _prior(rng, "headwear")
    woman = person.sex == "female" and person.years > 15
    lipstick = woman and rng.random() < 0.35
    earrings = "no"
    if rng.random() < (0.35 if person.sex == "female" else 0.04):
        earrings = "hoops" if rng.random() < 0.5 else "studs"
    style = labels["hair_style"]
    fringe = person.fringe and headwear == "none"
    if style == "tied back" and headwear != "none":
        headwear = "none"
    if headwear != "none" and style in ("buzz cut", "short", "side-parted"):
        labels["hair_style"] = UNSEEN
    if headwear != "none" and style == "bald":
        labels["hair_style"] = UNSEEN
    if style in ("bob", "long", "wavy", "curly"):
        earrings = "no"  # hidden by hair
    if glasses == "sunglasses" or expression == "eyes closed":
        labels["eye_color"] = UNSEEN
    clothes, clothes_color, pattern = (
        _prior(rng, k) for k in ("clothes", "clothes_color", "pattern")
    )
    other = _prior(rng, "clothes_color", leave=[clothes_color])
    background, light = _prior(rng, "background"), _prior(rng, "light")
    lamps, ambient, warmth = _lamps(rng, light)
    camera = _camera(rng)
    # The camera to the person's left sees the face turned to the image's left.
    view = (
        "front"
        if abs(camera.yaw) < math.radians(8)
        else "turned left"
        if camera.yaw > 0
        else "turned right"
    )
    labels |= {
        "glasses": glasses,
        "headwear": headwear,
        "expression": expression,
        "lipstick": "yes" if lipstick else "no",
        "earrings": earrings,
        "clothes": clothes,
        "clothes_color": clothes_color,
        "pattern": pattern,
        "background": background,
        "light": light,
        "view": view,
    }
    tone = person.skin_tone
    hair = person.hair_color
    beard = labels["beard"]
    shown = {
        "none": 0.14 if person.sex == "male" and person.years > 18 else 0.0,
        "stubble": 0.55,
    }.get(beard, 0.35)
    look = SkinLook(
        tone,
        person.redness,
        person.years,
        0.9 if labels["freckles"] == "yes" else 0.0,
        0.85 if lipstick else 0.0,
        _vary(rng, (0.42, 0.03, 0.05), 0.35),
        shown,
        "full beard" if beard in ("none", "stubble", "short beard") else beard,
        hair,
        person.recession,
        {"bald": 0.0, "buzz cut": 0.75}.get(style, 0.9),
        0.55,
        person.brow_thickness,
        person.brow_height,
        person.offset,
    )
    luminance = float(np.dot((0.2, 0.7, 0.1), _tone_color(tone)))
    exposure = float(np.exp(rng.normal(0, 0.10))) * (0.42 / luminance) ** 0.33
    power = sum(np.mean(lamp.color) * max(lamp.direction[2], 0) for lamp in lamps) + 1.6 * np.mean(
        ambient["top"]
    )
    dark = style == "bald" or sum(hair) > 0.9
    return Head(
        seed=seed,
        labels=labels,
        targets=person.targets | _expression(rng, expression),
        skin=look,
        eye_color=person.eye_color,
        gaze=(
            float(rng.normal(0, 0.08) + 0.6 * math.sin(camera.yaw)),
            float(rng.normal(0, 0.04) + 0.5 * math.sin(camera.pitch)),
        ),
        hair_color=hair,
        hair_style="" if style == "bald" else style,
        hair_length=person.hair_length,
        part=person.part,
        fringe=fringe,
        beard="" if beard == "none" else beard,
        beard_length=person.beard_length,
        beard_color=_vary(rng, [c * 0.85 for c in hair], 0.08),
        brow_thickness=person.brow_thickness,
        brow_height=person.brow_height,
        brow_color=tuple(c * (0.45 if sum(hair) > 0.4 and not dark else 0.75) for c in hair),  # type: ignore[arg-type]
        lash_length=float(rng.uniform(0.9, 1.3)) * (1.15 if woman else 0.8),
        glasses="" if glasses == "none" else glasses.removesuffix(" glasses"),
        frame_color=_vary(
            rng,
            ((0.015, 0.015, 0.015), (0.10, 0.04, 0.02), (0.35, 0.30, 0.22))[int(rng.integers(3))],
            0.2,
        ),
        headwear="" if headwear == "none" else headwear,
        headwear_color=_vary(
            rng, _CLOTHES_COLORS[_prior(rng, "clothes_color", leave=["white"])], 0.2
        ),
        earrings="" if earrings == "no" else earrings,
        clothes=clothes,
        clothes_color=_vary(rng, _CLOTHES_COLORS[clothes_color], 0.18),
        second_color=_vary(rng, _CLOTHES_COLORS[other], 0.18),
        pattern=pattern,
        camera=camera,
        lamps=lamps,
        ambient=ambient,
        background=background,
        background_colors=_background_colors(rng, background),
        exposure=float(exposure / power * 1.7),
        warmth=warmth,
        grain=float(rng.uniform(0.004, 0.014)),
    )


def _tone_color(tone: float) -> np.ndarray:
    from domains.people.materials import SKIN_TONES

    low = min(int(tone), 8)
    return np.asarray(SKIN_TONES[low]) * (low + 1 - tone) + np.asarray(SKIN_TONES[low + 1]) * (
        tone - low
    )
