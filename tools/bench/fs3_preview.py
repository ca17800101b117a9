"""How a preview changes fs3, on the trained networks of the domain avatars (256 px).

It compares directions from previews with those from full images, for a few channels of every layer
and held-out avatars. The body of the attribute classifier stands in for CLIP's image encoder, which
is not in this repository. The table has the cosines between both directions, for all channels and
for the visible ones, whose change is at least FLOOR: the direction of others is mostly noise. "skip
alone" leaves out what the layers above the preview add to the unchanged image.
`python -m tools.bench.fs3_preview` needs the packages of the tests and some minutes on a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import accumulate, groupby
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from styleclip_export.convert.float16_on_cpu import Float16OnCPU
from styleclip_export.statistics.fs3 import channel_direction
from styleclip_export.statistics.resynthesis import Resynthesis
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving.domain_folder import load_domain
from tools.bench.networks_from_onnx import Networks, read_networks

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = ROOT / "model_repository" / "avatars"
TRAINING = ROOT / "domains" / "avatars"
FLOOR = 0.03
ALPHA = 5  # standard deviations

Channels = list[tuple[int, int]]


def directions(
    resynthesis: Resynthesis, channels: Channels, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute directions and mean changes.

    Args:
        channels: (style index, channel), in execution order.
        mean, std: (S,).

    Returns:
        directions (rows, D), and mean lengths of the changes (rows,).
    """
    generator = resynthesis.generator
    offsets = [0, *accumulate(generator.style_channels)]
    inputs, features = resynthesis.first_inputs(), []
    for block, group in groupby(channels, lambda c: generator.layers[c[0]].block):
        inputs = resynthesis.advance(inputs, block)
        encoder = resynthesis.encoder(inputs)
        for index, channel in group:
            position = offsets[index] + channel
            m, s = float(mean[position]), float(std[position])
            features.append(encoder.encode_changed(position, (m - ALPHA * s, m + ALPHA * s)))
    return channel_direction(torch.stack(features))


def choose_channels(generator: Generator, std: Tensor, count: int, seed: int) -> Channels:
    """Draw up to `count` channels that change from every convolution."""
    rng, chosen = np.random.default_rng(seed), []
    for index, (layer, layer_std) in enumerate(
        zip(generator.layers, std.split(generator.style_channels), strict=True)
    ):
        changing = torch.nonzero(layer_std > 0)[:, 0].numpy()
        if not layer.to_rgb:
            drawn = rng.choice(changing, min(count, len(changing)), replace=False)
            chosen += [(index, int(channel)) for channel in sorted(drawn)]
    return chosen


def load_classifier_body() -> Callable[[Tensor], Tensor]:
    """Return the classifier's body: images (N, 3, H, W) in about [-1, 1] → features (N, D)."""
    sys.path.insert(0, str(TRAINING))
    from classifier import Classifier
    from training import load_weights

    classifier = Classifier().eval()
    load_weights(classifier, TRAINING / "classifier.pt")
    classifier.float()

    def encode(images: Tensor) -> Tensor:
        images = F.interpolate(images.clamp(-1, 1), (256, 256), mode="bicubic", antialias=True)
        return classifier.body(images).flatten(1)

    return encode


def draw_latents(networks: Networks, count: int, seed: int) -> Tensor:
    """Draw W+ (count, L, w_dim) of held-out avatars."""
    sys.path.insert(0, str(TRAINING))
    from renders import render, sample_labels

    labels = sample_labels(count, torch.Generator().manual_seed(seed))
    images = np.stack([np.asarray(render(row)) for row in labels.numpy()])
    faces = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    w_plus = networks.encoder(faces)
    return w_plus if networks.w_avg is None else w_plus + networks.w_avg


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", default=12, help="Avatars of each channel.")
@click.option("--channels", default=3, help="Channels of each layer.")
@click.option("--preview", "previews", multiple=True, type=int, default=(128, 64))
@click.option("--seed", default=20_263)
@torch.inference_mode()
def main(images: int, channels: int, previews: tuple[int, ...], seed: int) -> None:
    """Compare fs3 at previews with fs3 at full size."""
    networks = read_networks(DOMAIN)
    generator = networks.generator.eval()
    encode = load_classifier_body()
    styles = generator.affine(draw_latents(networks, images, seed))
    statistics = load_statistics(DOMAIN, load_domain(DOMAIN).style_channels)
    mean, std = (torch.from_numpy(x) for x in (statistics.style_mean, statistics.style_std))
    chosen = choose_channels(generator, std, channels, seed)

    def resynthesis(preview: int | None = None, dtype: torch.dtype = torch.float32) -> Resynthesis:
        return Resynthesis(generator, encode, styles, batch=8, preview=preview, dtype=dtype)

    exact, change = directions(resynthesis(), chosen, mean, std)
    console, table = Console(width=100), Table(box=None)
    for name in ("seen at", "channels", "rows", "least", "10%", "median", "mean"):
        table.add_column(name, justify="right")

    def add_rows(name: str, result: Tensor, max_resolution: int) -> None:
        rows = [i for i, (index, _) in enumerate(chosen)
                if generator.layers[index].resolution <= max_resolution]  # fmt: skip
        cosines = (result[rows] * exact[rows]).sum(1).double()
        visible = change[rows] >= FLOOR
        for group, c in (("all", cosines), ("visible", cosines[visible])):
            if len(c):
                numbers = (c.min(), c.quantile(0.1), c.median(), c.mean())
                table.add_row(name, group, str(len(c)), *(f"{x:.4f}" for x in numbers))

    for preview in previews:
        at_preview = resynthesis(preview)
        add_rows(f"{preview} px", directions(at_preview, chosen, mean, std)[0], preview)
        skip_alone = resynthesis(preview)
        assert skip_alone.detail is not None
        skip_alone.detail.zero_()
        add_rows(f"{preview} px, skip alone", directions(skip_alone, chosen, mean, std)[0], preview)
    with Float16OnCPU():
        rounded, _ = directions(resynthesis(dtype=torch.float16), chosen, mean, std)
    add_rows("256 px, float16", rounded, 256)
    console.print(table)


if __name__ == "__main__":
    main()
