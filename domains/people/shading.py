"""Shading: what light makes of the visible surfaces, hair and lenses.

Light that enters the skin leaves it nearby, redder: the skin's irradiance is blurred in the image,
more in red (d'Eon and Luebke, GPU Gems 3, chapter 14). Hair follows Kajiya and Kay (1989) with a
second, colored highlight (Marschner et al. 2003).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people import materials, wear
from domains.people.background import blur
from domains.people.hair import smoothstep
from domains.people.head import Color, Head
from domains.people.lighting import Incident, Lights, Shadows, ggx
from domains.people.materials import OfHeads, Shade
from domains.people.mesh import HeadMesh
from domains.people.noise import Noise
from domains.people.scene import Scene, SurfaceSamples, Views, turn
from domains.people.tufts import Hair

_DIFFUSION = ((0.30, 0.32, 0.38), (0.55, 0.33, 0.12), (0.72, 0.24, 0.04))  # none, near, far
_DIFFUSION_SIGMA = (0.015, 0.05)  # near and far, decimeters
_JITTER = 1.6  # texels by which lookups of shadows are shifted, which blurs their edges
_NUMBER = {name: number for number, name in enumerate(wear.MATERIALS)}


@dataclass
class Shots:
    """What all shading of a batch shares; `jitter` are numbers from -0.5 to 0.5."""

    heads: Sequence[Head]
    views: Views
    lights: Lights
    shadows: Shadows
    jitter: Tensor

    def draw_jitter(self, pixel: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
        """Return shifts (n, p) of the lookups of shadows, the same for a head in every batch."""
        seeds = torch.tensor([head.seed % 65_536 for head in self.heads], device=pixel.device)
        side = self.views.size**2
        count = self.lights.directions.shape[1]
        place = (pixel % side) * 37 + seeds[pixel // side] * 101 + light % count * 7_919
        first = self.jitter[place % len(self.jitter)]
        return first, self.jitter[(place + 1_000_003) % len(self.jitter)]


class Shader:
    """Shades pixels of heads on a device."""

    def __init__(self, mesh: HeadMesh, noise: Noise) -> None:
        self.mesh, self.noise, self.device = mesh, noise, mesh.device

    def surfaces(self, shots: Shots, scene: Scene, pixel: Tensor) -> Tensor:
        """Return the radiance (p, 3) of the surfaces at pixels (p,)."""
        views, lights = shots.views, shots.lights
        at = scene.attributes(pixel)
        of = OfHeads(at.head)
        toward = F.normalize(views.origins[at.head] - at.position, dim=1)
        facing = torch.sign((at.normal * toward).sum(1, keepdim=True))
        at.normal = at.normal * torch.where(facing == 0, torch.ones_like(facing), facing)
        shade = self._materials(shots.heads, at, of)
        is_skin, is_eye = at.material == _NUMBER["skin"], at.material == _NUMBER["eye"]
        shiny = (at.material >= _NUMBER["frame"]) | is_eye
        irradiance, gloss = torch.zeros_like(at.position), torch.zeros_like(at.position)
        offset = at.position + at.normal * 0.012
        for light in lights.of_pixels(at.head, pixel % views.size**2, views.size):
            cosine = (light.directions * shade.normal).sum(2)
            wrapped = torch.where(is_skin, (cosine + 0.08) / 1.08, cosine).clamp(min=0)
            jitter = tuple(_JITTER * x for x in shots.draw_jitter(pixel, light.index))
            seen = shots.shadows.visibility(light.index, at.head, offset, 0.012, jitter)
            irradiance += _sum_lights(seen * wrapped, light)
            reflected = ggx(shade.normal, toward, light.directions, shade.roughness, shade.specular)
            reflected = torch.where(shiny & ~light.lamps, 0.0, reflected)
            gloss += _sum_lights(seen * reflected, light) * math.pi
        bounce = 0.22 * lights.total[at.head] / math.pi * 0.5
        irradiance += torch.where((is_skin | is_eye)[:, None], bounce, bounce * 0.8) * 0.6
        irradiance = self._diffuse(irradiance, pixel, is_skin, views)
        mirror = self._environment(shots.heads, of, views, shade.normal, toward)
        fresnel = (
            shade.specular
            + (1 - shade.specular) * (1 - (shade.normal * toward).sum(1).clamp(0, 1)) ** 5
        )
        gloss += torch.where(shiny[:, None], mirror * fresnel[:, None], 0.0)
        return shade.albedo * irradiance + torch.where(shiny[:, None], gloss.clamp(max=0.8), gloss)

    def _environment(
        self, heads: Sequence[Head], of: OfHeads, views: Views, normal: Tensor, toward: Tensor
    ) -> Tensor:
        """Return the radiance of the surroundings in the mirror's direction."""
        mirrored = 2 * (normal * toward).sum(1, keepdim=True) * normal - toward
        local = turn(mirrored, views.frames[of.head])
        top, bottom = (of([head.lighting.ambient[k] for head in heads]) for k in ("top", "bottom"))
        sky = torch.lerp(bottom, top, smoothstep(local[:, 1:2], -0.35, 0.45))
        return sky * (0.5 + 0.5 * smoothstep(local[:, 2:3], -0.2, 0.6))

    def _materials(self, heads: Sequence[Head], at: SurfaceSamples, of: OfHeads) -> Shade:
        count = len(at.position)
        shade = Shade(
            torch.zeros(count, 3, device=self.device),
            at.normal.clone(),
            torch.full((count,), 0.4, device=self.device),
            torch.full((count,), 0.04, device=self.device),
        )
        patterned: dict[str, Callable[..., Shade]] = {
            "skin": self._skin, "cloth": self._cloth, "eye": self._eye, "headwear": self._headwear,
        }  # fmt: skip
        for name, function in patterned.items():
            index = torch.nonzero(at.material == _NUMBER[name]).squeeze(1)
            if not len(index):
                continue
            some = SurfaceSamples(*(values[index] for values in vars(at).values()))
            part = function(heads, OfHeads(some.head), some)
            for target, values in zip(vars(shade).values(), vars(part).values(), strict=True):
                target[index] = values
        depth = smoothstep(at.rest[:, 2], 1.15, 1.5)[:, None]
        enamel = torch.tensor([0.72, 0.67, 0.57], device=self.device) * (0.15 + 0.85 * depth)
        frames = of([head.wear.frame_color for head in heads])
        plain: tuple[tuple[str, Tensor | Color, float, float], ...] = (
            ("teeth", enamel, 0.3, 0.04),
            ("tongue", (0.30, 0.09, 0.08), 0.35, 0.03),
            ("frame", frames, 0.25, 0.06),
            ("lens", (0.006, 0.006, 0.007), 0.2, 0.03),
            ("jewel", (0.55, 0.40, 0.16), 0.2, 0.6),
        )
        for name, color, rough, specular in plain:
            here = at.material == _NUMBER[name]
            color = color if isinstance(color, Tensor) else torch.tensor(color, device=self.device)
            shade.albedo = torch.where(here[:, None], color, shade.albedo)
            shade.roughness = torch.where(here, rough, shade.roughness)
            shade.specular = torch.where(here, specular, shade.specular)
        return shade

    def _skin(self, heads: Sequence[Head], of: OfHeads, at: SurfaceSamples) -> Shade:
        looks, masks = [head.skin for head in heads], self.mesh.sample_masks(at.uv)
        return materials.skin(looks, of, at.rest, at.uv, at.normal, masks, self.noise)

    def _cloth(self, heads: Sequence[Head], of: OfHeads, at: SurfaceSamples) -> Shade:
        worn = [head.wear for head in heads]
        field = _field_of_kinds(of, [each.clothes for each in worn], at.rest, wear.collar_field)
        offsets = [head.skin.offset for head in heads]
        return materials.cloth(worn, offsets, of, field, at.rest, at.normal, self.noise)

    def _eye(self, heads: Sequence[Head], of: OfHeads, at: SurfaceSamples) -> Shade:
        colors, seeds = [head.eyes.color for head in heads], [head.skin.offset for head in heads]
        return materials.eye(colors, seeds, of, at.rest, at.normal, self.noise)

    def _headwear(self, heads: Sequence[Head], of: OfHeads, at: SurfaceSamples) -> Shade:
        worn = [head.wear for head in heads]
        kinds = [each.headwear for each in worn]
        field = _field_of_kinds(of, kinds, at.rest, wear.headwear_field)
        return materials.headwear(worn, of, at.rest, field, at.normal, self.noise)

    def _diffuse(self, irradiance: Tensor, pixel: Tensor, is_skin: Tensor, views: Views) -> Tensor:
        """Blur the skin's part of the irradiance (p, 3); the rest is unchanged."""
        size, count = views.size, len(views.scales)
        layers = torch.zeros(count * size * size, 4, device=self.device)
        layers[pixel] = F.pad(irradiance, (0, 1), value=1.0) * is_skin[:, None]
        layers = layers.view(count, size, size, 4).permute(0, 3, 1, 2).contiguous()
        weights = torch.tensor(_DIFFUSION, device=self.device).T
        result = irradiance * weights[0]
        for weight, sigma in zip(weights[1:], _DIFFUSION_SIGMA, strict=True):
            blurred = blur(layers, [max(sigma * scale, 0.5) for scale in views.scales])
            values = blurred.permute(0, 2, 3, 1).reshape(-1, 4)[pixel]
            result += values[:, :3] / values[:, 3:].clamp(min=1e-3) * weight
        return torch.where(is_skin[:, None], result, irradiance)

    def hair(
        self, shots: Shots, strands: Hair, pixel: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the radiance (p, 3) and opacity (p, 1) of points of hair at pixels (p,).

        Args:
            index: (p,), of the points.
        """
        views, lights, shadows = shots.views, shots.lights, shots.shadows
        head = pixel // views.size**2
        position, tangent, color, opacity = strands.points_at(index)
        toward = F.normalize(views.origins[head] - position, dim=1)
        outward = F.normalize(position - shadows.centers[head], dim=1)
        tv = (tangent * toward).sum(1)
        sin_tv = (1 - tv * tv).clamp(min=0).sqrt()
        first = F.normalize(tangent - 0.12 * outward, dim=1)
        second = F.normalize(tangent + 0.18 * outward, dim=1)
        result = 0.05 * color * lights.total[head]
        bright = color.clamp(0, 1) ** 0.75
        lobes = ((first, 42.0, 0.075, torch.ones_like(bright)), (second, 13.0, 0.34, bright))
        for light in lights.of_pixels(head, pixel % views.size**2, views.size):
            seen = shadows.visibility(light.index, head, position, 0.03)
            tl = (light.directions * tangent).sum(2)
            sin_tl = (1 - tl * tl).clamp(min=0).sqrt()
            side = (0.35 + 0.65 * (light.directions * outward).sum(2)).clamp(min=0)
            result += color * _sum_lights(seen * 0.62 * sin_tl * side, light)
            sharp = torch.where(light.lamps, 1.0, 0.35)
            lit = seen * sharp * (side > 0) * sin_tv * opacity**2  # fine hair shines less
            for axis, power, strength, tint in lobes:
                al, av = (light.directions * axis).sum(2), (axis * toward).sum(1)
                cosine = (1 - al * al).clamp(min=0).sqrt() * (1 - av * av).clamp(min=0).sqrt()
                lobe = (cosine - al * av).clamp(min=0) ** power
                result += tint * _sum_lights(strength * lobe * lit, light)
        return result, opacity[:, None]

    def add_lenses(self, shots: Shots, image: Tensor, lenses: Scene, depth: Tensor) -> None:
        """Lay clear lenses over the image: a slight tint and the reflection of the surroundings."""
        views, lights = shots.views, shots.lights
        pixel = torch.nonzero(lenses.depth < depth).squeeze(1)
        at = lenses.attributes(pixel)
        toward = F.normalize(views.origins[at.head] - at.position, dim=1)
        normal = at.normal * torch.sign((at.normal * toward).sum(1, keepdim=True))
        mirror = self._environment(shots.heads, OfHeads(at.head), views, normal, toward)
        rough = torch.full_like(at.position[:, 0], 0.16)
        directions = lights.directions[at.head].transpose(0, 1)
        glint = ggx(normal, toward, directions, rough, torch.full_like(rough, 0.04))
        number = torch.arange(len(directions), device=self.device)[:, None]
        glint = glint * (number < lights.lamps[at.head])
        mirror = mirror + (glint[..., None] * lights.colors[at.head].transpose(0, 1)).sum(0) * 8
        image[pixel] = image[pixel] * 0.94 + 0.05 * mirror


def _sum_lights(amount: Tensor, light: Incident) -> Tensor:
    """Return the radiance (p, 3) of n lights of each pixel in the amounts (n, p)."""
    return (amount[..., None] * light.radiance).sum(0)


def _field_of_kinds(
    of: OfHeads, kinds: Sequence[str], rest: Tensor, field: Callable[[Tensor, str], Tensor]
) -> Tensor:
    """Return a field (p,) that depends on what kind of thing each pixel's head wears."""
    result = torch.zeros_like(rest[:, 0])
    for kind in sorted(set(kinds) - {""}):
        result = torch.where(of.select(kinds, kind), field(rest, kind), result)
    return result
