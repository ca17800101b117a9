"""Shading: what light makes of the visible surfaces, hair and lenses.

Light that enters the skin leaves it nearby, redder: the skin's irradiance is blurred in the image,
more in red (d'Eon and Luebke, GPU Gems 3, chapter 14). Hair follows Kajiya and Kay (1989) with a
second, colored highlight (Marschner et al. 2003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people import hair, materials, wear
from domains.people.background import blur
from domains.people.head import Head
from domains.people.lighting import Light, Shadows, ggx
from domains.people.materials import Noise, Shade
from domains.people.mesh import HeadMesh
from domains.people.rasterizer import draw_triangles, interpolate_at, unpack_depth
from domains.people.scene import Scene, SurfaceSamples, View
from domains.people.strands import Strands, points_at

_DIFFUSION = ((0.30, 0.32, 0.38), (0.55, 0.33, 0.12), (0.72, 0.24, 0.04))  # none, near, far
_DIFFUSION_SIGMA = (0.015, 0.05)  # near and far, decimeters


@dataclass
class Hair:
    """Strands of several kinds, with their colors (3,) and how many points a strand has.

    Point i of strand s of a kind has the index `firsts` + s * steps + i.
    """

    strands: list[Strands]
    colors: list[Tensor]
    steps: list[int]

    @property
    def firsts(self) -> list[int]:
        """The index of each kind's first point, and in the end the number of points."""
        firsts = [0]
        for strands, steps in zip(self.strands, self.steps, strict=True):
            firsts.append(firsts[-1] + len(strands.nodes) * steps)
        return firsts

    def points_at(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions, unit tangents and colors (p, 3) of points with indices (p,)."""
        results = [torch.empty(len(index), 3, device=index.device) for _ in range(3)]
        for k, first in enumerate(self.firsts[:-1]):
            here = torch.nonzero((index >= first) & (index < self.firsts[k + 1])).squeeze(1)
            strand = (index[here] - first).div(self.steps[k], rounding_mode="floor")
            step = (index[here] - first) % self.steps[k]
            points = points_at(self.strands[k], self.steps[k], strand, step)
            colors = self.colors[k] * self.strands[k].tones[strand, None]
            for result, values in zip(results, (*points, colors), strict=True):
                result[here] = values
        return results[0], results[1], results[2]


@dataclass
class Shot:
    """What all shading of a photo shares."""

    head: Head
    view: View
    light: Light
    shadows: Shadows


class Shader:
    """Shades pixels of heads on a device."""

    def __init__(self, mesh: HeadMesh, noise: Noise) -> None:
        self.mesh, self.noise, self.device = mesh, noise, mesh.device

    def surfaces(self, shot: Shot, scene: Scene, pixel: Tensor) -> Tensor:
        """Return the radiance (p, 3) of the surfaces at pixels (p,)."""
        head, view, light, shadows = shot.head, shot.view, shot.light, shot.shadows
        at = scene.attributes(pixel)
        toward = F.normalize(view.origin - at.position, dim=1)
        facing = torch.sign((at.normal * toward).sum(1, keepdim=True))
        normal = at.normal * torch.where(facing == 0, torch.ones_like(facing), facing)
        shade = self._materials(head, at, normal)
        is_skin, is_eye = at.material == 0, at.material == 2
        soft = is_skin | is_eye
        irradiance = torch.zeros_like(at.position)
        gloss = torch.zeros_like(at.position)
        shiny = (at.material >= 6) | is_eye
        offset = at.position + normal * 0.012
        for some, here, weight in light.batches(pixel, view.size):
            directions, radiance = light.directions[some], light.colors[some] * weight
            normal = shade.normal[here]
            cosine = directions @ normal.T
            wrapped = torch.where(is_skin[here], (cosine + 0.08) / 1.08, cosine).clamp(min=0)
            seen = shadows.visibility(some, offset[here], 0.012, 1.6)
            irradiance[here] += (seen * wrapped).T @ radiance
            reflected = ggx(
                normal, toward[here], directions, shade.roughness[here], shade.specular[here]
            )
            mirrors_only_lamps = shiny[here] & (some >= light.lamps)[:, None]
            reflected = torch.where(mirrors_only_lamps, 0.0, reflected)
            gloss[here] += (seen * reflected).T @ radiance * math.pi
        bounce = 0.22 * light.colors.sum(0) / math.pi * 0.5
        irradiance += torch.where(soft[:, None], bounce, bounce * 0.8) * 0.6
        if bool(is_skin.any()):
            irradiance[is_skin] = self._diffuse(irradiance, pixel, is_skin, view)
        mirror = self._environment(head, view, shade.normal, toward)
        fresnel = (
            shade.specular
            + (1 - shade.specular) * (1 - (shade.normal * toward).sum(1).clamp(0, 1)) ** 5
        )
        gloss += torch.where(shiny[:, None], mirror * fresnel[:, None], 0.0)
        return shade.albedo * irradiance + torch.where(shiny[:, None], gloss.clamp(max=0.8), gloss)

    def _environment(self, head: Head, view: View, normal: Tensor, toward: Tensor) -> Tensor:
        """Return the radiance of the surroundings in the mirror's direction."""
        mirrored = 2 * (normal * toward).sum(1, keepdim=True) * normal - toward
        local = mirrored @ view.frame.T
        top, bottom = (
            torch.tensor(head.lighting.ambient[k], device=self.device) for k in ("top", "bottom")
        )
        sky = torch.lerp(bottom, top, hair.smoothstep(local[:, 1:2], -0.35, 0.45))
        return sky * (0.5 + 0.5 * hair.smoothstep(local[:, 2:3], -0.2, 0.6))

    def _materials(self, head: Head, at: SurfaceSamples, normal: Tensor) -> Shade:
        count = len(at.position)
        shade = Shade(
            torch.zeros(count, 3, device=self.device),
            normal.clone(),
            torch.full((count,), 0.4, device=self.device),
            torch.full((count,), 0.04, device=self.device),
        )

        def put(mask: Tensor, part: Shade) -> None:
            shade.albedo[mask], shade.normal[mask] = part.albedo, part.normal
            shade.roughness[mask], shade.specular[mask] = part.roughness, part.specular

        mask = at.material == 0
        masks = self.mesh.sample_masks(at.uv[mask])
        put(
            mask,
            materials.skin(head.skin, at.rest[mask], at.uv[mask], normal[mask], masks, self.noise),
        )
        mask = at.material == 1
        rest = at.rest[mask]
        colors = [
            torch.tensor(c, device=self.device)
            for c in (head.wear.clothes_color, head.wear.second_color)
        ]
        field = wear.collar_field(rest, head.wear.clothes)
        flat = torch.stack([rest[:, 0] * 0.25 + rest[:, 2] * 0.1, rest[:, 1] * 0.25], 1)
        put(
            mask,
            materials.cloth(
                *colors,
                head.wear.pattern,
                field,
                rest,
                flat,
                normal[mask],
                self.noise,
                head.skin.offset,
            ),
        )
        mask = at.material == 2
        put(
            mask,
            materials.eye(
                head.eyes.color, head.skin.offset, at.rest[mask], normal[mask], self.noise
            ),
        )
        mask = at.material == 5
        if bool(mask.any()):
            rest = at.rest[mask]
            field = wear.headwear_field(rest, head.wear.headwear)
            color = torch.tensor(head.wear.headwear_color, device=self.device)
            put(
                mask,
                materials.headwear(
                    color, head.wear.headwear, rest, field, at.uv[mask], normal[mask], self.noise
                ),
            )
        mask = at.material == 3
        depth = hair.smoothstep(at.rest[:, 2], 1.15, 1.5)
        enamel = torch.tensor([0.72, 0.67, 0.57], device=self.device)
        shade.albedo = torch.where(
            mask[:, None], enamel * (0.15 + 0.85 * depth[:, None]), shade.albedo
        )
        shade.roughness[mask] = 0.3
        for material, color, rough, specular in (
            (4, (0.30, 0.09, 0.08), 0.35, 0.03),
            (6, head.wear.frame_color, 0.25, 0.06),
            (7, (0.006, 0.006, 0.007), 0.2, 0.03),
            (8, (0.55, 0.40, 0.16), 0.2, 0.6),
        ):
            mask = at.material == material
            shade.albedo[mask] = torch.tensor(color, device=self.device)
            shade.roughness[mask], shade.specular[mask] = rough, specular
        return shade

    def _diffuse(self, irradiance: Tensor, pixel: Tensor, is_skin: Tensor, view: View) -> Tensor:
        """Blur the skin's irradiance (p, 3) and return that of the skin's pixels."""
        size = view.size
        layers = torch.zeros(4, size * size, device=self.device)
        where = pixel[is_skin]
        layers[:3, where] = irradiance[is_skin].T
        layers[3, where] = 1.0
        layers = layers.view(1, 4, size, size)
        result = irradiance[is_skin] * torch.tensor(
            [row[0] for row in _DIFFUSION], device=self.device
        )
        for band, sigma in enumerate(_DIFFUSION_SIGMA, 1):
            blurred = blur(layers, max(sigma * view.scale, 0.5)).view(4, -1)[:, where]
            weight = torch.tensor([row[band] for row in _DIFFUSION], device=self.device)
            result += (blurred[:3] / blurred[3].clamp(min=1e-3)).T * weight
        return result

    def hair(self, shot: Shot, strands: Hair, pixel: Tensor, index: Tensor) -> Tensor:
        """Return the radiance (p, 3) of the points of hair with the indices (p,) at pixels (p,)."""
        view, light, shadows = shot.view, shot.light, shot.shadows
        position, tangent, color = strands.points_at(index)
        toward = F.normalize(view.origin - position, dim=1)
        outward = F.normalize(position - shadows.center, dim=1)
        tv = (tangent * toward).sum(1)
        sin_tv = (1 - tv * tv).clamp(min=0).sqrt()
        first = F.normalize(tangent - 0.12 * outward, dim=1)
        second = F.normalize(tangent + 0.18 * outward, dim=1)
        result = 0.05 * color * light.colors.sum(0)
        bright = color.clamp(0, 1) ** 0.75
        lobes = [
            (axis, (axis * toward).sum(1), power, strength)
            for axis, power, strength in ((first, 42.0, 0.075), (second, 13.0, 0.34))
        ]
        for some, here, weight in light.batches(pixel, view.size):
            directions, radiance = light.directions[some], light.colors[some] * weight
            seen = shadows.visibility(some, position[here], 0.03, 0.0)
            tl = directions @ tangent[here].T
            sin_tl = (1 - tl * tl).clamp(min=0).sqrt()
            side = (0.35 + 0.65 * (directions @ outward[here].T)).clamp(min=0)
            total = color[here] * ((seen * 0.62 * sin_tl * side).T @ radiance)
            sharp = torch.where(some < light.lamps, 1.0, 0.35)[:, None]
            lit = seen * sharp * (side > 0) * sin_tv[here]
            for (axis, along_view, power, strength), tint in zip(
                lobes, (1.0, bright[here]), strict=True
            ):
                al, av = directions @ axis[here].T, along_view[here]
                cosine = (1 - al * al).clamp(min=0).sqrt() * (1 - av * av).clamp(min=0).sqrt()
                lobe = (cosine - al * av).clamp(min=0) ** power
                total += tint * ((strength * lobe * lit).T @ radiance)
            result[here] += total
        return result

    def add_lens(self, shot: Shot, image: Tensor, lens: wear.Surface, depth: Tensor) -> None:
        """Lay clear lenses over the image: a slight tint and the reflection of the surroundings."""
        head, view, light = shot.head, shot.view, shot.light
        points = view.project(lens.positions)
        keys = draw_triangles(points[None], lens.triangles, view.size)[0]
        pixel = torch.nonzero(unpack_depth(keys) < depth).squeeze(1)
        triangle = keys[pixel] & 0xFFFFFFFF
        weights = interpolate_at(points, lens.triangles, view.size, pixel, triangle)
        position = (lens.positions[lens.triangles[triangle]] * weights[..., None]).sum(1)
        normal = F.normalize(
            (lens.normals[lens.triangles[triangle]] * weights[..., None]).sum(1), dim=1
        )
        toward = F.normalize(view.origin - position, dim=1)
        normal = normal * torch.sign((normal * toward).sum(1, keepdim=True))
        mirror = self._environment(head, view, normal, toward)
        rough = torch.full_like(position[:, 0], 0.16)
        lamps = light.directions[: light.lamps]
        glint = ggx(normal, toward, lamps, rough, torch.full_like(rough, 0.04))
        mirror = mirror + glint.T @ light.colors[: light.lamps] * 8
        image[pixel] = image[pixel] * 0.94 + 0.05 * mirror
