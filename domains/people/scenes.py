"""Render the sample photos: people in scenes, one of them a group.

python -m domains.people.scenes                # into demo/samples, on a CPU some minutes a photo
python -m domains.people.scenes people-1 people-6
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from domains.people.head import Head
from domains.people.render import open_renderer
from domains.people.renderer import Renderer
from domains.people.sampling import sample

SAMPLES = Path(__file__).resolve().parents[2] / "demo/samples"
ASPECT = 2 / 3  # height of a photo over its width
TOP = 0.06  # of the square that is rendered, above the photo


@dataclass(frozen=True)
class Scene:
    """A photo: seeds that training never drew, and where the camera stands.

    Attributes:
        background: the seed whose background is behind them.
        width: what the photo covers at the heads' distance, in decimeters.
        shifts: of each head from the center of the square, as fractions of the photo's width.
    """

    seeds: tuple[int, ...]
    shifts: tuple[tuple[float, float], ...]
    width: float
    background: int
    distance: float = 16.0


SCENES = {
    "people-1": Scene((1_000_092,), ((0.10, -0.10),), 6.2, 1_000_092),
    "people-2": Scene((1_000_107,), ((-0.12, -0.10),), 6.4, 1_000_107),
    "people-3": Scene((1_000_045,), ((0.14, -0.10),), 6.6, 1_000_017),
    "people-4": Scene((1_000_102,), ((-0.08, -0.10),), 6.2, 1_000_032),
    "people-5": Scene((1_000_053,), ((0.06, -0.10),), 6.4, 1_000_053),
    "people-6": Scene(
        (1_000_172, 1_000_030, 1_000_084),
        ((0.0, -0.15), (-0.29, -0.10), (0.29, -0.12)),
        8.8,
        1_000_026,
    ),
}


def place_heads(scene: Scene, targets: Iterable[str]) -> list[Head]:
    """Return a scene's heads, in the first one's light and seen by one camera."""
    heads = [sample(seed, targets) for seed in scene.seeds]
    heads[0].background = sample(scene.background, targets).background
    for head, shift in zip(heads, scene.shifts, strict=True):
        head.camera = replace(head.camera, height=scene.width, distance=scene.distance, shift=shift)
        head.lighting = heads[0].lighting
    return heads


def render_scene(renderer: Renderer, scene: Scene, width: int) -> Image.Image:
    """Render a scene's photo, `width` pixels wide."""
    heads = place_heads(scene, renderer.mesh.targets)
    pixels = renderer.render_group(heads, width).pixels[0].cpu().numpy()
    top = round(TOP * width)
    return Image.fromarray(np.ascontiguousarray(pixels[top : top + round(ASPECT * width)]))


@click.command(context_settings={"show_default": True})
@click.argument("names", metavar="[SCENE]...", nargs=-1, type=click.Choice(list(SCENES)))
@click.option("--out", type=click.Path(path_type=Path), default=SAMPLES)
@click.option("--width", default=960, help="Of the photos, in pixels.")
@click.option("--quality", default=90, help="Of the JPEGs, 1 to 95.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def main(names: tuple[str, ...], out: Path, width: int, quality: int, device: str) -> None:
    """Render SCENEs as JPEGs; by default all."""
    renderer = open_renderer(device)
    for name in names or SCENES:
        path = out / f"{name}.jpg"
        render_scene(renderer, SCENES[name], width).save(path, quality=quality)
        print(path, flush=True)


if __name__ == "__main__":
    main()
