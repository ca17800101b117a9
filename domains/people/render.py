"""Render labeled heads into shards.

    python -m domains.people.render --count 20000 --out build/people/heads

Processes share the GPUs; each renders every n-th seed into a folder of its own. What is there
already is not rendered again. `--benchmark` measures heads per second and writes nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier, Event
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
from domains.people.renderer import Quality, Renderer
from domains.people.sampling import sample
from domains.people.shards import ShardWriter, encode_jpeg, rendered_seeds
from styleclip_contract.wire import FACE_SIZE
from styleclip_server.pipeline.ffhq_crop import crop_quad, quad_from_landmarks

CAPTIONS = 4  # of each head, in its labels
GPU_BATCH = 8  # heads that a GPU renders together
ENCODERS = 2  # threads of each process that crop and encode
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


def render_seeds(
    renderer: Renderer, seeds: Sequence[int], size: int
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Render the photos of seeds together and return each, uint8 RGB, with its record."""
    targets = renderer.mesh.targets
    heads = [sample(seed, targets) for seed in seeds]
    photos = renderer.render(heads, size)
    pixels, landmarks = photos.pixels.cpu().numpy(), photos.landmarks.cpu().numpy()
    return [
        (image, build_record(head, scene_vector(head, targets), marks))
        for head, image, marks in zip(heads, pixels, landmarks, strict=True)
    ]


def render_batch(
    renderer: Renderer, seeds: Sequence[int], size: int
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Render seeds as `render_seeds` does, in halves where the GPU's memory is too small."""
    try:
        return render_seeds(renderer, seeds, size)
    except torch.OutOfMemoryError:
        if len(seeds) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(seeds) // 2
    first = render_batch(renderer, seeds[:half], size)
    return first + render_batch(renderer, seeds[half:], size)


def crop_face(pixels: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop a face out of a photo as the server aligns it; return it and its landmarks (68, 2)."""
    quad = quad_from_landmarks(landmarks)
    crop = np.asarray(crop_quad(Image.fromarray(pixels), quad))
    edges = np.stack([quad[3] - quad[0], quad[1] - quad[0]], 1)  # of the square, orthogonal
    shares = (landmarks - quad[0]) @ edges / (edges**2).sum(0)
    return crop, shares * FACE_SIZE - 0.5


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

    @property
    def batch(self) -> int:
        """How many heads are rendered together."""
        return GPU_BATCH if self.device.startswith("cuda") else 1

    def open_renderer(self, number: int) -> Renderer:
        """Prepare the renderer of process `number`; processes are spread over the GPUs."""
        torch.set_num_threads(1 if self.processes > 1 else torch.get_num_threads())
        device = self.device
        if device == "cuda":
            device = f"cuda:{number % torch.cuda.device_count()}"
            torch.cuda.set_device(device)
        return open_renderer(device, self.quality)

    def run(self, number: int, compiled: Event | None = None) -> None:
        """Render the seeds of process `number` that are not there yet, until the deadline."""
        renderer = self.prepare(number, compiled)
        folder = self.out / f"{number:02d}"
        done = rendered_seeds(folder) if folder.exists() else set()
        seeds = [seed for seed in self.seeds[number :: self.processes] if seed not in done]
        writer = ShardWriter(folder, self.shard_bytes)
        start, count = time.monotonic(), 0
        with ThreadPoolExecutor(ENCODERS) as pool:
            encoded: list[Future[tuple[bytes, dict[str, Any]]]] = []
            for batch in split(seeds, self.batch):
                if time.time() > self.deadline and count:
                    break
                rendered = render_batch(renderer, batch, self.size)
                for future in encoded:
                    self._store(writer, future)
                encoded = [pool.submit(self.encode, *each) for each in rendered]
                count += len(batch)
                if number == 0 and count % (8 * self.batch) == 0:
                    rate = count * self.processes / (time.monotonic() - start)
                    print(f"{count * self.processes} heads, {rate:.1f} per second", flush=True)
            for future in encoded:
                self._store(writer, future)
        writer.flush()

    def prepare(self, number: int, compiled: Event | None = None) -> Renderer:
        """Open a renderer and render a batch, which compiles the kernels where there is no cache.

        Args:
            compiled: the first process sets it when it is done; the others wait for it.
        """
        start = time.monotonic()
        renderer = self.open_renderer(number)
        if self.device.startswith("cuda"):
            if compiled is not None and number:
                compiled.wait()
            render_batch(renderer, list(range(self.batch)), self.size)
            if compiled is not None:
                compiled.set()
        if number == 0:
            print(f"renderer ready after {time.monotonic() - start:.1f} s", flush=True)
        return renderer

    def encode(self, pixels: np.ndarray, record: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Crop a photo if crops are stored; return the JPEG and the record."""
        if self.crops:
            pixels, landmarks = crop_face(pixels, np.array(record["landmarks"]))
            record["landmarks"] = np.round(landmarks, 1).tolist()
        return encode_jpeg(pixels, self.jpeg_quality), record

    @staticmethod
    def _store(writer: ShardWriter, encoded: Future[tuple[bytes, dict[str, Any]]]) -> None:
        jpeg, record = encoded.result()
        writer.add(record["seed"], jpeg, record)


def split(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Split seeds into batches."""
    return (seeds[start : start + size] for start in range(0, len(seeds), size))


def run_job(job: RenderJob) -> None:
    """Render a job in its processes."""
    if job.processes == 1:
        job.run(0)
    else:
        context = torch.multiprocessing.get_context("spawn")
        torch.multiprocessing.spawn(_run_process, (job, context.Event()), nprocs=job.processes)


def _run_process(number: int, job: RenderJob, compiled: Event) -> None:
    job.run(number, compiled)


def benchmark(job: RenderJob, seconds: float) -> float:
    """Return the heads per second of all processes together, without their preparation."""
    context = torch.multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(job.processes), context.Array("q", job.processes)
    arguments = (job, seconds, context.Event(), barrier, counts)
    torch.multiprocessing.spawn(_measure_process, arguments, nprocs=job.processes)
    return sum(counts[:]) / seconds


def _measure_process(
    number: int, job: RenderJob, seconds: float, compiled: Event, barrier: Barrier, counts: Any
) -> None:
    renderer = job.prepare(number, compiled)
    barrier.wait()
    start = time.monotonic()
    with ThreadPoolExecutor(ENCODERS) as pool:
        encoded: list[Future[tuple[bytes, dict[str, Any]]]] = []
        for batch in split(job.seeds[number :: job.processes], job.batch):
            rendered = render_batch(renderer, batch, job.size)
            for future in encoded:
                future.result()
            if time.monotonic() - start > seconds:
                return
            encoded = [pool.submit(job.encode, *each) for each in rendered]
            counts[number] += len(batch)


def write_sheet(renderer: Renderer, seeds: list[int], size: int, path: Path) -> None:
    """Render seeds as one contact sheet."""
    batches = split(seeds, GPU_BATCH if renderer.device.type == "cuda" else 1)
    tiles = [image for some in batches for image, _ in render_seeds(renderer, some, size)]
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
