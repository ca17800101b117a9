"""The statistics of a domain as a resumable job: S moments and fs3, in parts that can be merged.

Rows of fs3 do not depend on each other, so a part is any stripe of them: `part` k of `parts` takes
rows k, k + parts, …, which spreads the dear early layers evenly. Every part is one file that is
saved whole each few seconds; a killed job goes on from there and gives the same numbers.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_export.errors import StatisticsError
from styleclip_export.statistics.fs3 import Fs3Rule, fs3_rows, num_rows, style_moments
from styleclip_networks.clip import CLIP, IMAGE_MEAN, IMAGE_STD, MLP, QUICK_GELU_SCALE
from styleclip_networks.stylegan2 import Generator

SAVE_SECONDS = 10.0
MOMENTS = "moments.npz"
UNKNOWN = np.uint8(0)  # in `state`: a row that is not computed yet
STILL, MOVES = np.uint8(1), np.uint8(2)

Progress = Callable[[int, int], None]


@dataclass
class Part:
    """Rows k, k + parts, … of fs3 (R,): `state` UNKNOWN, STILL or MOVES; `fs3` (R, D) float32;
    `change` (R,). `key` says what the numbers depend on."""

    key: str
    state: np.ndarray
    fs3: np.ndarray
    change: np.ndarray
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def load(cls, path: Path, key: str, rows: int, width: int) -> Part:
        """What an earlier run left in `path`, or an empty part.

        Raises:
            StatisticsError: the file is of other networks, settings or sizes.
        """
        if not path.is_file():
            return cls(key, np.zeros(rows, np.uint8), np.zeros((rows, width), np.float32),
                       np.zeros(rows, np.float32))  # fmt: skip
        try:
            with np.load(path, allow_pickle=False) as data:
                found = cls(str(data["key"]), data["state"], data["fs3"], data["change"])
        except (OSError, ValueError, KeyError) as error:
            raise StatisticsError(
                f"{path} is damaged ({error}): remove it, its rows are computed again"
            ) from error
        if found.key != key or found.fs3.shape != (rows, width):
            raise StatisticsError(
                f"{path} belongs to other networks or settings: remove it or choose another "
                "folder with --work"
            )
        return found

    def save(self, path: Path) -> None:
        """Writes the part whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, key=self.key, state=self.state, fs3=self.fs3, change=self.change)
        write_bytes(path, buffer.getvalue())
        self.saved = time.monotonic()


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` under a temporary name, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data)
    partial.replace(path)


def fingerprint(networks: Sequence[torch.nn.Module], rule: Fs3Rule, samples: int) -> str:
    """A hash of all weights and of every setting that changes the numbers."""
    digest = hashlib.sha256(json.dumps([str(rule), samples]).encode())
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def fold_quick_gelu(mlp: MLP) -> None:
    """Moves quick GELU's scale a into the weights, so that a GPU runs one kernel instead of three:
    x sigmoid(a x) = silu(a x) / a."""
    mlp.c_fc.weight.mul_(QUICK_GELU_SCALE)
    mlp.c_fc.bias.mul_(QUICK_GELU_SCALE)
    mlp.c_proj.weight.div_(QUICK_GELU_SCALE)
    mlp.activation = F.silu


def image_encoder(clip: CLIP, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """Pictures (N, 3, H, W) in [-1, 1] → CLIP features (N, D), with CLIP's own preprocessing:
    bicubic reduction with antialiasing, then its mean and deviation. `dtype`: of the network."""
    size = clip.visual.resolution
    visual = copy.deepcopy(clip.visual)
    for module in visual.modules():
        if isinstance(module, MLP):
            fold_quick_gelu(module)
    visual.to(dtype)

    @functools.lru_cache
    def constants(side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The reduction along one side as a matrix (size, side); what [-1, 1] is multiplied by and
        what is added then, so that it has CLIP's mean and deviation. Made once, since a CUDA graph
        cannot copy them from the host."""
        unit = torch.eye(side, device=device)[None, None]
        rows = F.interpolate(unit, size=(size, side), mode="bicubic", antialias=True)[0, 0]
        mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (IMAGE_MEAN, IMAGE_STD))
        return rows.to(dtype), 0.5 / std, (0.5 - mean) / std

    def encode(pictures: Tensor) -> Tensor:
        matrix, scale, shift = constants(pictures.shape[-1], pictures.device)
        small = matrix @ pictures.to(dtype) @ matrix.T
        return visual((small.clamp(-1, 1) * scale + shift).to(dtype)).float()

    return encode


def part_path(work: Path, part: int, parts: int) -> Path:
    """Where a part is kept."""
    return work / f"fs3-{part}-of-{parts}.npz"


def rows_of_part(generator: Generator, part: int, parts: int, channels: int | None = None) -> range:
    """The rows of fs3 that a part computes; `channels`: only those among the first so many."""
    rows = num_rows(generator)
    return range(part, min(rows, channels or rows), parts)


def is_complete(path: Path, key: str, generator: Generator, clip: CLIP, size: int) -> bool:
    """Whether a part's file has all of its `size` rows.

    Raises:
        StatisticsError: see `Part.load`.
    """
    found = Part.load(path, key, num_rows(generator), clip.text_projection.shape[1])
    return int((found.state != UNKNOWN).sum()) >= size


def compute_part(
    generator: Generator,
    clip: CLIP,
    work: Path,
    rule: Fs3Rule,
    *,
    samples: int = 100_000,
    part: int = 0,
    parts: int = 1,
    channels: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Computes, or goes on with, one part of fs3 (and the moments of S, which every part needs).

    Args:
        work: folder for the parts and `moments.npz`.
        channels: only the first so many rows (a trial).

    Returns:
        The part's file.

    Raises:
        StatisticsError: see `Part.load`.
    """
    key = fingerprint((generator, clip), rule, samples)
    mean, std, _ = moments(generator, work, key, samples)
    rows = num_rows(generator)
    path = part_path(work, part, parts)
    found = Part.load(path, key, rows, clip.text_projection.shape[1])
    mine = rows_of_part(generator, part, parts, channels)
    missing = {row for row in mine if found.state[row] == UNKNOWN}
    done = len(mine) - len(missing)
    if progress:
        progress(done, len(mine))
    encode = image_encoder(clip, rule.dtype)
    if next(generator.parameters()).is_cuda:
        torch.backends.cudnn.benchmark = not rule.repeatable
    try:
        for row, direction, change in fs3_rows(generator, encode, mean, std, rule, missing):
            if direction is not None:
                found.fs3[row] = direction
            found.change[row] = change
            found.state[row] = STILL if direction is None else MOVES
            done += 1
            if progress:
                progress(done, len(mine))
            if time.monotonic() - found.saved > SAVE_SECONDS:
                found.save(path)
    finally:
        found.save(path)  # also when interrupted
    return path


def moments(
    generator: Generator, work: Path, key: str, samples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and deviation of S and the average latent, computed once for all parts."""
    path = work / MOMENTS
    if path.is_file():
        with np.load(path, allow_pickle=False) as data:
            if str(data["key"]) == key:
                return data["mean"], data["std"], data["w_avg"]
    mean, std, w_avg = style_moments(generator, samples)
    buffer = io.BytesIO()
    np.savez(buffer, key=key, mean=mean, std=std, w_avg=w_avg)
    write_bytes(path, buffer.getvalue())
    return mean, std, w_avg


def merge(work: Path, files: Iterable[Path], target: Path) -> tuple[int, int]:
    """Joins parts into `target` (statistics.npz).

    Rows that no part has become zero rows, so a trial of a few channels can be served.

    Returns:
        Rows computed, and rows in all.

    Raises:
        StatisticsError: the parts belong to different networks or settings.
    """
    parts = []
    for path in files:
        with np.load(path, allow_pickle=False) as data:
            parts.append(Part(str(data["key"]), data["state"], data["fs3"], data["change"]))
    with np.load(work / MOMENTS, allow_pickle=False) as data:
        keys = {str(data["key"]), *(part.key for part in parts)}
        mean, std, w_avg = data["mean"], data["std"], data["w_avg"]
    if len(keys) != 1:
        raise StatisticsError(
            f"the parts in {work} belong to different networks or settings: remove those that "
            "are not wanted"
        )
    state, fs3, change = parts[0].state, parts[0].fs3, parts[0].change
    for part in parts[1:]:
        new = part.state != UNKNOWN
        state[new], fs3[new], change[new] = part.state[new], part.fs3[new], part.change[new]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        style_mean=mean,
        style_std=std,
        w_avg=w_avg,
        fs3=fs3.astype(np.float16),
        change=change,
    )
    write_bytes(target, buffer.getvalue())
    return int((state != UNKNOWN).sum()), len(state)
