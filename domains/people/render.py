"""Render labeled heads into shards.

    python -m domains.people.render --count 20000 --out build/people/heads

Processes share the GPUs; each renders every n-th seed into a folder of its own. What is there
already is not rendered again. `--benchmark` measures heads per second and writes nothing.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from domains.people.assets import ASSETS
from domains.people.captions import describe
from domains.people.codes import scene_vector
from domains.people.head import Head
from domains.people.mesh import HeadMesh
from domains.people.renderer import Photo, Quality, Renderer
from domains.people.sampling import sample
from domains.people.shards import ShardWriter, encode_jpeg, rendered_seeds
from styleclip_server.pipeline.ffhq_crop import crop_quad, quad_from_landmarks

CAPTIONS = 4  # of each head, in its labels
WARM_UP = 3  # heads of each process before the benchmark
PREVIEW = Quality(surrounding_lights=12, shadow_size=384, strands=30_000)


def build_record(head: Head, scene: list[float], landmarks: np.ndarray) -> dict[str, Any]:
    """Return a head's line of labels.jsonl: seed, labels, captions, scene, landmarks in pixels."""
    rng = random.Random(head.seed)
    return {
        "seed": head.seed,
        "labels": head.labels,
        "captions": [describe(head.labels, rng)[0] for _ in range(CAPTIONS)],
        "scene": np.round(scene, 4).tolist(),
        "landmarks": np.round(landmarks, 1).tolist(),
    }


def open_renderer(device: str, quality: Quality | None = None) -> Renderer:
    """Prepare a renderer."""
    return Renderer(HeadMesh(ASSETS, torch.device(device)), quality)


def render_seed(renderer: Renderer, seed: int, size: int) -> tuple[Photo, dict[str, Any]]:
    """Render the photo of a seed and return it with its record."""
    head = sample(seed, renderer.mesh.targets)
    photo = renderer.render(head, size)
    scene = scene_vector(head, renderer.mesh.targets)
    return photo, build_record(head, scene, photo.landmarks.cpu().numpy())


def crop_face(pixels: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Crop a face out of a photo as the server aligns it."""
    return np.asarray(crop_quad(Image.fromarray(pixels), quad_from_landmarks(landmarks)))


@dataclass(frozen=True)
class RenderJob:
    """What a run renders, and how its processes share it.

    Attributes:
        out: each process has a folder of shards there.
        size: side of the photos in pixels.
        jpeg_quality: 1 to 95.
        crops: store the aligned face crops, not the photos.
        deadline: as of `time.time`; heads that are not begun by then are left out.
    """

    seeds: range
    processes: int
    out: Path
    device: str
    size: int = 384
    jpeg_quality: int = 85
    quality: Quality = field(default_factory=Quality)
    crops: bool = False
    shard_bytes: int = int(15.9 * 2**20)
    deadline: float = float("inf")

    def open_renderer(self, number: int) -> Renderer:
        """Prepare the renderer of process `number`; processes are spread over the GPUs."""
        torch.set_num_threads(1 if self.processes > 1 else torch.get_num_threads())
        device = self.device
        if device == "cuda":
            device = f"cuda:{number % torch.cuda.device_count()}"
            torch.cuda.set_device(device)
        return open_renderer(device, self.quality)

    def run(self, number: int) -> None:
        """Render the seeds of process `number` that are not there yet, until the deadline."""
        renderer = self.open_renderer(number)
        folder = self.out / f"{number:02d}"
        done = rendered_seeds(folder) if folder.exists() else set()
        writer = ShardWriter(folder, self.shard_bytes)
        start, count = time.monotonic(), 0
        with ThreadPoolExecutor(1) as encoder:
            encoded: Future[None] | None = None
            for seed in self.seeds[number :: self.processes]:
                if seed in done:
                    continue
                if time.time() > self.deadline:
                    break
                photo, record = render_seed(renderer, seed, self.size)
                if encoded is not None:
                    encoded.result()
                encoded = encoder.submit(self._store, writer, photo.pixels.cpu().numpy(), record)
                count += 1
                if number == 0 and count % 50 == 0:
                    rate = count * self.processes / (time.monotonic() - start)
                    print(f"{count * self.processes} heads, {rate:.1f} per second", flush=True)
            if encoded is not None:
                encoded.result()
        writer.flush()

    def _store(self, writer: ShardWriter, pixels: np.ndarray, record: dict[str, Any]) -> None:
        if self.crops:
            pixels = crop_face(pixels, np.array(record.pop("landmarks")))
        writer.add(record["seed"], encode_jpeg(pixels, self.jpeg_quality), record)


def run_job(job: RenderJob) -> None:
    """Render a job in its processes."""
    if job.processes == 1:
        job.run(0)
    else:
        _spawn(_run_process, job)


def _spawn(target: Callable[..., None], job: RenderJob, *arguments: Any) -> None:
    """Run target(number, job, *arguments) in each process of a job."""
    # Each process compiles in itself, not in a pool of its own.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch.multiprocessing.spawn(target, (job, *arguments), nprocs=job.processes)


def _run_process(number: int, job: RenderJob) -> None:
    job.run(number)


def benchmark(job: RenderJob, seconds: float) -> float:
    """Return the heads per second of all processes together."""
    context = torch.multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(job.processes), context.Array("q", job.processes)
    _spawn(_measure_process, job, seconds, barrier, counts)
    return sum(counts[:]) / seconds


def _measure_process(
    number: int, job: RenderJob, seconds: float, barrier: Any, counts: Any
) -> None:
    renderer = job.open_renderer(number)
    for seed in job.seeds[:WARM_UP]:
        render_seed(renderer, seed, job.size)[0].pixels.cpu()
    barrier.wait()
    start = time.monotonic()
    for seed in job.seeds[number :: job.processes]:
        photo, record = render_seed(renderer, seed, job.size)
        encode_jpeg(crop_face(photo.pixels.cpu().numpy(), np.array(record["landmarks"])), 90)
        if time.monotonic() - start > seconds:
            return
        counts[number] += 1


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
@click.option("--crops", is_flag=True, help="Store the aligned face crops, not the photos.")
@click.option("--processes", default=1, help="Processes that share the GPUs.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--preview", is_flag=True, help="Fewer lights and coarser shadows, for CPUs.")
@click.option("--shard-mb", default=15.9, help="Largest size of a shard in MiB.")
@click.option("--seconds", default=1e9, help="Stop after this time, with complete shards.")
@click.option("--benchmark", "measured", type=float, help="Measure heads per second for this time.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Write a contact sheet (PNG) instead."
)
def main(
    out: Path,
    first: int,
    count: int,
    size: int,
    quality: int,
    crops: bool,
    processes: int,
    device: str,
    preview: bool,
    shard_mb: float,
    seconds: float,
    measured: float | None,
    sheet: Path | None,
) -> None:
    """Render COUNT heads from the seed FIRST on."""
    start = time.monotonic()
    job = RenderJob(
        seeds=range(first, first + count),
        processes=processes,
        out=out,
        device=device,
        size=size,
        jpeg_quality=quality,
        quality=PREVIEW if preview else Quality(),
        crops=crops,
        shard_bytes=int(shard_mb * 2**20),
        deadline=time.time() + seconds,
    )
    if measured:
        rate = benchmark(job, measured)
        print(f"{rate:.1f} heads per second in {processes} processes on {device}")
        return
    if sheet:
        write_sheet(open_renderer(device, job.quality), list(job.seeds), size, sheet)
        return
    run_job(job)
    done = sum(len(rendered_seeds(folder)) for folder in out.iterdir() if folder.is_dir())
    print(f"{done} heads in {out}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
