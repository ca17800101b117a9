"""The face crops that the networks are trained on: rendered on this machine, kept in memory."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from domains.people.attributes import TABLE
from domains.people.render import RenderJob, run_job
from domains.people.renderer import Quality
from domains.people.sampling import PHOTOS_OF_A_PERSON
from domains.people.shards import read_shards
from domains.training.setup import SEED, Setup

HEADS = 40_000  # at most
HEADS_FOLDER = "heads"
PROCESSES = 6  # of the rendering, for each GPU
JPEG_QUALITY = 95
TINY_SIZE, TINY_QUALITY = 96, Quality(surrounding_lights=4, shadow_size=96, strands=1500)
HELD_OUT = 0.02  # share of the persons that reports are measured on


def run(setup: Setup) -> None:
    """Run the stage `heads`: render crops until its time is used up."""
    budget = setup.budget("heads")
    gpus = torch.cuda.device_count() if setup.on_gpu else 0
    now = time.monotonic()
    seconds = min(budget.seconds * (1 - budget.fraction), setup.deadline - now)
    job = RenderJob(
        seeds=range(setup.max_steps or HEADS),
        processes=PROCESSES * gpus or 1,
        out=setup.data / HEADS_FOLDER,
        device=setup.device.type,
        jpeg_quality=JPEG_QUALITY,
        size=TINY_SIZE if setup.tiny else 384,
        quality=TINY_QUALITY if setup.tiny else Quality(),
        crops=True,
        deadline=time.time() + seconds if setup.max_steps is None else float("inf"),
    )
    run_job(job)
    budget.use(1.0 if setup.max_steps else (time.monotonic() - now) / budget.seconds)
    budget.save()


@dataclass
class Crops:
    """Crops on a device.

    Attributes:
        pixels: uint8 (N, 3, 256, 256).
        labels: int64 (N, attributes); -1 where the image does not show it.
        scenes: float32 (N, d), see `codes.scene_vector`.
        persons: int64 (N,), who is shown.
    """

    pixels: Tensor
    labels: Tensor
    scenes: Tensor
    persons: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, index: Tensor) -> Tensor:
        """Return crops as float32 (n, 3, 256, 256) in [-1, 1]."""
        return self.pixels[index].float() / 127.5 - 1

    def draw(self, count: int) -> Tensor:
        """Draw indices."""
        return torch.randint(len(self), (count,), device=self.labels.device)

    def complete_labels(self, index: Tensor) -> Tensor:
        """Return labels (n, attributes) with random values where an attribute is not visible."""
        sizes = torch.tensor(TABLE.sizes, device=index.device)
        random = (torch.rand(len(index), len(sizes), device=index.device) * sizes).long()
        return torch.where(self.labels[index] < 0, random, self.labels[index])


def load_crops(setup: Setup) -> tuple[Crops, Crops]:
    """Load the rendered crops; return those to train on, and those that are held out."""
    folder = setup.data / HEADS_FOLDER
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    heads = [head for path in folders for head in read_shards(path)]
    heads.sort(key=lambda head: head[1]["seed"])
    with ThreadPoolExecutor() as pool:
        pixels = np.stack(list(pool.map(_decode, (jpeg for jpeg, _ in heads))))
    records = [record for _, record in heads]
    persons = torch.tensor([record["seed"] // PHOTOS_OF_A_PERSON for record in records])
    everything = (
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([TABLE.encode(record["labels"]) for record in records]),
        torch.tensor([record["scene"] for record in records]),
        persons,
    )
    known = persons.unique()
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(SEED))]
    held_out = torch.isin(persons, order[: max(1, int(len(known) * HELD_OUT))])
    print(f"{len(heads)} crops of {len(known)} persons", flush=True)
    training, testing = (
        Crops(*(part[chosen].to(setup.device) for part in everything))
        for chosen in (~held_out, held_out)
    )
    return training, testing


def _decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def scene_size(folder: Path) -> int:
    """Return the length of the scene vectors of the heads in a folder."""
    for path in sorted(folder.glob(f"{HEADS_FOLDER}/*")):
        for _, record in read_shards(path):
            return len(record["scene"])
    raise FileNotFoundError(f"{folder / HEADS_FOLDER} has no heads: run the stage `heads` first")
