"""Render labeled heads into shards.

    python -m domains.people.render --count 20000 --out build/people/heads

Processes share a GPU; each renders every n-th seed into a folder of its own. What is there already
is not rendered again. `--benchmark` measures heads per second and writes nothing.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from domains.people.assets import ASSETS
from domains.people.captions import describe
from domains.people.mesh import HeadMesh
from domains.people.renderer import Photo, Quality, Renderer
from domains.people.sampling import sample
from domains.people.shards import ShardWriter, encode_jpeg, rendered_seeds

CAPTIONS = 4  # of each head, in its labels


def record(seed: int, labels: dict[str, str], landmarks: np.ndarray) -> dict:
    """Return a head's line of labels.jsonl: seed, labels, captions, and landmarks in pixels."""
    rng = random.Random(seed)
    return {
        "seed": seed,
        "labels": labels,
        "captions": [describe(labels, rng)[0] for _ in range(CAPTIONS)],
        "landmarks": np.round(landmarks, 1).tolist(),
    }


def open_renderer(device: str, preview: bool) -> Renderer:
    """Prepare a renderer; a preview has fewer lights and coarser shadows."""
    mesh = HeadMesh(ASSETS, torch.device(device))
    return Renderer(mesh, Quality(12, 384, 30_000) if preview else Quality())


def render_seed(renderer: Renderer, seed: int, size: int) -> tuple[Photo, dict]:
    """Render the photo of a seed and return it with its record."""
    head = sample(seed, renderer.mesh.targets)
    photo = renderer.render(head, size)
    return photo, record(seed, head.labels, photo.landmarks.cpu().numpy())


def work(
    number: int,
    processes: int,
    seeds: range,
    out: Path,
    device: str,
    size: int,
    quality: int,
    preview: bool,
    shard_bytes: int,
    deadline: float,
) -> None:
    """Render every n-th of the seeds into a folder of this process, until the deadline."""
    torch.set_num_threads(1)
    renderer = open_renderer(device, preview)
    folder = out / f"{number:02d}"
    done = rendered_seeds(folder) if folder.exists() else set()
    writer = ShardWriter(folder, shard_bytes)
    start, count = time.monotonic(), 0
    for seed in seeds[number::processes]:
        if seed in done:
            continue
        if time.time() > deadline:
            break
        photo, labels = render_seed(renderer, seed, size)
        writer.add(seed, encode_jpeg(photo.pixels.cpu().numpy(), quality), labels)
        count += 1
        if number == 0 and count % 50 == 0:
            rate = count * processes / (time.monotonic() - start)
            print(f"{count * processes} heads, {rate:.1f} per second", flush=True)
    writer.flush()


def benchmark(renderer: Renderer, size: int, seconds: float) -> float:
    """Return heads per second of this process."""
    synchronize = torch.cuda.synchronize if renderer.device.type == "cuda" else lambda: None
    for seed in range(0, 24, 4):
        render_seed(renderer, seed, size)
    synchronize()
    start, seed = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        render_seed(renderer, 1000 + seed, size)
        seed += 1
    synchronize()
    return seed / (time.monotonic() - start)


def write_sheet(renderer: Renderer, seeds: list[int], size: int, path: Path) -> None:
    """Render seeds as one contact sheet."""
    tiles = [render_seed(renderer, seed, size)[0].pixels.cpu().numpy() for seed in seeds]
    columns = min(len(tiles), 6)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


@click.command(context_settings={"show_default": True})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("build/people/heads"),
    help="Folder of the shards.",
)
@click.option("--first", default=0, help="First seed.")
@click.option("--count", default=100, help="Number of seeds.")
@click.option("--size", default=384, help="Side of the photos in pixels.")
@click.option("--quality", default=85, help="Of the JPEGs, 1 to 95.")
@click.option("--processes", default=1, help="Processes that share the device.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--preview", is_flag=True, help="Fewer lights and coarser shadows, for CPUs.")
@click.option("--shard-mb", default=15.9, help="Largest size of a shard in MiB.")
@click.option("--seconds", default=1e9, help="Stop after this time, with complete shards.")
@click.option("--benchmark", "measure", is_flag=True, help="Measure heads per second for 10 s.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Write a contact sheet (PNG) instead."
)
def main(
    out: Path,
    first: int,
    count: int,
    size: int,
    quality: int,
    processes: int,
    device: str,
    preview: bool,
    shard_mb: float,
    seconds: float,
    measure: bool,
    sheet: Path | None,
) -> None:
    """Render COUNT heads from the seed FIRST on."""
    deadline = time.time() + seconds
    seeds = range(first, first + count)
    if measure:
        rate = benchmark(open_renderer(device, preview), size, 10.0)
        print(f"{rate:.2f} heads per second in one process on {device}")
        return
    if sheet:
        write_sheet(open_renderer(device, preview), list(seeds), size, sheet)
        return
    shared = (seeds, out, device, size, quality, preview, int(shard_mb * 2**20), deadline)
    start = time.monotonic()
    if processes == 1:
        work(0, 1, *shared)
    else:
        torch.multiprocessing.spawn(_spawned, (processes, *shared), nprocs=processes)
    done = sum(len(rendered_seeds(folder)) for folder in out.iterdir() if folder.is_dir())
    print(f"{done} heads in {out}, {time.monotonic() - start:.0f} s")


def _spawned(number: int, *arguments: object) -> None:
    work(number, *arguments)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
