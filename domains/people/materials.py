"""Colors and fine normals of skin, eyes and cloth, as functions of the place on the base mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.hair import (
    beard_fields,
    beard_style,
    brow_field,
    lookup,
    scalp_field,
    smoothstep,
)
from domains.people.head import Color, SkinLook, Wear
from domains.people.noise import Noise

# Linear albedo of the ten tones of the Monk scale, as skin has it under neutral light.
SKIN_TONES = (
    (0.72, 0.51, 0.42), (0.68, 0.47, 0.37), (0.64, 0.43, 0.315), (0.57, 0.375, 0.265),
    (0.485, 0.305, 0.2), (0.375, 0.222, 0.137), (0.28, 0.157, 0.095), (0.19, 0.104, 0.066),
    (0.118, 0.066, 0.045), (0.072, 0.043, 0.032),
)  # fmt: skip
HAIR_COLORS = {
    "black": (0.016, 0.013, 0.012),
    "dark brown": (0.045, 0.026, 0.016),
    "brown": (0.115, 0.060, 0.032),
    "blond": (0.46, 0.31, 0.155),
    "red": (0.21, 0.08, 0.036),
    "grey": (0.36, 0.355, 0.35),
    "white": (0.60, 0.59, 0.575),
}
EYE_COLORS = {
    "brown": (0.10, 0.045, 0.018),
    "blue": (0.12, 0.22, 0.34),
    "green": (0.13, 0.19, 0.09),
    "grey": (0.24, 0.28, 0.31),
}


@dataclass
class Shade:
    """Materials of pixels: albedo, normal (p, 3); roughness, specular at 0 degrees (p,)."""

    albedo: Tensor
    normal: Tensor
    roughness: Tensor
    specular: Tensor


def tilt(normal: Tensor, slopes: Tensor) -> Tensor:
    """Tilt normals by slopes (p, 2) in an arbitrary tangent frame."""
    up = torch.tensor([0.0, 1.0, 0.0], device=normal.device).expand_as(normal)
    x = F.normalize(torch.linalg.cross(up, normal), dim=1)
    y = torch.linalg.cross(normal, x)
    return F.normalize(normal - slopes[:, :1] * x - slopes[:, 1:] * y, dim=1)


class OfHeads:
    """Returns the values of pixels by the heads (p,) that they belong to."""

    def __init__(self, head: Tensor) -> None:
        self.head = head

    def __call__(self, values: Sequence[float] | Sequence[Color]) -> Tensor:
        """Return (p,) for a number of each head, (p, 3) for a color of each."""
        return torch.tensor(values, device=self.head.device)[self.head]

    def select(self, names: Sequence[str], name: str) -> Tensor:
        """Return which pixels' heads have that name, bool (p,)."""
        return self([name == other for other in names])


def base_tone(tone: float) -> Color:
    """Return the albedo of a tone between 0 and 9."""
    low = min(int(tone), 8)
    r, g, b = (
        darker ** (tone - low) * lighter ** (low + 1 - tone)
        for lighter, darker in zip(SKIN_TONES[low], SKIN_TONES[low + 1], strict=True)
    )
    return r, g, b


def _spot(rest: Tensor, x: float, y: float, size: float, squeeze: float = 1.0) -> Tensor:
    dx, dy = rest[:, 0].abs() - x, (rest[:, 1] - y) * squeeze
    return torch.exp(-(dx * dx + dy * dy) / size**2) * (rest[:, 2] > 0.4)


def skin(
    looks: Sequence[SkinLook],
    of: OfHeads,
    rest: Tensor,
    uv: Tensor,
    normal: Tensor,
    masks: Tensor,
    noise: Noise,
) -> Shade:
    """Return the skin's material at pixels.

    Args:
        looks: what varies it, by head.
        rest: (p, 3); uv: (p, 2); normal: (p, 3).
        masks: (p, 4): lips, eyelids, ears, inside of the mouth.
    """
    device = rest.device
    tones = [base_tone(look.tone) for look in looks]
    lightness = [sum(tone) / 3 for tone in tones]
    base, light = of(tones), of(lightness)
    offset = of([look.offset for look in looks])[:, None]
    lips, lids, ears, mouth = masks.unbind(1)
    clouds = noise(uv + offset, 3.0, [0, 1])
    fine_clouds = noise(uv + offset, 9.0, [0, 1])
    grain = noise(uv + offset, 5.0, [2])[:, 0]
    pores = noise(uv, 4.8, [3, 6, 7])
    fine = noise(uv, 6.5, [2, 4, 5])
    tone = 1 + 0.045 * clouds[:, 0] + 0.045 * fine_clouds[:, 0] + 0.028 * grain + 0.02 * pores[:, 0]
    albedo = base * tone[:, None]
    # Blood shows on cheeks, nose, ears, chin and lids; hollows under the eyes are darker.
    blood = 0.75 * _spot(rest, 0.42, 6.95, 0.22) + 0.75 * _spot(rest, 0.0, 6.93, 0.15)
    blood = blood + 0.25 * _spot(rest, 0.0, 6.28, 0.16) + 0.5 * ears
    blood = blood + 0.30 * fine_clouds[:, 1].clamp(-1, 2) * 0.5 + 0.10
    flush = of([look.redness for look in looks]) * (0.35 + 0.65 * light / 0.5) * blood
    tint = torch.tensor([0.04, 0.24, 0.21], device=device)
    albedo = albedo * (1 - flush[:, None].clamp(-0.5, 1.5) * tint)
    tired = of([0.10 + 0.16 * min(look.age / 80, 1.0) for look in looks])[:, None]
    hollow = _spot(rest, 0.28, 7.17, 0.10, 1.8) + 0.5 * _spot(rest, 0.19, 7.27, 0.06)
    albedo = albedo * (1 - tired * hollow[:, None] * torch.tensor([0.8, 1.0, 0.7], device=device))
    albedo = albedo * (1 - 0.14 * lids[:, None] * torch.tensor([0.6, 1.0, 0.9], device=device))
    albedo = _add_spots(albedo, looks, of, rest, uv + offset, clouds, fine_clouds, noise)
    albedo = _add_hair_tints(albedo, looks, of, base, rest, masks, pores, fine_clouds)
    natural = base * torch.tensor([0.80, 0.50, 0.50], device=device)
    natural = (
        natural
        + torch.tensor([0.035, 0.0, 0.004], device=device) * ((light * 3).clamp(max=1.0)[:, None])
    )
    lipstick = of([look.lipstick for look in looks])
    color = torch.lerp(natural, of([look.lipstick_color for look in looks]), lipstick[:, None])
    lip = smoothstep(lips, 0.15, 0.75) * (0.75 + 0.25 * lipstick)
    streaks = 1 + 0.06 * fine[:, 0] + 0.05 * fine_clouds[:, 0]
    albedo = torch.lerp(albedo, color * streaks[:, None], lip[:, None])
    inside = torch.tensor([0.22, 0.055, 0.045], device=device)
    deep = mouth * (1 - smoothstep(lips, 0.4, 0.8))
    albedo = torch.lerp(albedo, inside.expand_as(albedo), (deep[:, None] * 0.9).clamp(0, 1))
    pore_depth = 0.055 * (1 - lip)
    slopes = pore_depth[:, None] * pores[:, 1:] + 0.05 * fine[:, 1:]
    slopes = slopes + _wrinkles(rest, of([look.age for look in looks]), clouds)
    oily = (
        _spot(rest, 0.0, 7.0, 0.3)
        + 0.8 * _spot(rest, 0.0, 7.75, 0.4)
        + 0.4 * _spot(rest, 0.45, 7.1, 0.2)
    )
    rough = (
        0.58
        - 0.07 * oily.clamp(0, 1)
        + 0.03 * fine_clouds[:, 1]
        - 0.12 * lip
        - 0.05 * lipstick * lip
    )
    return Shade(
        albedo.clamp(0.004, 0.95),
        tilt(normal, slopes),
        rough.clamp(0.25, 0.8),
        torch.full_like(rough, 0.025) * (1 + 0.25 * fine[:, 0].clamp(-1, 1)),
    )


def _add_spots(
    albedo: Tensor,
    looks: Sequence[SkinLook],
    of: OfHeads,
    rest: Tensor,
    uv: Tensor,
    clouds: Tensor,
    fine_clouds: Tensor,
    noise: Noise,
) -> Tensor:
    """Add freckles, and the spots of old age."""
    device = albedo.device
    if any(look.freckles for look in looks):
        spots = (noise(uv + 0.37, 5.5, [3])[:, 0] * -1 - 1.5 + 0.5 * clouds[:, 1]).clamp(0, 1.2)
        where = _spot(rest, 0.3, 7.0, 0.33) + _spot(rest, 0.0, 7.05, 0.25) + 0.3
        amount = of([look.freckles for look in looks]) * (spots * where).clamp(0, 1)
        albedo = albedo * (1 - amount[:, None] * torch.tensor([0.28, 0.42, 0.52], device=device))
    if any(look.age > 50 for look in looks):
        older = of([max(look.age - 50, 0.0) / 30 for look in looks])
        spots = (clouds[:, 1] + fine_clouds[:, 0] - 2.1).clamp(0, 1) * older
        tint = torch.tensor([0.7, 1.0, 1.1], device=device)
        albedo = albedo * (1 - 0.30 * spots.clamp(0, 1)[:, None] * tint)
    return albedo


def _add_hair_tints(
    albedo: Tensor,
    looks: Sequence[SkinLook],
    of: OfHeads,
    base: Tensor,
    rest: Tensor,
    masks: Tensor,
    pores: Tensor,
    fine_clouds: Tensor,
) -> Tensor:
    """Darken the skin under brows, beards and the hair of the head."""
    lips, ears = masks[:, 0], masks[:, 2]
    gray = torch.tensor([0.62, 0.66, 0.72], device=albedo.device)
    hair = of([look.hair_color for look in looks])
    brow = of([look.brow_tint for look in looks]) * brow_field(
        rest,
        of([look.brow_thickness for look in looks]),
        of([look.brow_height for look in looks]),
    )
    albedo = torch.lerp(albedo, torch.lerp(base * 0.35, hair, 0.5), brow[:, None])
    if any(look.shadow_of_beard for look in looks):
        albedo = _add_beard_shadow(
            albedo, looks, of, torch.lerp(base * gray, hair, 0.35), rest, lips, pores
        )
    if any(look.scalp for look in looks):
        field = scalp_field(rest, of([look.recession for look in looks])) + 0.05 * fine_clouds[:, 0]
        amount = of([look.scalp for look in looks]) * smoothstep(field, -0.03, 0.09)
        amount = amount * (1 - smoothstep(ears, 0.1, 0.4))
        albedo = torch.lerp(albedo, torch.lerp(base * 0.5, hair, 0.75), amount[:, None])
    return albedo


def _add_beard_shadow(
    albedo: Tensor,
    looks: Sequence[SkinLook],
    of: OfHeads,
    shade: Tensor,
    rest: Tensor,
    lips: Tensor,
    pores: Tensor,
) -> Tensor:
    """Darken the skin of beards toward `shade` (p, 3)."""
    style = of([beard_style(look.beard) for look in looks])
    field = beard_fields(rest, lips).gather(0, style[None])[0]
    amount = of([look.shadow_of_beard for look in looks]) * field
    amount = amount * (0.85 + 0.25 * pores[:, 0].clamp(-1, 1))
    return torch.lerp(albedo, shade, amount[:, None].clamp(0, 0.9))


def _wrinkles(rest: Tensor, age: Tensor, clouds: Tensor) -> Tensor:
    """Return slopes (p, 2) of lines on the forehead and beside the eyes, deeper with age."""
    depth = ((age - 32) / 40).clamp(0, 1)[:, None]
    x, y = rest[:, 0], rest[:, 1]
    forehead = (
        smoothstep(y, 7.62, 7.72) * smoothstep(-y, -8.0, -7.88) * smoothstep(-x.abs(), -0.5, -0.3)
    )
    phase = (y + 0.05 * x * x + 0.012 * clouds[:, 0]) * 2 * math.pi / 0.085
    lines = torch.cos(phase).clamp(min=0) ** 3 * torch.sin(phase) * forehead * (rest[:, 2] > 1.0)
    dx, dy = x.abs() - 0.44, y - 7.28
    corner = smoothstep(torch.hypot(dx, dy), 0.05, 0.09) * smoothstep(
        -torch.hypot(dx, dy), -0.24, -0.15
    )
    angle = torch.atan2(dy + 0.01 * clouds[:, 1], dx)
    feet = torch.sin(angle * 11) * corner * (angle.abs() < 0.8) * (rest[:, 2] > 0.8)
    fold_x = lookup(y, (6.5, 6.62, 6.85), (0.335, 0.31, 0.17))
    fold = (x.abs() - fold_x - 0.008 * clouds[:, 0]) / 0.022
    fold_slope = (
        fold * torch.exp(-fold * fold) * smoothstep(y, 6.52, 6.62) * smoothstep(-y, -6.88, -6.80)
    )
    fold_slope = fold_slope * torch.sign(x) * (rest[:, 2] > 1.1)
    across = 0.14 * fold_slope - 0.25 * feet * torch.sin(angle) * torch.sign(x)
    return depth * torch.stack([across, 0.55 * lines + 0.25 * feet * torch.cos(angle)], 1)


def eye(
    colors: Sequence[Color],
    seeds: Sequence[float],
    of: OfHeads,
    local: Tensor,
    normal: Tensor,
    noise: Noise,
) -> Shade:
    """Return the eyeballs' material; `local` (p, 3) is the direction from the gaze."""
    device = local.device
    theta = torch.acos(local[:, 2].clamp(-1, 1))
    phi = torch.atan2(local[:, 1], local[:, 0])
    white = torch.tensor([0.62, 0.57, 0.54], device=device)
    veins = noise(torch.stack([phi / 6.2832, theta], 1), 2.0, [0])[:, 0].clamp(0, 2)
    red = (smoothstep(theta, 0.6, 1.3)[:, None]) * torch.tensor([0.10, 0.34, 0.32], device=device)
    albedo = (
        white
        * (1 - red)
        * (1 - 0.05 * veins[:, None] * torch.tensor([0.2, 1.0, 1.0], device=device))
    )
    size, pupil = 0.475, of([0.165 + 0.06 * math.sin(seed * 91.0) for seed in seeds])
    streaks = noise(torch.stack([phi / 6.2832 + of(seeds), theta * 0.12], 1), 3.0, [2])[:, 0]
    inner = (1 - smoothstep(theta, pupil, pupil + 0.16))[:, None]
    iris = 0.55 * of(colors) * (1 + 0.28 * streaks[:, None])
    iris = iris * (1.2 + 0.5 * inner * torch.tensor([1.0, 0.6, 0.2], device=device))
    iris = iris * (1 - 0.72 * smoothstep(theta, size * 0.72, size))[:, None]
    albedo = torch.lerp(albedo, iris, (1 - smoothstep(theta, size - 0.035, size + 0.035))[:, None])
    albedo = albedo * (smoothstep(theta, pupil - 0.03, pupil + 0.02) * 0.985 + 0.015)[:, None]
    # The lids and lashes shade the eyeball, most of all from above.
    height = normal[:, 1]
    shaded = 1 - 0.38 * smoothstep(height, 0.10, 0.50) - 0.15 * smoothstep(-height, 0.15, 0.45)
    corner = 1 - 0.35 * smoothstep(normal[:, 0].abs(), 0.3, 0.75)
    open_sky = shaded * corner
    rough = torch.full_like(theta, 0.16)
    return Shade((albedo * open_sky[:, None]).clamp(0.002, 0.9), normal, rough, 0.025 * open_sky**2)


def cloth(
    worn: Sequence[Wear],
    offsets: Sequence[float],
    of: OfHeads,
    field: Tensor,
    rest: Tensor,
    normal: Tensor,
    noise: Noise,
) -> Shade:
    """Return the material of clothes; `field` (p,) is the distance from the collar's edge."""
    uv = torch.stack([rest[:, 0] * 0.25 + rest[:, 2] * 0.1, rest[:, 1] * 0.25], 1)
    offset = of(offsets)[:, None]
    weave = noise(uv + offset, 16.0, [2, 4, 5])
    folds = noise(uv + offset, 2.0, [0])[:, 0]
    patterns = [each.pattern for each in worn]
    height = rest[:, 1] - 0.7 * rest[:, 2]  # runs on over the shoulders, where y does not change
    stripes = smoothstep(torch.sin(height * 2 * math.pi / 0.36), -0.1, 0.1)
    a = torch.sin(height * 2 * math.pi / 0.4)
    b = torch.sin((rest[:, 0] + 0.1 * rest[:, 2]) * 2 * math.pi / 0.4)
    checks = 0.5 * smoothstep(a, -0.1, 0.1) + 0.5 * smoothstep(b, -0.1, 0.1)
    amount = torch.where(of.select(patterns, "striped"), stripes, 0.0)
    amount = torch.where(of.select(patterns, "checked"), checks, amount)
    color = of([each.clothes_color for each in worn])
    albedo = torch.lerp(color, of([each.second_color for each in worn]), amount[:, None])
    albedo = albedo * (1 + 0.06 * weave[:, :1] + 0.03 * folds[:, None])
    near = 1 - smoothstep(rest[:, 0].abs(), 0.4, 0.62)  # on the shoulders the field hardly changes
    rib = smoothstep(-field, -0.125, -0.115) * near
    seam = torch.exp(-(((field - 0.125) / 0.012) ** 2)) * near
    albedo = albedo * (1 - 0.12 * rib - 0.35 * seam)[:, None]
    azimuth = torch.atan2(rest[:, 0], rest[:, 2] - 0.2)
    slopes = 0.10 * weave[:, 1:] * (1 - 0.5 * rib[:, None])
    slopes = slopes + (0.25 * rib * torch.sin(azimuth * 110))[:, None] * torch.tensor(
        [1.0, 0.0], device=rest.device
    )
    crease = noise(uv + offset, 1.5, [0, 1]) * 0.05
    rough = torch.full_like(field, 0.85)
    return Shade(
        albedo.clamp(0.004, 0.9), tilt(normal, slopes + crease), rough, torch.full_like(field, 0.02)
    )


def headwear(
    worn: Sequence[Wear],
    of: OfHeads,
    rest: Tensor,
    field: Tensor,
    normal: Tensor,
    noise: Noise,
) -> Shade:
    """Return the material of hats (felt with a band) and beanies (knitted)."""
    weave = noise(rest[:, :2] * 0.7 + rest[:, 2:] * 0.3, 2.5, [2, 4, 5])
    albedo = of([each.headwear_color for each in worn]) * (1 + 0.07 * weave[:, :1])
    azimuth = torch.atan2(rest[:, 0], rest[:, 2] - 0.5)
    knitted = of.select([each.headwear for each in worn], "beanie")
    fold = 1 - 0.35 * torch.exp(-(((field - 0.285) / 0.02) ** 2))
    knit = (1 + 0.16 * torch.sin(azimuth * 68)) * fold
    band = smoothstep(field, 0.0, 0.01) * (1 - smoothstep(field, 0.17, 0.18)) * (rest[:, 0] < 8)
    albedo = albedo * torch.where(knitted, knit, 1 - 0.65 * band)[:, None]
    ribs = torch.where(knitted, 0.5 * torch.cos(azimuth * 68), 0.0)
    slopes = 0.12 * weave[:, 1:] + F.pad(ribs[:, None], (0, 1))
    rough = torch.full_like(field, 0.9)
    return Shade(
        albedo.clamp(0.004, 0.9), tilt(normal, slopes), rough, torch.full_like(field, 0.02)
    )
