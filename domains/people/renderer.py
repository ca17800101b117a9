"""The renderer: builds heads, draws what is visible, lights it and develops it as photos.

Deferred shading at twice the resolution: one pass finds the visible surface of every pixel, then
each light adds to all pixels, with shadow maps for solid parts and translucent hair. A batch of
heads goes through each step together: a GPU is busy for longer than it takes to launch a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people import hair, wear
from domains.people.background import Backgrounds
from domains.people.draws import Draws, NumberTable, randn_each
from domains.people.face_measures import FaceMeasures
from domains.people.face_shape import FaceShape
from domains.people.facial_hair import FacialHair
from domains.people.hairstyles import Cut, ScalpRoots, dress_hair
from domains.people.head import Head
from domains.people.lighting import Shadows, place_lights
from domains.people.mesh import BODY, HeadMesh, vertex_normals
from domains.people.noise import Noise
from domains.people.rasterizer import EMPTY, unpack_depth
from domains.people.scene import Geometry, Scene, Views
from domains.people.shading import Shader, Shots
from domains.people.surfaces import Bodies, Surfaces
from domains.people.tufts import Hair, Tuft

SUPERSAMPLING = 2
_LASHES = (0.03, 0.02, 0.015)  # their color


@dataclass(frozen=True)
class Quality:
    """What trades looks for time; `interleaved` is explained at `Lights`."""

    surrounding_lights: int = 20
    shadow_size: int = 512
    strands: int = 52_000
    interleaved: bool = True


@dataclass
class Photos:
    """Rendered photos: uint8 RGB (h, size, size, 3), and the landmarks (h, 68, 2) in pixels."""

    pixels: Tensor
    landmarks: Tensor


class Renderer:
    """Renders heads on a device. Everything that is the same for all heads is prepared once."""

    def __init__(self, mesh: HeadMesh, quality: Quality | None = None) -> None:
        self.mesh, self.device = mesh, mesh.device
        self.quality = quality or Quality()
        self.noise, self.numbers = Noise(self.device), NumberTable(self.device)
        self.measures, self.surfaces = FaceMeasures(mesh), Surfaces(mesh)
        self.backgrounds, self.shader = Backgrounds(self.noise), Shader(mesh, self.noise)
        body = mesh.parts[BODY]
        rest = body.rest[body.triangles].mean(1)
        ears = mesh.vertex_masks[body.triangles, 2].amax(1)
        lips = mesh.vertex_masks[body.triangles, 0].amax(1)
        outer = self._outer_triangles()
        scalp = (hair.scalp_field(rest) > -0.15) & (ears < 0.3) & (rest[:, 1] > 6.3) & outer
        roots = hair.Roots(mesh, self.quality.strands, scalp.float())
        covers = {kind: wear.headwear_field(roots.rest, kind) for kind in ("hat", "beanie")}
        self.scalp = ScalpRoots(roots, covers)
        near_brow = (rest[:, 0].abs() < 0.65) & (rest[:, 1] > 7.3) & (rest[:, 1] < 7.7)
        near_brow &= rest[:, 2] > 1.0
        brow = hair.Roots(mesh, 40_000, near_brow.float() * outer)
        bearded = (rest[:, 1] > 5.95) & (rest[:, 1] < 7.3) & (rest[:, 2] > 0.55) & (ears < 0.3)
        beard = hair.Roots(mesh, 36_000, (bearded & (lips < 0.6)).float() * outer)
        self.facial_hair = FacialHair(mesh, self.noise, brow, beard)
        self._on_skull = torch.nonzero(body.rest[:, 1] > 4.6).squeeze(1)

    def _outer_triangles(self) -> Tensor:
        """Return which triangles of the body face away from the inside of the head."""
        body = self.mesh.parts[BODY]
        a, b, c = body.rest[body.triangles].unbind(1)
        normal = torch.linalg.cross(b - a, c - a)
        center = torch.tensor([0.0, 7.0, 0.6], device=self.device)
        return ((a - center) * normal).sum(1) > 0

    @torch.inference_mode()
    def render(self, heads: Sequence[Head], size: int) -> Photos:
        """Render photos of `size` pixels squared. A photo does not depend on the others."""
        draws = [Draws(self.numbers, head.seed) for head in heads]
        image, landmarks = self._expose(heads, draws, self._draw_backgrounds(heads, size))
        grain = randn_each(draws, [1] * len(heads), 3, size, size)
        return Photos(develop(heads, image, grain), landmarks)

    @torch.inference_mode()
    def render_group(self, heads: Sequence[Head], size: int) -> Photos:
        """Render one photo of several heads, each in front of those before it.

        Background and film are those of the first head. The landmarks are those of all heads.
        """
        image, landmarks = self._draw_backgrounds(heads[:1], size), []
        draws = [Draws(self.numbers, head.seed) for head in heads]
        for k in range(len(heads)):
            image, marks = self._expose(heads[k : k + 1], draws[k : k + 1], image)
            landmarks.append(marks)
        grain = randn_each(draws[:1], [1], 3, size, size)
        return Photos(develop(heads[:1], image, grain), torch.cat(landmarks))

    def _draw_backgrounds(self, heads: Sequence[Head], size: int) -> Tensor:
        """Draw what is behind the heads, as `_expose` takes it."""
        backgrounds = [head.background for head in heads]
        return self.backgrounds.draw(
            backgrounds, [head.seed for head in heads], size * SUPERSAMPLING
        )

    def _expose(
        self, heads: Sequence[Head], draws: Sequence[Draws], behind: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw heads over images (h, 3, 2 s, 2 s).

        Returns:
            The linear images of that size, and the landmarks (h, 68, 2) in pixels of the photos.
        """
        bodies = self._build_bodies(heads)
        frames, views = self._place_cameras(bodies, behind.shape[-1])
        strands = Hair(self._grow_hair(bodies, draws), views.scales)
        solid, clear = self.surfaces.build(bodies)
        geometry = Geometry(solid, self.device)
        quality = self.quality
        lights = place_lights(
            heads, frames, quality.surrounding_lights, quality.interleaved, self.device
        )
        centers = bodies.shapes.center + torch.tensor([0.0, -0.45, 0.2], device=self.device)
        shadows = Shadows(lights, centers, geometry, strands, quality.shadow_size)
        shots = Shots(heads, views, lights, shadows, self.numbers.uniform - 0.5)
        lenses = Geometry(clear, self.device) if any(clear) else None
        image = self._shade(shots, geometry, strands, lenses, behind)
        landmarks = views.project(bodies.positions[:, self.measures.landmarks])[..., :2]
        return image, landmarks / SUPERSAMPLING

    def _build_bodies(self, heads: Sequence[Head]) -> Bodies:
        body = self.mesh.parts[BODY]
        vertices = self.mesh.deform([head.targets for head in heads])
        positions = body.positions(vertices)
        normals = vertex_normals(positions, body.triangles)
        return Bodies(
            heads, vertices, positions, normals, *self.measures.measure(vertices, positions)
        )

    def _place_cameras(self, bodies: Bodies, size: int) -> tuple[Tensor, Views]:
        """Return the cameras' frames on the host, and the views."""
        placed = [
            _place_camera(head, face, size)
            for head, face in zip(bodies.heads, bodies.faces, strict=True)
        ]
        frames = torch.stack([frame for frame, _, _ in placed])
        shifts = torch.tensor([head.camera.shift for head in bodies.heads])
        focals = torch.tensor([focal for _, _, focal in placed])
        scales = [
            focal / head.camera.distance
            for (_, _, focal), head in zip(placed, bodies.heads, strict=True)
        ]
        views = Views(
            frames.to(self.device),
            torch.stack([origin for _, origin, _ in placed]).to(self.device),
            focals.to(self.device),
            (size * (0.5 + shifts)).to(self.device),
            size,
            scales,
        )
        return frames, views

    def _grow_hair(self, bodies: Bodies, draws: Sequence[Draws]) -> list[Tuft]:
        """Grow all hair: of the heads, brows, beards and lashes."""
        heads, positions, normals = bodies.heads, bodies.positions, bodies.normals
        brows = self.facial_hair.grow_brows(heads, positions, normals, draws)
        lashes = self.facial_hair.grow_lashes(heads, bodies.vertices)
        return [
            *self._grow_scalps(bodies, draws),
            *(
                Tuft(k, strands, heads[k].brows.color, casts=False, opacity=0.85)
                for k, strands in enumerate(brows)
            ),
            *self._grow_beards(bodies, draws),
            *(
                Tuft(k, strands, _LASHES, casts=False, opacity=0.9)
                for k, strands in enumerate(lashes)
            ),
        ]

    def _grow_scalps(self, bodies: Bodies, draws: Sequence[Draws]) -> Iterator[Tuft]:
        """Grow the hair of the heads that are not bald."""
        chosen = [k for k, head in enumerate(bodies.heads) if head.hair.style]
        if not chosen:
            return
        index = torch.tensor(chosen, device=self.device)
        grown = dress_hair(
            [_cut(bodies.heads[k]) for k in chosen],
            self.scalp,
            bodies.positions[index],
            bodies.normals[index],
            bodies.shapes.select(index),
            self._on_skull,
            [draws[k] for k in chosen],
        )
        for k, strands in zip(chosen, grown, strict=True):
            yield Tuft(k, strands, bodies.heads[k].hair.color)

    def _grow_beards(self, bodies: Bodies, draws: Sequence[Draws]) -> Iterator[Tuft]:
        """Grow the beards that are more than stubble, which is a color of the skin."""
        styles = [head.beard.style for head in bodies.heads]
        chosen = [k for k, style in enumerate(styles) if style not in ("", "stubble")]
        if not chosen:
            return
        index = torch.tensor(chosen, device=self.device)
        grown = self.facial_hair.grow_beards(
            [bodies.heads[k] for k in chosen],
            bodies.positions[index],
            bodies.normals[index],
            [draws[k] for k in chosen],
        )
        for k, strands in zip(chosen, grown, strict=True):
            yield Tuft(k, strands, bodies.heads[k].beard.color, opacity=0.97)

    def _shade(
        self,
        shots: Shots,
        geometry: Geometry,
        strands: Hair,
        lenses: Geometry | None,
        behind: Tensor,
    ) -> Tensor:
        """Return the linear images (h, 3, size, size), over those behind."""
        heads, views = shots.heads, shots.views
        size = views.size
        scene = Scene(geometry, views)
        hair_keys = torch.full((len(heads), size * size), EMPTY, device=self.device)
        strands.draw_(hair_keys, views.matrices(), size)
        hair_keys = hair_keys.flatten()
        is_hair = unpack_depth(hair_keys) < scene.depth + 0.004
        image = behind.permute(0, 2, 3, 1).reshape(-1, 3)
        index = hair_keys & 0xFFFFFFFF
        seen = ~is_hair | (index >= strands.first_translucent)
        pixel = torch.nonzero((scene.keys != EMPTY) & seen).squeeze(1)
        image[pixel] = self.shader.surfaces(shots, scene, pixel)
        pixel = torch.nonzero(is_hair).squeeze(1)
        color, opacity = self.shader.hair(shots, strands, pixel, index[pixel])
        image[pixel] = torch.lerp(image[pixel], color, opacity)
        if lenses is not None:
            depth = torch.minimum(scene.depth, unpack_depth(hair_keys))
            self.shader.add_lenses(shots, image, Scene(lenses, views), depth)
        return image.view(len(heads), size, size, 3).permute(0, 3, 1, 2)


def _cut(head: Head) -> Cut:
    style = head.hair
    recession, headwear = head.skin.recession, head.wear.headwear
    return Cut(style.style, style.length, style.part, style.fringe, recession, headwear)


def _place_camera(head: Head, face: FaceShape, size: int) -> tuple[Tensor, Tensor, float]:
    """Return a camera's frame (3, 3), its origin (3,), and its focal length in pixels."""
    camera = head.camera
    focus = torch.stack([face.center[0], face.eyes[0, 1] - 0.25, face.center[2] + 0.35])
    cp, sp = math.cos(camera.pitch), math.sin(camera.pitch)
    back = torch.tensor([math.sin(camera.yaw) * cp, sp, math.cos(camera.yaw) * cp])
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), back), dim=0)
    up = torch.linalg.cross(back, right)
    c, s = math.cos(camera.roll), math.sin(camera.roll)
    frame = torch.stack([c * right + s * up, c * up - s * right, back])
    # Faces of children are smaller: the camera comes nearer, as a photographer would.
    height = camera.height * min(max((face.brow_y - face.chin_y) / 1.33, 0.72), 1.15)
    return frame, focus + frame[2] * camera.distance, size * camera.distance / height


def develop(heads: Sequence[Head], images: Tensor, grain: Tensor) -> Tensor:
    """Filter linear images (h, 3, 2 s, 2 s), expose them and encode them as sRGB, uint8.

    Args:
        grain: normal numbers (h, 3, s, s).
    """
    device, size = images.device, grain.shape[-1]
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device) / 8
    kernel = (kernel[:, None] * kernel).repeat(3, 1, 1, 1)
    padded = F.pad(images.clamp(max=6), (1, 1, 1, 1), mode="replicate")
    small = F.conv2d(padded, kernel, stride=2, groups=3)
    films = [head.film for head in heads]
    balance = torch.tensor([[1 + film.warmth, 1.0, 1 - film.warmth] for film in films])
    exposure = torch.tensor([[film.exposure] for film in films])
    linear = small * (balance * exposure).to(device)[..., None, None]
    axis = torch.linspace(-1, 1, size, device=device)
    linear = linear * (1 - 0.10 * (axis[:, None] ** 2 + axis[None] ** 2))
    gray = linear.mean(1, keepdim=True)
    linear = (gray + 1.05 * (linear - gray)).clamp(min=0)
    toned = 1 - torch.exp(-1.5 * linear)  # a film's shoulder, and its toe
    toned = torch.lerp(toned, toned * toned * (3 - 2 * toned), 0.3)
    encoded = torch.where(
        toned < 0.0031308, 12.92 * toned, 1.055 * toned.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    )
    strength = torch.tensor([film.grain for film in films], device=device)[:, None, None, None]
    encoded = encoded + strength * grain
    return (encoded.clamp(0, 1) * 255 + 0.5).byte().permute(0, 2, 3, 1)
