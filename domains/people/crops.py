"""The face crops that the networks are trained on: rendered on this machine, kept in memory."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
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
from styleclip_contract.wire import FACE_SIZE

HEADS = 40_000  # at most
DRY_RUN_HEADS = 2 * PHOTOS_OF_A_PERSON  # at least: one person is held out
HEADS_FOLDER = "heads"
PROCESSES = 12  # of the rendering, for each GPU: 53 heads/s on an H200 (6: 34)
JPEG_QUALITY = 95
TINY_SIZE, TINY_QUALITY = 96, Quality(surrounding_lights=4, shadow_size=96, strands=1500)
DECODED_AT_ONCE = 1024  # crops
HELD_OUT = 0.02  # share of the persons that reports are measured on
SCENE_ATTRIBUTES = ("skin", "background", "light", "view")  # which scenes show by themselves
RIDGE = 1.0  # crops; keeps the fit of rare labels small


def run(setup: Setup) -> None:
    """Run the stage `heads`: render crops until its time is used up."""
    budget = setup.budget("heads")
    gpus = torch.cuda.device_count() if setup.on_gpu else 0
    now = time.monotonic()
    seconds = min(budget.seconds * (1 - budget.fraction), setup.deadline - now)
    job = RenderJob(
        seeds=range(max(setup.max_steps, DRY_RUN_HEADS) if setup.max_steps else HEADS),
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
    _load.cache_clear()
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
        return complete(self.labels[index])


def complete(labels: Tensor) -> Tensor:
    """Return labels (n, attributes) with random values in place of negative ones."""
    sizes = torch.tensor(TABLE.sizes, device=labels.device)
    random = (torch.rand(labels.shape, device=labels.device) * sizes).long()
    return torch.where(labels < 0, random, labels)


def load_crops(setup: Setup) -> tuple[Crops, Crops]:
    """Return the rendered crops to train on, and those that are held out; loaded once a process."""
    return _load(setup.data / HEADS_FOLDER, setup.device)


@lru_cache(maxsize=1)
def _load(folder: Path, device: torch.device) -> tuple[Crops, Crops]:
    start = time.monotonic()
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    heads = [head for path in folders for head in read_shards(path)]
    heads.sort(key=lambda head: head[1]["seed"])
    records = [record for _, record in heads]
    persons = torch.tensor([record["seed"] // PHOTOS_OF_A_PERSON for record in records])
    known = persons.unique()
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(SEED))]
    held_out = torch.isin(persons, order[: max(1, int(len(known) * HELD_OUT))])
    labels = torch.tensor([TABLE.encode(record["labels"]) for record in records])
    scenes = remove_labels(torch.tensor([record["scene"] for record in records]), labels)
    everything = (
        _decode_all([jpeg for jpeg, _ in heads], device),
        labels.to(device),
        scenes.to(device),
        persons.to(device),
    )
    training, testing = (
        Crops(*(part[torch.nonzero(chosen).squeeze(1).to(device)] for part in everything))
        for chosen in (~held_out, held_out)
    )
    seconds = time.monotonic() - start
    print(f"{len(heads)} crops of {len(known)} persons, {seconds:.1f} s", flush=True)
    return training, testing


def remove_labels(scenes: Tensor, labels: Tensor) -> Tensor:
    """Subtract the ridge regression of scene vectors (N, d) on labels (N, attributes).

    The length of a beard is zero without one. Were that in the scene, an edit could add none.
    SCENE_ATTRIBUTES take no part; labels of -1 count as no value.
    """
    own = [a for a, name in enumerate(TABLE.names) if name not in SCENE_ATTRIBUTES]
    columns = [labels[:, a, None] == torch.arange(TABLE.sizes[a]) for a in own]
    x = torch.cat(columns, 1).double()
    x, y = x - x.mean(0), scenes.double() - scenes.double().mean(0)
    ridge = RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    return (scenes - x @ torch.linalg.solve(x.T @ x + ridge, x.T @ y)).float()


def _decode_all(jpegs: Sequence[bytes], device: torch.device) -> Tensor:
    """Decode crops to uint8 (N, 3, 256, 256) on a device, some at a time."""
    pixels = torch.empty(len(jpegs), 3, FACE_SIZE, FACE_SIZE, dtype=torch.uint8, device=device)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(jpegs), DECODED_AT_ONCE):
            some = list(pool.map(_decode, jpegs[start : start + DECODED_AT_ONCE]))
            decoded = torch.from_numpy(np.stack(some)).to(device)
            pixels[start : start + len(some)] = decoded.permute(0, 3, 1, 2)
    return pixels


def _decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def scene_size(folder: Path) -> int:
    """Return the length of the scene vectors of the heads in a folder."""
    for path in sorted(folder.glob(f"{HEADS_FOLDER}/*")):
        for _, record in read_shards(path):
            return len(record["scene"])
    raise FileNotFoundError(f"{folder / HEADS_FOLDER} has no heads: run the stage `heads` first")
