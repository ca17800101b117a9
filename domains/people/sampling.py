"""Sampling: from a seed to the description of one photo of a person.

Several seeds in a row share a person (sex, age, shape, skin, hair, beard) and differ in expression,
wear, light, camera and background. The same seed gives the same description on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from domains.people.attributes import UNSEEN
from domains.people.head import (
    Background,
    Beard,
    Brows,
    Camera,
    Color,
    Eyes,
    Film,
    Hair,
    Head,
    Lamp,
    Lighting,
    SkinLook,
    Wear,
)
from domains.people.materials import SKIN_TONES
from domains.people.person import Person, choose, draw_prior, sample_person, vary

PHOTOS_OF_A_PERSON = 4
CLOTHES_COLORS: dict[str, Color] = {
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
_LIPSTICKS = ((0.26, 0.02, 0.035), (0.34, 0.07, 0.08), (0.16, 0.02, 0.035), (0.36, 0.09, 0.13))
_FRAME_COLORS = ((0.015, 0.015, 0.015), (0.10, 0.04, 0.02), (0.35, 0.30, 0.22))


def _expression(rng: np.random.Generator, name: str) -> dict[str, float]:
    """Return the weights of the face's units for an expression."""
    both = {
        "neutral": {},
        "smile": {"mouthSmile": (0.45, 0.75), "cheekSquint": (0.2, 0.5), "eyeSquint": (0.0, 0.3)},
        "laugh": {
            "mouthSmile": (0.6, 0.85),
            "cheekSquint": (0.3, 0.6),
            "eyeSquint": (0.1, 0.4),
            "mouthUpperUp": (0.65, 1.0),
        },
        "sad": {"mouthFrown": (0.35, 0.6)},
        "angry": {
            "browDown": (0.8, 1.0),
            "noseSneer": (0.2, 0.5),
            "mouthPress": (0.1, 0.35),
            "eyeSquint": (0.2, 0.4),
            "mouthFrown": (0.1, 0.3),
        },
        "surprised": {"eyeWide": (0.5, 0.85), "browOuterUp": (0.5, 0.9)},
        "eyes closed": {"eyeBlink": (1.0, 1.0), "mouthSmile": (0.0, 0.3)},
    }[name]
    single = {
        "laugh": {"jawOpen": (0.12, 0.28)},
        "sad": {"browInnerUp": (0.7, 1.0), "mouthShrugLower": (0.0, 0.1)},
        "surprised": {"jawOpen": (0.2, 0.4), "browInnerUp": (0.6, 1.0)},
    }.get(name, {})
    weights = {}
    if "eyeBlink" not in both:  # lids rest on the upper edge of the iris
        both["eyeBlink"] = (0.0, 0.0) if name == "surprised" else (0.0, 0.06)
        both.setdefault("eyeWide", (0.05, 0.30))
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
    tint = vary(rng, (1.0, 0.96, 0.90), 0.06)
    lamp = Lamp(tuple(map(float, key)), tuple(strength * c for c in tint), size, 8)  # type: ignore[arg-type]
    lamps = [lamp]
    if rng.random() < 0.4:  # from behind
        back = (float(rng.choice([-1.0, 1.0])) * 1.0, float(rng.uniform(0.2, 0.8)), -0.7)
        power = float(rng.uniform(0.4, 1.1))
        lamps.append(Lamp(back, (power, power, power), 0.2, 3))
    top = vary(rng, np.array([0.95, 1.0, 1.08]) * ambient, 0.10)
    bottom = vary(rng, np.array([1.0, 0.93, 0.85]) * ambient * rng.uniform(0.3, 0.7), 0.10)
    left = vary(rng, [rng.uniform(0.7, 0.9)] * 3, 0.06)
    right = vary(rng, [rng.uniform(0.7, 0.9)] * 3, 0.06)
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
        float(rng.uniform(3.5, 4.3)),
        (float(rng.normal(0, 0.02)), float(rng.normal(0.0, 0.02))),
    )


def _draw_wear(rng: np.random.Generator, person: Person, expression: str) -> dict[str, str]:
    """Draw the labels of what a person wears in a photo."""
    style = person.labels["hair_style"]
    kinds = {"none": 0.70, "round glasses": 0.1, "square glasses": 0.1, "sunglasses": 0.1}
    if expression == "eyes closed":
        kinds["sunglasses"] = 0.0
    headwear = draw_prior(rng, "headwear")
    if style == "tied back":
        headwear = "none"  # no room for the bun
    if headwear != "none":
        kinds["sunglasses"] *= 0.3  # little of the face would be seen
    glasses = choose(rng, kinds)
    lipstick = person.is_woman and rng.random() < 0.35
    earrings = "no"
    if rng.random() < (0.35 if person.sex == "female" else 0.04):
        earrings = "hoops" if rng.random() < 0.5 else "studs"
    if style in ("bob", "long", "wavy", "curly"):
        earrings = "no"  # hair would hide them
    color = draw_prior(rng, "clothes_color")
    return {
        "glasses": glasses,
        "headwear": headwear,
        "lipstick": "yes" if lipstick else "no",
        "earrings": earrings,
        "clothes": draw_prior(rng, "clothes"),
        "clothes_color": color,
        "pattern": draw_prior(rng, "pattern"),
    }


def _mark_unseen(labels: dict[str, str]) -> dict[str, str]:
    """Return labels without those of what the photo does not show."""
    unseen = set()
    if labels["headwear"] != "none":
        hidden = ("bald", "buzz cut", "short", "side-parted")
        unseen |= {"hair_style"} if labels["hair_style"] in hidden else set()
    if labels["glasses"] == "sunglasses" or labels["expression"] == "eyes closed":
        unseen.add("eye_color")
    return labels | dict.fromkeys(unseen, UNSEEN)


def _skin_look(rng: np.random.Generator, person: Person, labels: dict[str, str]) -> SkinLook:
    beard, style = labels["beard"], person.labels["hair_style"]
    lightness = float(np.mean(_tone_color(person.skin_tone))) ** 0.4
    lipstick = [1.2 * lightness * c for c in _LIPSTICKS[int(rng.integers(len(_LIPSTICKS)))]]
    shaven = 0.14 if person.sex == "male" and person.years > 18 else 0.0
    return SkinLook(
        tone=person.skin_tone,
        redness=person.redness,
        age=person.years,
        freckles=0.9 if labels["freckles"] == "yes" else 0.0,
        lipstick=float(rng.uniform(0.5, 0.75)) if labels["lipstick"] == "yes" else 0.0,
        lipstick_color=vary(rng, lipstick, 0.2),
        shadow_of_beard={"none": shaven, "stubble": 0.55}.get(beard, 0.35),
        beard=beard if beard in ("moustache", "goatee") else "full beard",
        hair_color=person.hair_color,
        recession=person.recession,
        scalp={"bald": 0.0, "buzz cut": 0.75}.get(style, 0.9),
        brow_tint=0.7,
        brow_thickness=person.brow_thickness,
        brow_height=person.brow_height,
        offset=person.offset,
    )


def _exposure(
    rng: np.random.Generator, tone: float, lamps: list[Lamp], ambient: dict[str, Color]
) -> float:
    """Return an exposure for the light, a little longer for darker skin."""
    luminance = float(np.dot((0.2, 0.7, 0.1), _tone_color(tone)))
    power = sum(float(np.mean(lamp.color)) * max(lamp.direction[2], 0.0) for lamp in lamps)
    power += 1.6 * float(np.mean(ambient["top"]))
    return float(np.exp(rng.normal(0, 0.10))) * (0.42 / luminance) ** 0.4 / power * 1.7


def sample(seed: int, known_targets: Iterable[str]) -> Head:
    """Draw the photo of a seed.

    Args:
        seed: 0 or more; PHOTOS_OF_A_PERSON in a row show the same person.
        known_targets: names of the mesh's targets.
    """
    person = sample_person(seed // PHOTOS_OF_A_PERSON, known_targets)
    rng = np.random.default_rng([seed, 2])
    expression = draw_prior(rng, "expression")
    background, light = draw_prior(rng, "background"), draw_prior(rng, "light")
    worn = _draw_wear(rng, person, expression)
    other_color = draw_prior(rng, "clothes_color", leave=[worn["clothes_color"]])
    hat_color = draw_prior(rng, "clothes_color", leave=["white", "pink", "yellow"])
    lamps, ambient, warmth = _lamps(rng, light)
    for side in ("top", "bottom"):  # dark skin needs light from everywhere
        r, g, b = ambient[side]
        fill = 1 + 0.12 * max(person.skin_tone - 5, 0.0)
        ambient[side] = r * fill, g * fill, b * fill
    camera = _camera(rng)
    view = "front"
    if abs(camera.yaw) >= math.radians(8):  # as the image shows it
        view = "turned left" if camera.yaw > 0 else "turned right"
    labels = person.labels | worn
    labels |= {"expression": expression, "background": background, "light": light, "view": view}
    style, hair = person.labels["hair_style"], person.hair_color
    brow_darkness = min(0.75, 0.16 / max(hair))  # brows are never as light as light hair
    targets = person.targets | _expression(rng, expression)
    skin = _skin_look(rng, person, labels)
    gaze = (
        float(rng.normal(0, 0.08)) + 0.6 * math.sin(camera.yaw),
        float(rng.normal(0, 0.04)) + 0.5 * math.sin(camera.pitch),
    )
    beard_color = vary(rng, [c * 0.85 for c in hair], 0.08)
    brow_color = vary(
        rng,
        [c * brow_darkness + 0.05 * t for c, t in zip(hair, _tone_color(skin.tone), strict=True)],
        0.05,
    )
    lash_length = float(rng.uniform(0.7, 1.05)) * (1.15 if person.is_woman else 0.8)
    return Head(
        seed=seed,
        labels=_mark_unseen(labels),
        targets=targets,
        skin=skin,
        eyes=Eyes(person.eye_color, gaze, lash_length),
        hair=Hair(
            color=hair,
            style=_present(style),
            length=person.hair_length,
            part=person.part,
            fringe=person.fringe and worn["headwear"] == "none",
        ),
        beard=Beard(
            style=_present(labels["beard"]),
            length=person.beard_length,
            color=beard_color,
        ),
        brows=Brows(
            thickness=person.brow_thickness,
            height=person.brow_height,
            color=brow_color,
        ),
        wear=Wear(
            glasses=_present(worn["glasses"]),
            frame_color=vary(rng, _FRAME_COLORS[int(rng.integers(3))], 0.2),
            headwear=_present(worn["headwear"]),
            headwear_color=_fade(rng, CLOTHES_COLORS[hat_color], 0.55),
            earrings=_present(worn["earrings"]),
            clothes=worn["clothes"],
            clothes_color=_fade(rng, CLOTHES_COLORS[worn["clothes_color"]], 0.4),
            second_color=_fade(rng, CLOTHES_COLORS[other_color], 0.5),
            pattern=worn["pattern"],
        ),
        camera=camera,
        lighting=Lighting(lamps, ambient),
        background=Background(background, _background_colors(rng, background)),
        film=Film(
            exposure=_exposure(rng, person.skin_tone, lamps, ambient),
            warmth=warmth,
            grain=float(rng.uniform(0.004, 0.014)),
        ),
    )


def _present(label: str) -> str:
    """Return the label, or "" where it says that there is nothing."""
    return "" if label in ("bald", "none", "no") else label


def _fade(rng: np.random.Generator, color: Color, most: float) -> Color:
    """Vary a dye's color; worn cloth is paler and grayer."""
    gray = float(np.mean(color))
    amount = rng.uniform(0.0, most)
    return vary(rng, [c + amount * (gray - c) for c in color], 0.18)


def _tone_color(tone: float) -> np.ndarray:
    low = min(int(tone), 8)
    return np.asarray(SKIN_TONES[low]) * (low + 1 - tone) + np.asarray(SKIN_TONES[low + 1]) * (
        tone - low
    )
