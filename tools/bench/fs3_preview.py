"""What a preview changes in fs3, on the trained networks of the domain avatars (256 px).

A few channels of every layer are tried on held-out avatars, seen by the body of the attribute
classifier in place of CLIP's image tower (which is not kept in this repository), at full size and
at previews; the table has the cosines between both directions, of all these channels and of those
that change the picture visibly (FLOOR, as in the statistics of the avatars; the direction of
another is mostly noise). "skip alone" leaves out what the
layers above the preview added to the unchanged picture. `python -m tools.bench.fs3_preview` needs
the packages of the tests and some minutes on a CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from styleclip_export.convert.float16_on_cpu import Float16OnCPU
from styleclip_export.statistics.fs3 import Fs3Rule, Tail, channel_direction
from styleclip_server.pipeline.domain_folder import load_domain
from styleclip_server.pipeline.style_statistics import load_statistics
from tools.bench.networks_from_onnx import read

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = ROOT / "model_repository" / "avatars"
FLOOR = 0.03


def directions(
    tail: Tail, wanted: list[tuple[int, int]], mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    """Directions (rows, D) of the (style, channel) in `wanted`, which is in order, and the mean
    lengths of their changes (rows,)."""
    features = []
    for index, channel in wanted:
        first = sum(tail.generator.style_channels[:index])
        m, s = float(mean[first + channel]), float(std[first + channel])
        features.append(tail.features(index, channel, (m - 5 * s, m + 5 * s)))
    return channel_direction(torch.stack(features))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", default=12, help="Avatars of each channel.")
@click.option("--channels", default=3, help="Channels of each layer.")
@click.option("--preview", "previews", multiple=True, type=int, default=(128, 64))
@click.option("--seed", default=20_263)
@torch.inference_mode()
def main(images: int, channels: int, previews: tuple[int, ...], seed: int) -> None:
    """Compare fs3 at previews with fs3 at full size."""
    sys.path.insert(0, str(ROOT / "demo" / "avatars"))
    from classifier import Classifier
    from quality import avatars
    from training import load

    networks = read(DOMAIN)
    generator, encoder = networks.generator.eval(), networks.encoder
    judge = Classifier().eval()
    load(judge, ROOT / "demo" / "avatars" / "classifier.pt")
    judge.float()
    statistics = load_statistics(DOMAIN, load_domain(DOMAIN).style_channels)
    mean, std = (torch.from_numpy(x) for x in (statistics.style_mean, statistics.style_std))
    pictures, _ = avatars(images, seed)
    faces = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    w_plus = encoder(faces)
    if networks.w_avg is not None:
        w_plus = w_plus + networks.w_avg
    styles = generator.affine(w_plus)

    rng, wanted, first = np.random.default_rng(seed), [], 0
    for index, layer in enumerate(generator.layers):
        moving = torch.nonzero(std[first : first + layer.channels] > 0)[:, 0].numpy()
        if not layer.to_rgb:
            chosen = rng.choice(moving, min(channels, len(moving)), replace=False)
            wanted += [(index, int(channel)) for channel in sorted(chosen)]
        first += layer.channels

    def see(pictures: Tensor) -> Tensor:
        small = torch.nn.functional.interpolate(
            pictures.clamp(-1, 1), size=(256, 256), mode="bicubic", antialias=True
        )
        return judge.body(small).flatten(1)

    def tail(preview: int | None = None, dtype: torch.dtype = torch.float32) -> Tail:
        return Tail(generator, see, styles, Fs3Rule(images, batch=8, preview=preview, dtype=dtype))

    exact, change = directions(tail(), wanted, mean, std)
    console, table = Console(width=100), Table(box=None)
    for name in ("seen at", "channels", "rows", "least", "10%", "median", "mean"):
        table.add_column(name, justify="right")

    def tell(name: str, found: Tensor, below: int) -> None:
        kept = [i for i, (index, _) in enumerate(wanted)
                if generator.layers[index].resolution <= below]  # fmt: skip
        cosines = (found[kept] * exact[kept]).sum(1).double()
        visible = change[kept] >= FLOOR
        for which, c in (("all", cosines), ("visible", cosines[visible])):
            if len(c):
                numbers = (c.min(), c.quantile(0.1), c.median(), c.mean())
                table.add_row(name, which, str(len(c)), *(f"{x:.4f}" for x in numbers))

    for preview in previews:
        whole = tail(preview)
        tell(f"{preview} px", directions(whole, wanted, mean, std)[0], preview)
        alone = tail(preview)
        assert alone.detail is not None
        alone.detail.zero_()
        tell(f"{preview} px, skip alone", directions(alone, wanted, mean, std)[0], preview)
    with Float16OnCPU():
        half, _ = directions(tail(dtype=torch.float16), wanted, mean, std)
    tell("256 px, float16", half, 256)
    console.print(table)


if __name__ == "__main__":
    main()
