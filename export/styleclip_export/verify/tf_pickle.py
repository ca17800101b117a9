"""Cases of TensorFlow-era generators: `tf_generator_<res>.pkl`, `.npz` and `.json`.

The pickle is read like any official checkpoint, so the case verifies the reader too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from styleclip_export.checkpoints import generators
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Arrays, Case, Folder
from styleclip_export.verify.generator import synthesize
from styleclip_export.verify.report import Row, compare, compare_lists
from styleclip_networks.latents import truncate_latents
from styleclip_networks.stylegan2 import Generator

FIELDS = (
    "seed",
    "resolution",
    "z_dim",
    "w_dim",
    "num_ws",
    "style_names",
    "style_channels",
    "truncation_psi",
    "truncation_cutoff",
)


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the cases of the golden folder."""
    for name in folder.stems("tf_generator_*.*"):
        files = tuple(f"{name}.{suffix}" for suffix in ("pkl", "npz", "json"))
        yield Case(name, files, partial(_check, folder, name))


def _check(folder: Folder, name: str) -> Iterator[Row]:
    checkpoint = generators.read_generator(folder.path(f"{name}.pkl"))
    generator = checkpoint.network()
    average = checkpoint.w_avg_or_mean(generator)
    content = folder.json(f"{name}.json", known=FIELDS)
    yield from _compare(generator, average, content, folder.arrays(f"{name}.npz"))


def _compare(
    generator: Generator, average: Tensor, content: dict[str, Any], data: Arrays
) -> Iterator[Row]:
    sizes = [generator.resolution, generator.w_dim, generator.w_dim, generator.num_latents]
    official = [content[key] for key in ("resolution", "z_dim", "w_dim", "num_ws")]
    yield compare_lists("sizes", sizes, official)
    layers = [(layer.styleclip_name, layer.channels) for layer in generator.layers]
    official_layers = zip(content["style_names"], content["style_channels"], strict=True)
    yield compare_lists("layers", layers, list(official_layers))

    styles = generator.affine(torch.from_numpy(data["ws"]))
    pairs = [(f"style_{i:02}", style, data[f"style_{i:02}"]) for i, style in enumerate(styles)]
    yield compare(f"styles ({len(pairs)})", pairs, bounds.STYLES)
    image = torch.cat(list(synthesize(generator, styles)))
    yield compare("image", [("image", image, data["image"])], bounds.IMAGE)

    w = generator.mapping(torch.from_numpy(data["z"]))
    yield compare("w of z", [("w", w, data["w"])], bounds.STYLES)
    yield compare("w_avg", [("w_avg", average, data["w_avg"])], bounds.STYLES)
    psi, cutoff = float(content["truncation_psi"]), int(content["truncation_cutoff"])
    w_plus = w[:, None].expand(-1, generator.num_latents, -1)
    w_plus = truncate_latents(w_plus, average, psi, cutoff)
    yield compare("w truncated", [("ws_trunc", w_plus, data["ws_trunc"])], bounds.STYLES)
    image = torch.cat(list(synthesize(generator, generator.affine(w_plus))))
    pair = ("image_trunc", image, data["image_trunc"])
    yield compare("image, w truncated", [pair], bounds.IMAGE)
