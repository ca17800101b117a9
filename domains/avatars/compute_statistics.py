"""StyleSpace statistics of the avatars, by the code that serves every domain."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from train_clip import new_clip, prepare
from train_generator import load_generator
from training import load

from styleclip_export.statistics.fs3 import Fs3Rule, estimate_fs3, style_moments

# Changes of the CLIP feature shorter than this are no evidence: the generator decides for whole
# values, so many channels change nothing at all in most pictures.
FLOOR = 0.03


def run(data_dir: Path, out: Path, device: torch.device, num_images: int = 100) -> None:
    """The stage `statistics`: writes `out/statistics.npz`."""
    generator = load_generator(out).to(device).eval()
    with np.load(data_dir / "captions.npz") as data:
        clip = new_clip(len(data["vocabulary"]) + 2)
    if not load(clip, out / "clip.pt"):
        raise SystemExit("The statistics need clip.pt: run the stage `clip` first.")
    clip = clip.to(device).eval()
    cuda = device.type == "cuda"
    mean, std, w_avg = style_moments(generator, 100_000)
    generator.upsample_as("folded" if cuda else "transposed")
    start = last = time.monotonic()

    def encode_image(pictures: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=False):
            return clip.encode_image(prepare(pictures))

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5 or done == total:
            last = time.monotonic()
            print(f"[fs3 {last - start:6.1f} s] {done} of {total} channels", flush=True)

    fs3, change = estimate_fs3(
        generator,
        encode_image,
        mean,
        std,
        Fs3Rule(num_images, floor=FLOOR, dtype=torch.bfloat16 if cuda else torch.float32),
        progress=progress,
    )
    temporary = out / "statistics.tmp.npz"
    np.savez_compressed(
        temporary,
        style_mean=mean,
        style_std=std,
        w_avg=w_avg,
        fs3=fs3.astype(np.float16),
        change=change,
    )
    temporary.rename(out / "statistics.npz")
    moving, seen = int((std > 0).sum()), int((np.abs(fs3).sum(1) > 0).sum())
    print(f"{moving} channels move, CLIP sees {seen}; change quantiles", flush=True)
    print(np.quantile(change[change > 0], (0.1, 0.25, 0.5, 0.75, 0.9)).round(4), flush=True)
