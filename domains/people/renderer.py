"""The renderer: builds a head, draws what is visible, lights it and develops it as a photo.

Deferred shading at twice the resolution: one pass finds the visible surface of every pixel, then
each light adds to all pixels, with shadow maps for solid parts and translucent hair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people import hair, wear
from domains.people.background import draw_background
from domains.people.facial_hair import FacialHair
from domains.people.hairstyles import Cut, dress_hair
from domains.people.head import Head
from domains.people.landmarks import landmark_vertices
from domains.people.lighting import Light, Shadows, spread_lamp, surroundings
from domains.people.materials import Noise
from domains.people.mesh import BODY, TEETH, TONGUE, HeadMesh, vertex_normals
from domains.people.rasterizer import EMPTY, unpack_depth
from domains.people.scene import Scene, View
from domains.people.shading import Hair, Shader, Shot
from domains.people.strands import Strands, count_steps, draw_strands_

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Quality:
    """What trades looks for time; `interleaved` is explained at `Light.batches`."""

    surrounding_lights: int = 20
    shadow_size: int = 512
    strands: int = 52_000
    interleaved: bool = True


@dataclass
class Photo:
    """A rendered photo: uint8 RGB (size, size, 3), and the landmarks (68, 2) in pixels."""

    pixels: Tensor
    landmarks: Tensor


class Renderer:
    """Renders heads on a device. Everything that is the same for all heads is prepared once."""

    def __init__(self, mesh: HeadMesh, quality: Quality | None = None) -> None:
        self.mesh, self.device = mesh, mesh.device
        self.quality = quality or Quality()
        self.noise = Noise(self.device)
        self.landmarks = landmark_vertices(mesh)
        body = mesh.parts[BODY]
        rest = body.rest[body.triangles].mean(1)
        ears = mesh.vertex_masks[body.triangles, 2].amax(1)
        lips = mesh.vertex_masks[body.triangles, 0].amax(1)
        outer = self._outer_triangles()
        scalp = (hair.scalp_field(rest) > -0.15) & (ears < 0.3) & (rest[:, 1] > 6.3) & outer
        self.scalp = hair.Roots(mesh, self.quality.strands, scalp.float())
        near_brow = (rest[:, 0].abs() < 0.65) & (rest[:, 1] > 7.3) & (rest[:, 1] < 7.7)
        near_brow &= rest[:, 2] > 1.0
        brow = hair.Roots(mesh, 40_000, near_brow.float() * outer)
        bearded = (rest[:, 1] > 5.95) & (rest[:, 1] < 7.3) & (rest[:, 2] > 0.55) & (ears < 0.3)
        beard = hair.Roots(mesh, 26_000, (bearded & (lips < 0.6)).float() * outer)
        self.ear_tips = self._nearest([(0.79, 7.25, 0.45), (-0.79, 7.25, 0.45)])
        self.lobes = self._nearest([(0.78, 6.86, 0.58), (-0.78, 6.86, 0.58)])
        self.facial_hair = FacialHair(mesh, self.noise, brow, beard)
        self.shader = Shader(mesh, self.noise)

    def _outer_triangles(self) -> Tensor:
        """Return which triangles of the body face away from the inside of the head."""
        body = self.mesh.parts[BODY]
        a, b, c = body.rest[body.triangles].unbind(1)
        normal = torch.linalg.cross(b - a, c - a)
        center = torch.tensor([0.0, 7.0, 0.6], device=self.device)
        return ((a - center) * normal).sum(1) > 0

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
        if head.wear.glasses:
            front = self._front_of_eyes(positions, face)
            ears = positions[self.ear_tips]
            frame, lens = wear.glasses(head.wear.glasses, face, front, ears)
            surfaces.append(frame)
            if head.wear.glasses == "sunglasses":
                surfaces.append(lens)
                lens = None
        view = self._place_camera(head, face, size * SUPERSAMPLING)
        hairs = self._grow_hair(head, positions, normals, face, vertices, view, generator)
        light = self._place_lights(head, view)
        shadows = self._cast_shadows(light, face, surfaces, hairs, generator)
        shot = Shot(head, view, light, shadows)
        photo = tone_map(head, self._shade(shot, surfaces, hairs, lens), size, generator)
        landmarks = view.project(positions[self.landmarks])[:, :2] / SUPERSAMPLING
        return Photo(photo, landmarks)

    def _fit_face(self, vertices: Tensor, positions: Tensor) -> hair.FaceShape:
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
        return hair.FaceShape(
            centers, radius, float(marks[17:27, 1].mean()), float(marks[8, 1]), center
        )

    def _front_of_eyes(self, positions: Tensor, face: hair.FaceShape) -> float:
        """Return how far forward brows and cheeks reach where glasses sit."""
        x, y = positions[:, 0].abs(), positions[:, 1] - float(face.eyes[0, 1])
        near = (x > 0.13) & (x < 0.62) & (y.abs() < 0.24)
        return float(positions[near][:, 2].amax())

    def _build_surfaces(
        self, head: Head, vertices: Tensor, positions: Tensor, normals: Tensor, face: hair.FaceShape
    ) -> list[wear.Surface]:
        body = self.mesh.parts[BODY]
        uvs = body.uvs[body.uv_triangles]
        surfaces = [
            wear.Surface("skin", positions, normals, body.triangles, body.rest, uvs=uvs),
            wear.cloth(head.wear.clothes, body.rest, positions, normals, body.triangles),
        ]
        x, y = head.eyes.gaze
        gaze = F.normalize(torch.tensor([x, y, 1.0], device=self.device), dim=0)
        surfaces += [wear.eyeball(eye, face.eye_radius, gaze) for eye in face.eyes]
        for name in (*TEETH, TONGUE):
            part = self.mesh.parts[name]
            points = part.positions(vertices)
            surfaces.append(
                wear.Surface(
                    "tongue" if name == TONGUE else "teeth",
                    points,
                    vertex_normals(points, part.triangles),
                    part.triangles,
                    part.rest,
                    keep=self._between_lips(points, positions),
                )
            )
        if head.wear.headwear:
            surfaces += wear.headwear(
                head.wear.headwear, body.rest, positions, normals, body.triangles
            )
        if head.wear.earrings:
            surfaces.append(wear.earrings(positions[self.lobes], head.wear.earrings == "hoops"))
        return surfaces

    def _between_lips(self, points: Tensor, positions: Tensor) -> Tensor:
        """Return how far points lie between the lips' heights, so that no tooth pierces a chin."""
        inner = positions[self.landmarks[60:68], 1]
        low, high = inner.amin() - 0.06, inner.amax() + 0.06
        return torch.minimum(points[:, 1] - low, high - points[:, 1])

    def _place_camera(self, head: Head, face: hair.FaceShape, size: int) -> View:
        camera = head.camera
        focus = torch.stack([face.center[0], face.eyes[0, 1] - 0.25, face.center[2] + 0.35])
        cp, sp = math.cos(camera.pitch), math.sin(camera.pitch)
        back = torch.tensor([math.sin(camera.yaw) * cp, sp, math.cos(camera.yaw) * cp])
        right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), back), dim=0)
        up = torch.linalg.cross(back, right)
        c, s = math.cos(camera.roll), math.sin(camera.roll)
        frame = torch.stack([c * right + s * up, c * up - s * right, back]).to(self.device)
        origin = focus + frame[2] * camera.distance
        # Faces of children are smaller: the camera comes nearer, as a photographer would.
        height = camera.height * min(max((face.brow_y - face.chin_y) / 1.33, 0.72), 1.15)
        focal = size * camera.distance / height
        return View(frame, origin, focal, size, camera.shift, size / height)

    def _grow_hair(
        self,
        head: Head,
        positions: Tensor,
        normals: Tensor,
        face: hair.FaceShape,
        vertices: Tensor,
        view: View,
        generator: torch.Generator,
    ) -> Hair:
        """Grow all hair; the lashes come last."""
        grown: list[tuple[Strands, Tensor]] = []
        color = torch.tensor(head.hair.color, device=self.device)
        if head.hair.style:
            body_part = self.mesh.parts[BODY].rest[:, 1] > 4.6
            surface = hair.HeadSurface(positions[body_part], face.center)
            cover = None
            if head.wear.headwear:
                cover = wear.headwear_field(self.scalp.rest, head.wear.headwear)
            cut = Cut(
                head.hair.style,
                head.hair.length,
                head.hair.part,
                head.hair.fringe,
                head.skin.recession,
                cover,
            )
            strands = dress_hair(cut, self.scalp, positions, normals, surface, face, generator)
            grown.append((strands, color))
        growing = self.facial_hair
        brow = growing.grow_brows(head, positions, normals, generator)
        grown.append((brow, torch.tensor(head.brows.color, device=self.device)))
        if head.beard.style and head.beard.style != "stubble":
            beard = growing.grow_beard(head, positions, normals, generator)
            grown.append((beard, torch.tensor(head.beard.color, device=self.device)))
        dark = torch.tensor([0.03, 0.02, 0.015], device=self.device)
        grown.append((growing.grow_lashes(head, vertices), dark))
        steps = [count_steps(strands, 0.75 / view.scale, 900) for strands, _ in grown]
        return Hair([strands for strands, _ in grown], [color for _, color in grown], steps)

    def _place_lights(self, head: Head, view: View) -> Light:
        directions, colors = [], []
        for lamp in head.lighting.lamps:
            toward = torch.tensor(lamp.direction, device=self.device) @ view.frame
            d, c = spread_lamp(
                toward, torch.tensor(lamp.color, device=self.device), lamp.size, lamp.count
            )
            directions.append(d)
            colors.append(c)
        lamps = sum(len(d) for d in directions)
        around = [
            torch.tensor(head.lighting.ambient[k], device=self.device)
            for k in ("top", "bottom", "left", "right")
        ]
        d, c = surroundings(
            self.quality.surrounding_lights, *around, turn=float(head.seed % 628) / 100
        )
        directions.append(d @ view.frame)
        colors.append(c)
        interleaved = self.quality.interleaved
        return Light(torch.cat(directions), torch.cat(colors), lamps, interleaved)

    def _cast_shadows(
        self,
        light: Light,
        face: hair.FaceShape,
        surfaces: list[wear.Surface],
        hairs: Hair,
        generator: torch.Generator,
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
        center = face.center + torch.tensor([0.0, -0.45, 0.2], device=self.device)
        return Shadows(
            light,
            center,
            torch.cat(points),
            torch.cat(triangles),
            [strands.every(3) for strands in hairs.strands[:-1]],
            0.40,
            self.quality.shadow_size,
            generator,
        )

    def _shade(
        self,
        shot: Shot,
        surfaces: list[wear.Surface],
        hairs: Hair,
        lens: wear.Surface | None,
    ) -> Tensor:
        """Return the linear image (3, size, size)."""
        head, size = shot.head, shot.view.size
        scene = Scene(surfaces, shot.view)
        hair_keys = torch.full((1, size * size), EMPTY, device=self.device)
        matrix = shot.view.matrix()[None]
        for strands, steps, first in zip(hairs.strands, hairs.steps, hairs.firsts, strict=False):
            draw_strands_(hair_keys, strands, steps, matrix, size, first)
        hair_keys = hair_keys[0]
        is_hair = unpack_depth(hair_keys) < scene.depth + 0.004
        background = draw_background(
            head.background.kind, head.background.colors, size, head.seed, self.noise
        )
        image = background.reshape(3, -1).T.contiguous()
        pixel = torch.nonzero((scene.keys != EMPTY) & ~is_hair).squeeze(1)
        image[pixel] = self.shader.surfaces(shot, scene, pixel)
        pixel = torch.nonzero(is_hair).squeeze(1)
        image[pixel] = self.shader.hair(shot, hairs, pixel, hair_keys[pixel] & 0xFFFFFFFF)
        if lens is not None:
            depth = torch.minimum(scene.depth, unpack_depth(hair_keys))
            self.shader.add_lens(shot, image, lens, depth)
        return image.T.reshape(3, size, size)


def tone_map(head: Head, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Filter the linear image to `size`, expose it and encode it as sRGB."""
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], device=image.device) / 8
    kernel = (kernel[:, None] * kernel).repeat(3, 1, 1, 1)
    small = F.conv2d(
        F.pad(image[None].clamp(max=6), (1, 1, 1, 1), mode="replicate"),
        kernel,
        stride=2,
        groups=3,
    )
    balance = torch.tensor([1 + head.film.warmth, 1.0, 1 - head.film.warmth], device=image.device)
    linear = small[0] * balance[:, None, None] * head.film.exposure
    axis = torch.linspace(-1, 1, size, device=image.device)
    linear = linear * (1 - 0.10 * (axis[:, None] ** 2 + axis[None] ** 2))
    gray = linear.mean(0, keepdim=True)
    linear = (gray + 1.12 * (linear - gray)).clamp(min=0)
    toned = 1 - torch.exp(-1.5 * linear)  # a film's shoulder, and its toe
    toned = torch.lerp(toned, toned * toned * (3 - 2 * toned), 0.3)
    encoded = torch.where(
        toned < 0.0031308, 12.92 * toned, 1.055 * toned.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    )
    grain = torch.randn(encoded.shape, generator=generator, device=image.device)
    encoded = encoded + head.film.grain * grain
    return (encoded.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0)
