"""Compute a domain's StyleSpace statistics, with the code that serves every domain."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from domains.training.contrastive import EncodeImage
from domains.training.networks import TEXT_TOWER
from domains.training.setup import Setup
from styleclip_export.errors import StatisticsError
from styleclip_export.npz_files import save_npz
from styleclip_export.progress import ReportRows
from styleclip_export.statistics.fs3 import Fs3Settings, fs3_channels, fs3_rows
from styleclip_export.statistics.fs3_part import Fs3Part
from styleclip_export.statistics.moments import style_moments
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE

# Shorter changes of the CLIP feature count less: the generator switches between whole values,
# so most channels leave most images unchanged.
FLOOR = 0.03
NETWORK_FILES = ("generator.pt", "mapping.pt", "clip.pt", "image_tower.pt")
PART_FILE = "fs3_part.npz"  # what a run that was stopped has computed
TRUNCATION = 1.0  # the presets' strengths are in these deviations; StyleCLIP's are 0.7 of them


@dataclass(frozen=True)
class Effort:
    """What trades precision for time.

    Attributes:
        images: in which each channel is changed.
        latents: that means and deviations are taken of.
        channels: how many are changed, for dry runs; None means all.
    """

    images: int = 100
    latents: int = 100_000
    channels: int | None = None


def compute_statistics(
    setup: Setup,
    generator: Generator,
    encode_image: EncodeImage,
    effort: Effort | None = None,
    editable: Tensor | None = None,
) -> bool:
    """Write STATISTICS_FILE of a trained generator and CLIP.

    Args:
        encode_image: CLIP's image tower, on the device and for evaluation.
        editable: bool (rows of fs3,); edits leave other channels alone. None means all.

    Returns:
        False where the deadline came first: PART_FILE has the channels that are done, and the next
        run continues.
    """
    effort = effort or Effort()
    generator = generator.to(setup.device).eval()
    mean, std, w_avg = style_moments(generator, effort.latents, truncation=TRUNCATION)
    generator.set_upsampling("folded" if setup.on_gpu else "transposed")
    total = len(fs3_channels(generator))
    settings = Fs3Settings(effort.images, floor=FLOOR, dtype=setup.dtype, truncation=TRUNCATION)
    part_file = setup.out / PART_FILE
    key = _fingerprint(setup, settings)
    computed = _load_part(part_file, total, TEXT_TOWER["embed_dim"], key)
    missing = ~computed.done if editable is None else ~computed.done & editable.cpu().numpy()
    rows = {int(row) for row in np.flatnonzero(missing)[: effort.channels or total]}
    progress = _progress_printer()

    def encode(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return encode_image(images)

    for done, row in enumerate(fs3_rows(generator, encode, mean, std, settings, rows), 1):
        computed.add(row)
        progress(done, len(rows))
        if time.monotonic() > setup.deadline and done < len(rows):
            computed.save(part_file)
            print(f"{int(computed.done.sum())} of {total} channels are done", flush=True)
            return False
    fs3, change = computed.fs3, computed.change
    arrays = {
        "style_mean": mean,
        "style_std": std,
        "w_avg": w_avg,
        "fs3": fs3.astype(np.float16),
        "change": change,
    }
    save_npz(setup.out / STATISTICS_FILE, arrays, compressed=True)
    moving, visible = int((std > 0).sum()), int((np.abs(fs3).sum(1) > 0).sum())
    print(f"{moving} channels move, CLIP sees {visible}", flush=True)
    if (change > 0).any():
        quantiles = np.quantile(change[change > 0], (0.1, 0.25, 0.5, 0.75, 0.9))
        print(f"change quantiles {quantiles.round(4)}", flush=True)
    part_file.unlink(missing_ok=True)
    return True


def _fingerprint(setup: Setup, settings: Fs3Settings) -> str:
    """Return what tells apart the networks and settings that channels are computed with."""
    files = [setup.out / name for name in NETWORK_FILES]
    weights = b"".join(path.read_bytes() for path in files if path.exists())
    return f"{hashlib.sha256(weights).hexdigest()} {settings}"


def _load_part(path: Path, rows: int, width: int, key: str) -> Fs3Part:
    """Read what an earlier run computed of the same networks."""
    try:
        return Fs3Part.load(path, rows, width, key)
    except StatisticsError:
        return Fs3Part.empty(rows, width, key)


def _progress_printer() -> ReportRows:
    start = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5 or done == total:
            last = time.monotonic()
            print(f"[fs3 {last - start:6.1f} s] {done} of {total} channels", flush=True)

    return progress
