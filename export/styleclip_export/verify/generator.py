"""StyleGAN2 cases: `stylegan2_<res>.npz` and `.json`, `keys_stylegan2_<res>.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Arrays, Case, Folder
from styleclip_export.verify.report import Row, compare, compare_lists, compare_mappings
from styleclip_networks.latents import truncate_latents
from styleclip_networks.sizes import generator_sizes
from styleclip_networks.stylegan2 import Generator

TRUNCATION = 0.7
PIXELS_PER_BATCH = 1024**2  # bounds the memory


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the cases of the golden folder."""
    stems = folder.stems("stylegan2_*.npz", "stylegan2_*.json", "keys_stylegan2_*.json")
    for name in sorted({stem.removeprefix("keys_") for stem in stems}):
        files = (f"keys_{name}.json", f"{name}.json", f"{name}.npz")
        yield Case(name, files, partial(_check, folder, name), needs_weights=True)


def _check(folder: Folder, name: str) -> Iterator[Row]:
    keys = f"keys_{name}.json"
    shapes = folder.shapes(folder.json(keys), keys)
    generator = build_empty(shapes)
    yield compare_mappings("names and shapes", shapes_of(generator), shapes)
    generator.load_state_dict(folder.state_dict(shapes), strict=True, assign=True)

    official_layers = folder.json(f"{name}.json", known=("size", "seed", "layers"))["layers"]
    layers = [(s.name, s.styleclip_name, s.channels) for s in generator.layers]
    official = [(s["module"], s["styleclip_name"], s["channels"]) for s in official_layers]
    yield compare_lists("layers", layers, official)

    data = folder.arrays(f"{name}.npz")
    styles = generator.affine(torch.from_numpy(data["w_plus"]))
    pairs = [(f"style_{i:02}", style, data[f"style_{i:02}"]) for i, style in enumerate(styles)]
    yield compare(f"styles ({len(pairs)})", pairs, bounds.STYLES)

    yield compare_images("image", synthesize(generator, styles), data, bounds.IMAGE)
    generator.set_upsampling("folded")
    yield compare_images("image, folded blur", synthesize(generator, styles), data, bounds.IMAGE)
    generator.set_upsampling("transposed")

    for index, channel, delta in data["edits"]:
        styles[int(index)][:, int(channel)] += float(delta)
    images = synthesize(generator, styles)
    yield compare_images("image, styles edited", images, data, bounds.IMAGE, prefix="edit_")

    w = generator.mapping(torch.from_numpy(data["z"]))
    yield compare("w of z", [("w", w, data["w"])], bounds.STYLES)
    average = folder.state_dict({"latent_avg": [generator.w_dim]})["latent_avg"]
    w_plus = truncate_latents(w[:, None].expand(-1, generator.num_latents, -1), average, TRUNCATION)
    rows = [(f"trunc_w, row {i}", w_plus[:, i], data["trunc_w"]) for i in (0, -1)]
    yield compare("w truncated", rows, bounds.STYLES)
    images = synthesize(generator, generator.affine(w_plus))
    yield compare_images("image, w truncated", images, data, bounds.IMAGE, prefix="trunc_")


def build_empty(shapes: Mapping[str, Sequence[int]]) -> Generator:
    """Build a generator on the meta device, with the sizes of an official state_dict."""
    with torch.device("meta"):
        return Generator(**generator_sizes(shapes)).eval()


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    """Return the names and shapes of a network's state_dict."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def synthesize(generator: Generator, styles: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the images of StyleSpace styles in batches (N, 3, H, W)."""
    step = max(1, PIXELS_PER_BATCH // generator.resolution**2)
    for start in range(0, len(styles[0]), step):
        yield generator.synthesis([style[start : start + step] for style in styles])


def compare_images(
    quantity: str, images: Iterable[Tensor], data: Arrays, bound: float, prefix: str = ""
) -> Row:
    """Compare what a golden file contains of images: area average, crops, mean and deviation."""
    average = data[f"{prefix}image64"]
    views: dict[str, Callable[[Tensor], Tensor]] = {
        f"{prefix}image64": lambda x: F.interpolate(x, size=average.shape[2:], mode="area")
    }
    if f"{prefix}mean" in data or not prefix:  # of truncated images there is only the average
        views[f"{prefix}mean"] = lambda x: x.mean((2, 3))
        views[f"{prefix}std"] = lambda x: x.std((2, 3), correction=0)
        for i, corner in enumerate(data["corners"]):
            sides = data[f"{prefix}crop{i}"].shape[2:]
            views[f"{prefix}crop{i}"] = partial(_crop, corner=corner, sides=sides)
    batches: dict[str, list[Tensor]] = {name: [] for name in views}
    for image in images:
        for name, view in views.items():
            batches[name].append(view(image))
    return compare(quantity, [(k, torch.cat(v), data[k]) for k, v in batches.items()], bound)


def _crop(x: Tensor, corner: np.ndarray, sides: tuple[int, ...]) -> Tensor:
    (top, left), (height, width) = corner, sides
    return x[:, :, top : top + height, left : left + width]
