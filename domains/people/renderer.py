"""The renderer: builds a head, draws what is visible, lights it and develops it as a photo.

Deferred shading at twice the resolution: one pass finds the visible surface of every pixel, then
each light adds to all pixels, with shadow maps for solid parts and translucent hair. Light that
enters the skin leaves it nearby, redder: the skin's irradiance is blurred in the image, more in
red (d'Eon and Luebke, GPU Gems 3, chapter 14). Hair follows Kajiya and Kay (1989) with a second,
colored highlight (Marschner et al. 2003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people import hair, materials, wear
from domains.people.background import blur, draw_background
from domains.people.hairstyles import dress_hair
from domains.people.head import Head
from domains.people.landmarks import landmark_vertices
from domains.people.lighting import Light, Shadows, ggx, spread_lamp, surroundings
from domains.people.materials import Noise, Shade
from domains.people.mesh import BODY, TEETH, TONGUE, HeadMesh, vertex_normals
from domains.people.rasterizer import (
    EMPTY,
    draw_points,
    draw_triangles,
    interpolate_at,
    unpack_depth,
)

SUPERSAMPLING = 2
_DIFFUSION = ((0.30, 0.32, 0.38), (0.55, 0.33, 0.12), (0.72, 0.24, 0.04))  # none, near, far
_DIFFUSION_SIGMA = (0.015, 0.05)  # near and far, decimeters


@dataclass
class Quality:
    """What trades looks for time."""

    surrounding_lights: int = 20
    shadow_size: int = 512
    strands: int = 26_000


@dataclass
class Photo:
    """A rendered photo: uint8 RGB (size, size, 3), and the landmarks (68, 2) in pixels."""

    pixels: Tensor
    landmarks: Tensor


@dataclass
class _View:
    """A camera's frame: rows right, up, backward; and its origin and focal length in pixels."""

    frame: Tensor
    origin: Tensor
    focal: float
    size: int
    shift: tuple[float, float]
    scale: float  # pixels to a decimeter at the head

    def project(self, points: Tensor) -> Tensor:
        """Return pixel coordinates and depth (n, 3) of points (n, 3)."""
        local = (points - self.origin) @ self.frame.T
        depth = -local[:, 2]
        x = local[:, 0] / depth * self.focal + self.size * (0.5 + self.shift[0])
        y = -local[:, 1] / depth * self.focal + self.size * (0.5 + self.shift[1])
        return torch.stack([x, y, depth], 1)


@dataclass
class _Hair:
    """Hair as points."""

    points: Tensor
    tangents: Tensor
    colors: Tensor


class Renderer:
    """Renders heads on a device. Everything that is the same for all heads is prepared once."""

    def __init__(self, mesh: HeadMesh, quality: Quality | None = None) -> None:
        self.mesh, self.device = mesh, mesh.device
        self.quality = quality or Quality()
        self.noise = Noise(self.device)
        self.landmarks = landmark_vertices(mesh)
        body = mesh.parts[BODY]
        self.vertex_masks = self._vertex_masks()
        rest = body.rest[body.triangles].mean(1)
        ears = self.vertex_masks[body.triangles, 2].amax(1)
        lips = self.vertex_masks[body.triangles, 0].amax(1)
        outer = self._outer_triangles()
        scalp = (hair.scalp_field(rest) > -0.15) & (ears < 0.3) & (rest[:, 1] > 6.3) & outer
        self.scalp = hair.Roots(mesh, self.quality.strands, scalp.float())
        near_brow = (rest[:, 0].abs() < 0.65) & (rest[:, 1] > 7.3) & (rest[:, 1] < 7.7)
        near_brow &= rest[:, 2] > 1.0
        self.brow = hair.Roots(mesh, 12000, near_brow.float() * outer)
        bearded = (rest[:, 1] > 5.95) & (rest[:, 1] < 7.3) & (rest[:, 2] > 0.55) & (ears < 0.3)
        self.beard = hair.Roots(mesh, 26000, (bearded & (lips < 0.6)).float() * outer)
        self.ear_tips = self._nearest([(0.79, 7.25, 0.45), (-0.79, 7.25, 0.45)])
        self.lobes = self._nearest([(0.78, 6.86, 0.58), (-0.78, 6.86, 0.58)])
        self.lash_lines = mesh.lash_rows

    def _vertex_masks(self) -> Tensor:
        """Return the masks (v, 4) at the body's vertices."""
        body = self.mesh.parts[BODY]
        masks = torch.zeros(len(body.rest), 4, device=self.device)
        sampled = self._sample_masks(body.uvs)
        for corner in range(3):
            masks[body.triangles[:, corner]] = sampled[body.uv_triangles[:, corner]]
        return masks

    def _outer_triangles(self) -> Tensor:
        """Return which triangles of the body face away from the inside of the head."""
        body = self.mesh.parts[BODY]
        a, b, c = body.rest[body.triangles].unbind(1)
        normal = torch.linalg.cross(b - a, c - a)
        center = torch.tensor([0.0, 7.0, 0.6], device=self.device)
        return ((a - center) * normal).sum(1) > 0

    def _sample_masks(self, uv: Tensor) -> Tensor:
        grid = torch.stack([uv[:, 0] * 2 - 1, 1 - uv[:, 1] * 2], 1)
        sampled = F.grid_sample(self.mesh.masks[None], grid[None, None], align_corners=False)
        return sampled[0, :, 0].T

    def _nearest(self, points: list[tuple[float, float, float]]) -> Tensor:
        target = torch.tensor(points, device=self.device)
        return torch.cdist(target, self.mesh.parts[BODY].rest).argmin(1)

    def render(self, head: Head, size: int) -> Photo:
        """Render one photo of `size` pixels squared."""
        generator = torch.Generator(self.device).manual_seed(head.seed)
        vertices = self.mesh.deform(head.targets)
        body = self.mesh.parts[BODY]
        positions = body.positions(vertices)
        normals = vertex_normals(positions, body.triangles)
        face = self._fit_face(vertices, positions)
        surfaces = self._build_surfaces(head, vertices, positions, normals, face)
        lens = None
        if head.glasses:
            front = self._front_of_eyes(positions, face)
            ears = positions[self.ear_tips]
            frame, lens = wear.glasses(head.glasses, face, front, ears)
            surfaces.append(frame)
            if head.glasses == "sunglasses":
                surfaces.append(lens)
                lens = None
        view = self._place_camera(head, face, size * SUPERSAMPLING)
        strands = self._grow_hair(head, positions, normals, face, vertices, generator)
        points = self._hair_points(strands, view)
        light = self._place_lights(head, view)
        shadows = self._cast_shadows(light, face, surfaces, strands)
        pixels = self._shade(head, view, surfaces, points, light, shadows, lens, generator)
        photo = self._develop(head, pixels, size, generator)
        landmarks = view.project(positions[self.landmarks])[:, :2] / SUPERSAMPLING
        return Photo(photo, landmarks)

    def _fit_face(self, vertices: Tensor, positions: Tensor) -> hair.Face:
        eyes = [vertices[index] for index in self.mesh.eye_vertices]
        centers = torch.stack([(e.amin(0) + e.amax(0)) / 2 for e in eyes])
        radius = float((eyes[0][:, 0].amax() - eyes[0][:, 0].amin()) / 2)
        marks = positions[self.landmarks]
        skull = hair.scalp_field(self.mesh.parts[BODY].rest) > 0.1
        top = positions[skull]
        low, high = top.amin(0), top.amax(0)
        center = torch.stack(
            [torch.zeros((), device=self.device), centers[0, 1] + 0.11, (low[2] + high[2]) / 2]
        )
        return hair.Face(centers, radius, float(marks[17:27, 1].mean()), float(marks[8, 1]), center)

    def _front_of_eyes(self, positions: Tensor, face: hair.Face) -> float:
        """Return how far forward brows and cheeks reach where glasses sit."""
        x, y = positions[:, 0].abs(), positions[:, 1] - float(face.eyes[0, 1])
        near = (x > 0.13) & (x < 0.62) & (y.abs() < 0.24)
        return float(positions[near][:, 2].amax())

    def _build_surfaces(
        self, head: Head, vertices: Tensor, positions: Tensor, normals: Tensor, face: hair.Face
    ) -> list[wear.Surface]:
        body = self.mesh.parts[BODY]
        uvs = body.uvs[body.uv_triangles]
        surfaces = [
            wear.Surface("skin", positions, normals, body.triangles, body.rest, uvs=uvs),
            wear.cloth(head.clothes, body.rest, positions, normals, body.triangles),
        ]
        x, y = head.gaze
        gaze = F.normalize(torch.tensor([x, y, 1.0], device=self.device), dim=0)
        surfaces += [wear.eyeball(eye, face.eye_radius, gaze) for eye in face.eyes]
        for name in (*TEETH, TONGUE):
            part = self.mesh.parts[name]
            points = part.positions(vertices)
            material = "tongue" if name == TONGUE else "teeth"
            surfaces.append(
                wear.Surface(
                    material,
                    points,
                    vertex_normals(points, part.triangles),
                    part.triangles,
                    part.rest,
                )
            )
        if head.headwear:
            surfaces += wear.headwear(head.headwear, body.rest, positions, normals, body.triangles)
        if head.earrings:
            surfaces.append(wear.earrings(positions[self.lobes], head.earrings == "hoops"))
        return surfaces

    def _place_camera(self, head: Head, face: hair.Face, size: int) -> _View:
        camera = head.camera
        focus = torch.stack([face.center[0], face.eyes[0, 1] - 0.25, face.center[2] + 0.35])
        cp, sp = math.cos(camera.pitch), math.sin(camera.pitch)
        back = torch.tensor([math.sin(camera.yaw) * cp, sp, math.cos(camera.yaw) * cp])
        right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), back), dim=0)
        up = torch.linalg.cross(back, right)
        c, s = math.cos(camera.roll), math.sin(camera.roll)
        frame = torch.stack([c * right + s * up, c * up - s * right, back]).to(self.device)
        origin = focus + frame[2] * camera.distance
        focal = size * camera.distance / camera.height
        return _View(frame, origin, focal, size, camera.shift, size / camera.height)

    def _grow_hair(
        self,
        head: Head,
        positions: Tensor,
        normals: Tensor,
        face: hair.Face,
        vertices: Tensor,
        generator: torch.Generator,
    ) -> list[tuple[hair.Strands, Tensor]]:
        grown = []
        color = torch.tensor(head.hair_color, device=self.device)
        if head.hair_style:
            body_part = self.mesh.parts[BODY].rest[:, 1] > 4.6
            surface = hair.HeadSurface(positions[body_part], face.center)
            cover = None
            if head.headwear:
                cover = wear.headwear_field(self.scalp.rest, head.headwear)
            strands = dress_hair(
                head.hair_style,
                head.hair_length,
                head.part,
                head.fringe,
                head.skin.recession,
                cover,
                self.scalp,
                positions,
                normals,
                surface,
                face,
                generator,
            )
            grown.append((strands, color))
        brow = self._grow_brows(head, positions, normals, generator)
        grown.append((brow, torch.tensor(head.brow_color, device=self.device)))
        if head.beard and head.beard != "stubble":
            beard = self._grow_beard(head, positions, normals, generator)
            grown.append((beard, torch.tensor(head.beard_color, device=self.device)))
        grown.append(
            (self._grow_lashes(head, vertices, face), torch.full((3,), 0.01, device=self.device))
        )
        return grown

    def _select(
        self,
        roots: hair.Roots,
        density: Tensor,
        positions: Tensor,
        normals: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.rand(len(density), generator=generator, device=self.device) < density
        normal = F.normalize(roots.interpolate(normals)[chosen], dim=1)
        return roots.interpolate(positions)[chosen], normal, roots.rest[chosen]

    def _straight(
        self,
        start: Tensor,
        directions: Tensor,
        lengths: Tensor,
        bend: Tensor,
        nodes: int,
        generator: torch.Generator,
    ) -> hair.Strands:
        """Return short strands that bend toward `bend` (n, 3)."""
        t = torch.linspace(0, 1, nodes, device=self.device)[None, :, None]
        path = directions[:, None] * t + bend[:, None] * t * t
        points = start[:, None] + path * lengths[:, None, None]
        tones = 1 + 0.2 * torch.randn(len(start), generator=generator, device=self.device)
        return hair.Strands(points, tones.clamp(0.5, 1.6), torch.ones_like(tones))

    def _grow_brows(
        self, head: Head, positions: Tensor, normals: Tensor, generator: torch.Generator
    ) -> hair.Strands:
        density = hair.brow_field(self.brow.rest, head.brow_thickness, head.brow_height)
        start, normal, rest = self._select(self.brow, density * 0.95, positions, normals, generator)
        x = rest[:, 0]
        outward = hair.smoothstep(x.abs(), 0.08, 0.3)
        rise = 0.95 - 1.35 * hair.smoothstep(x.abs(), 0.1, 0.45)
        along = torch.stack([torch.sign(x) * (0.25 + outward), rise, -0.3 * outward], 1)
        along = along + 0.22 * torch.randn(along.shape, generator=generator, device=self.device)
        directions = F.normalize(F.normalize(along, dim=1) + 0.22 * normal, dim=1)
        lengths = 0.050 * (0.6 + 0.6 * torch.rand(len(x), generator=generator, device=self.device))
        return self._straight(start, directions, lengths, -0.15 * normal, 4, generator)

    def _grow_beard(
        self, head: Head, positions: Tensor, normals: Tensor, generator: torch.Generator
    ) -> hair.Strands:
        masks = self.beard.interpolate(self.vertex_masks)
        density = hair.beard_field(self.beard.rest, masks[:, 0], head.beard)
        clumps = self.noise(self.beard.rest[:, :2] * 0.5 + self.beard.rest[:, 2:] * 0.21, 1.3, [2])[
            :, 0
        ]
        density = density * (0.75 + 0.25 * clumps.clamp(-1, 1))
        start, normal, rest = self._select(self.beard, density, positions, normals, generator)
        upper = hair.smoothstep(rest[:, 1], 6.6, 6.7) * hair.smoothstep(rest[:, 2], 1.2, 1.4)
        x = rest[:, 0]
        down = torch.stack([0.25 * x, -1.0 + 0 * x, 0.15 + 0 * x], 1)
        sideways = torch.stack(
            [torch.sign(x) * (0.3 + 2.0 * x.abs()), -0.9 + 0 * x, 0.1 + 0 * x], 1
        )
        along = F.normalize(torch.lerp(down, sideways, upper[:, None]), dim=1)
        swirl = self.noise(rest[:, :2] * 0.4 + rest[:, 2:] * 0.1, 1.0, [0, 1])
        jitter = torch.randn(along.shape, generator=generator, device=self.device)
        directions = F.normalize(along + 0.55 * normal + 0.22 * jitter, dim=1)
        directions = F.normalize(directions + 0.2 * F.pad(swirl, (0, 1)), dim=1)
        center = 0.55 + 0.45 * hair.smoothstep(-rest[:, 1], -6.6, -6.3) * hair.smoothstep(
            rest[:, 2], 0.8, 1.3
        )
        lengths = head.beard_length * torch.lerp(center, torch.full_like(center, 0.5), upper)
        lengths = lengths.clamp(max=0.5)
        lengths = lengths * (
            0.6 + 0.6 * torch.rand(len(x), generator=generator, device=self.device)
        )
        lengths = lengths.clamp(min=0.02) * (1 - 0.25 * upper)
        bend = -0.25 * normal + 0.2 * along
        return self._straight(start, directions, lengths, bend, 7, generator)

    def _grow_lashes(self, head: Head, vertices: Tensor, face: hair.Face) -> hair.Strands:
        nodes = []
        for index, (roots, tips) in enumerate(self.lash_lines):
            upper = index % 2 == 1
            count = 64 if upper else 40
            a, b = (self._along(vertices[ids], count) for ids in (roots, tips))
            t = torch.linspace(0, 1, 5, device=self.device)[None, :, None]
            reach = head.lash_length * (1.0 if upper else 0.55)
            path = a[:, None] + (b - a)[:, None] * t * reach
            path[..., 1] += (0.018 if upper else -0.004) * reach * t[..., 0] ** 2
            nodes.append(path)
        stack = torch.cat(nodes)
        ones = torch.ones(len(stack), device=self.device)
        return hair.Strands(stack, ones, ones)

    def _along(self, points: Tensor, count: int) -> Tensor:
        """Interpolate a row of points (n, 3) to `count` points."""
        t = torch.linspace(0, len(points) - 1 - 1e-4, count, device=self.device)
        i = t.long()
        return torch.lerp(points[i], points[i + 1], (t - i)[:, None])

    def _hair_points(self, grown: list[tuple[hair.Strands, Tensor]], view: _View) -> _Hair:
        spacing = 0.75 / view.scale
        parts = []
        for strands, color in grown:
            points, tangents, index = hair.strand_points(strands, spacing, 900)
            parts.append((points, tangents, color * strands.tones[index, None]))
        return _Hair(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _place_lights(self, head: Head, view: _View) -> Light:
        directions, colors = [], []
        for lamp in head.lamps:
            toward = torch.tensor(lamp.direction, device=self.device) @ view.frame
            d, c = spread_lamp(
                toward, torch.tensor(lamp.color, device=self.device), lamp.size, lamp.count
            )
            directions.append(d)
            colors.append(c)
        lamps = sum(len(d) for d in directions)
        around = [
            torch.tensor(head.ambient[k], device=self.device)
            for k in ("top", "bottom", "left", "right")
        ]
        d, c = surroundings(
            self.quality.surrounding_lights, *around, turn=float(head.seed % 628) / 100
        )
        directions.append(d @ view.frame)
        colors.append(c)
        return Light(torch.cat(directions), torch.cat(colors), lamps)

    def _cast_shadows(
        self,
        light: Light,
        face: hair.Face,
        surfaces: list[wear.Surface],
        grown: list[tuple[hair.Strands, Tensor]],
    ) -> Shadows:
        points, triangles, start = [], [], 0
        for surface in surfaces:
            if surface.material == "cloth":
                continue  # as good as on the skin, which casts its shadow
            used = surface.triangles
            if surface.keep is not None:
                used = used[(surface.keep[used] > 0).all(1)]
            points.append(surface.positions)
            triangles.append(used + start)
            start += len(surface.positions)
        texel = 4.6 / self.quality.shadow_size
        hairs = [
            hair.strand_points(
                hair.Strands(s.nodes[::2], s.tones[::2], s.fraction[::2]), 1.2 * texel, 300
            )[0]
            for s, _ in grown[:-1]
        ]
        center = face.center + torch.tensor([0.0, -0.45, 0.2], device=self.device)
        return Shadows(
            light,
            center,
            torch.cat(points),
            torch.cat(triangles),
            torch.cat(hairs),
            0.30,
            self.quality.shadow_size,
        )

    def _shade(
        self,
        head: Head,
        view: _View,
        surfaces: list[wear.Surface],
        strands: _Hair,
        light: Light,
        shadows: Shadows,
        lens: wear.Surface | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the linear image (3, size, size)."""
        size = view.size
        scene = _Scene(surfaces, view)
        hair_keys = draw_points(view.project(strands.points), size)
        is_hair = unpack_depth(hair_keys) < scene.depth + 0.004
        image = (
            draw_background(head.background, head.background_colors, size, head.seed, self.noise)
            .reshape(3, -1)
            .T.contiguous()
        )
        pixel = torch.nonzero((scene.keys != EMPTY) & ~is_hair).squeeze(1)
        color = self._shade_surfaces(head, view, scene, pixel, light, shadows, generator)
        image[pixel] = color
        pixel = torch.nonzero(is_hair).squeeze(1)
        image[pixel] = self._shade_hair(
            view, strands, hair_keys[pixel] & 0xFFFFFFFF, light, shadows
        )
        if lens is not None:
            depth = torch.minimum(scene.depth, unpack_depth(hair_keys))
            self._add_lens(image, view, lens, depth, light, head)
        return image.T.reshape(3, size, size)

    def _shade_surfaces(
        self,
        head: Head,
        view: _View,
        scene: _Scene,
        pixel: Tensor,
        light: Light,
        shadows: Shadows,
        generator: torch.Generator,
    ) -> Tensor:
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
        for index, (direction, radiance) in enumerate(
            zip(light.directions, light.colors, strict=True)
        ):
            cosine = shade.normal @ direction
            wrapped = torch.where(is_skin, (cosine + 0.08) / 1.08, cosine).clamp(min=0)
            jitter = torch.rand(len(pixel), 2, generator=generator, device=self.device) - 0.5
            offset = at.position + normal * 0.012
            seen = shadows.visibility(index, offset, 0.012, jitter * 1.6)
            irradiance += (seen * wrapped)[:, None] * radiance
            reflected = ggx(shade.normal, toward, direction, shade.roughness, shade.specular)
            if index >= light.lamps:
                reflected = torch.where(shiny, 0.0, reflected)
            gloss += (seen * reflected)[:, None] * radiance * math.pi
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
        return shade.albedo * irradiance + gloss

    def _environment(self, head: Head, view: _View, normal: Tensor, toward: Tensor) -> Tensor:
        """Return the radiance of the surroundings in the mirror's direction."""
        mirrored = 2 * (normal * toward).sum(1, keepdim=True) * normal - toward
        local = mirrored @ view.frame.T
        top, bottom = (torch.tensor(head.ambient[k], device=self.device) for k in ("top", "bottom"))
        sky = torch.lerp(bottom, top, hair.smoothstep(local[:, 1:2], -0.35, 0.45))
        return sky * (0.5 + 0.5 * hair.smoothstep(local[:, 2:3], -0.2, 0.6))

    def _materials(self, head: Head, at: _Attributes, normal: Tensor) -> Shade:
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
        masks = self._sample_masks(at.uv[mask])
        put(
            mask,
            materials.skin(head.skin, at.rest[mask], at.uv[mask], normal[mask], masks, self.noise),
        )
        mask = at.material == 1
        rest = at.rest[mask]
        colors = [
            torch.tensor(c, device=self.device) for c in (head.clothes_color, head.second_color)
        ]
        field = wear.collar_field(rest, head.clothes)
        flat = torch.stack([rest[:, 0] * 0.25 + rest[:, 2] * 0.1, rest[:, 1] * 0.25], 1)
        put(
            mask,
            materials.cloth(
                *colors, head.pattern, field, rest, flat, normal[mask], self.noise, head.skin.offset
            ),
        )
        mask = at.material == 2
        put(
            mask,
            materials.eye(
                head.eye_color, head.skin.offset, at.rest[mask], normal[mask], self.noise
            ),
        )
        mask = at.material == 5
        if bool(mask.any()):
            rest = at.rest[mask]
            field = wear.headwear_field(rest, head.headwear)
            color = torch.tensor(head.headwear_color, device=self.device)
            put(
                mask,
                materials.headwear(
                    color, head.headwear, rest, field, at.uv[mask], normal[mask], self.noise
                ),
            )
        mask = at.material == 3
        depth = hair.smoothstep(at.rest[:, 2], 1.15, 1.5)
        enamel = torch.tensor([0.72, 0.67, 0.57], device=self.device)
        shade.albedo = torch.where(
            mask[:, None], enamel * (0.15 + 0.85 * depth[:, None]), shade.albedo
        )
        shade.roughness[mask] = 0.22
        for material, color, rough, specular in (
            (4, (0.30, 0.09, 0.08), 0.35, 0.03),
            (6, head.frame_color, 0.25, 0.06),
            (7, (0.006, 0.006, 0.007), 0.12, 0.06),
            (8, (0.55, 0.40, 0.16), 0.2, 0.6),
        ):
            mask = at.material == material
            shade.albedo[mask] = torch.tensor(color, device=self.device)
            shade.roughness[mask], shade.specular[mask] = rough, specular
        return shade

    def _diffuse(self, irradiance: Tensor, pixel: Tensor, is_skin: Tensor, view: _View) -> Tensor:
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

    def _shade_hair(
        self, view: _View, strands: _Hair, index: Tensor, light: Light, shadows: Shadows
    ) -> Tensor:
        position, tangent, color = (
            strands.points[index],
            strands.tangents[index],
            strands.colors[index],
        )
        toward = F.normalize(view.origin - position, dim=1)
        outward = F.normalize(position - shadows.center, dim=1)
        tv = (tangent * toward).sum(1)
        sin_tv = (1 - tv * tv).clamp(min=0).sqrt()
        first = F.normalize(tangent - 0.12 * outward, dim=1)
        second = F.normalize(tangent + 0.18 * outward, dim=1)
        result = 0.05 * color * light.colors.sum(0)
        bright = color.clamp(0, 1) ** 0.75
        for number, (direction, radiance) in enumerate(
            zip(light.directions, light.colors, strict=True)
        ):
            seen = shadows.visibility(number, position, 0.03, torch.zeros_like(position[:, :2]))
            tl = tangent @ direction
            sin_tl = (1 - tl * tl).clamp(min=0).sqrt()
            side = (0.35 + 0.65 * (outward @ direction)).clamp(min=0)
            total = color * (0.62 * sin_tl * side)[:, None]
            for axis, power, strength, tinted in (
                (first, 42.0, 0.075, False),
                (second, 13.0, 0.34, True),
            ):
                al = axis @ direction
                av = (axis * toward).sum(1)
                cosine = (1 - al * al).clamp(min=0).sqrt() * (1 - av * av).clamp(
                    min=0
                ).sqrt() - al * av
                lobe = (
                    strength
                    * (1.0 if number < light.lamps else 0.35)
                    * cosine.clamp(min=0) ** power
                    * (side > 0)
                    * sin_tv
                )[:, None]
                total = total + (lobe * bright if tinted else lobe)
            result = result + seen[:, None] * total * radiance
        return result

    def _add_lens(
        self,
        image: Tensor,
        view: _View,
        lens: wear.Surface,
        depth: Tensor,
        light: Light,
        head: Head,
    ) -> None:
        """Lay clear lenses over the image: a slight tint and the reflection of the surroundings."""
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
        for direction, radiance in zip(light.directions[: light.lamps], light.colors, strict=False):
            rough = torch.full_like(position[:, 0], 0.16)
            glint = ggx(normal, toward, direction, rough, torch.full_like(rough, 0.04))
            mirror = mirror + glint[:, None] * radiance * 8
        image[pixel] = image[pixel] * 0.94 + 0.05 * mirror

    def _develop(self, head: Head, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Filter the linear image to `size`, expose it and encode it as sRGB."""
        kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], device=self.device) / 8
        kernel = (kernel[:, None] * kernel).repeat(3, 1, 1, 1)
        small = F.conv2d(
            F.pad(image[None].clamp(max=6), (1, 1, 1, 1), mode="replicate"),
            kernel,
            stride=2,
            groups=3,
        )
        balance = torch.tensor([1 + head.warmth, 1.0, 1 - head.warmth], device=self.device)
        linear = small[0] * balance[:, None, None] * head.exposure
        axis = torch.linspace(-1, 1, size, device=self.device)
        linear = linear * (1 - 0.10 * (axis[:, None] ** 2 + axis[None] ** 2))
        gray = linear.mean(0, keepdim=True)
        linear = (gray + 1.12 * (linear - gray)).clamp(min=0)
        toned = 1 - torch.exp(-1.5 * linear)  # a film's shoulder, and its toe
        toned = torch.lerp(toned, toned * toned * (3 - 2 * toned), 0.3)
        encoded = torch.where(
            toned < 0.0031308, 12.92 * toned, 1.055 * toned.clamp(min=1e-6) ** (1 / 2.4) - 0.055
        )
        grain = torch.randn(encoded.shape, generator=generator, device=self.device)
        encoded = encoded + head.grain * grain
        return (encoded.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0)


@dataclass
class _Attributes:
    """What is visible at pixels."""

    position: Tensor
    normal: Tensor
    rest: Tensor
    uv: Tensor
    material: Tensor


class _Scene:
    """All surfaces as one mesh, and the visible triangle of every pixel."""

    def __init__(self, surfaces: list[wear.Surface], view: _View) -> None:
        device = view.origin.device
        self.positions = torch.cat([s.positions for s in surfaces])
        self.normals = torch.cat([s.normals for s in surfaces])
        self.rest = torch.cat([s.rest for s in surfaces])
        keep = [
            torch.ones(len(s.positions), device=device) if s.keep is None else s.keep
            for s in surfaces
        ]
        triangles, materials_of, uvs, start = [], [], [], 0
        for surface in surfaces:
            count = len(surface.triangles)
            triangles.append(surface.triangles + start)
            start += len(surface.positions)
            number = wear.MATERIALS.index(surface.material)
            materials_of.append(torch.full((count,), number, device=device))
            uvs.append(
                surface.uvs if surface.uvs is not None else torch.zeros(count, 3, 2, device=device)
            )
        self.triangles, self.material = torch.cat(triangles), torch.cat(materials_of)
        self.uvs = torch.cat(uvs)
        self.size = view.size
        self.points = view.project(self.positions)
        self.keys = draw_triangles(self.points[None], self.triangles, view.size, torch.cat(keep))[0]
        self.depth = unpack_depth(self.keys)

    def attributes(self, pixel: Tensor) -> _Attributes:
        """Interpolate the visible surface at pixels (p,)."""
        triangle = self.keys[pixel] & 0xFFFFFFFF
        weights = interpolate_at(self.points, self.triangles, self.size, pixel, triangle)[..., None]
        corners = self.triangles[triangle]
        return _Attributes(
            (self.positions[corners] * weights).sum(1),
            F.normalize((self.normals[corners] * weights).sum(1), dim=1),
            (self.rest[corners] * weights).sum(1),
            (self.uvs[triangle] * weights).sum(1),
            self.material[triangle],
        )
