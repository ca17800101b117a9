"""StyleGAN2 cases: `stylegan2_<res>.npz` and `.json`, `keys_stylegan2_<res>.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Case, Folder, Numbers
from styleclip_export.verify.report import Row, compare, compare_lists, compare_mappings
from styleclip_networks.stylegan2 import Generator, truncate

TRUNCATION = 0.7
PIXELS_AT_ONCE = 1024**2  # of all pictures drawn together, so that memory is bounded


def cases(folder: Folder) -> Iterator[Case]:
    stems = folder.stems("stylegan2_*.npz", "stylegan2_*.json", "keys_stylegan2_*.json")
    for name in sorted({stem.removeprefix("keys_") for stem in stems}):
        files = (f"keys_{name}.json", f"{name}.json", f"{name}.npz")
        yield Case(name, files, partial(_check, folder, name), needs_weights=True)


def _check(folder: Folder, name: str) -> Iterator[Row]:
    keys = f"keys_{name}.json"
    shapes = folder.shapes(folder.json(keys), keys)
    generator = build(shapes)
    yield compare_mappings("names and shapes", shapes_of(generator), shapes)
    generator.load_state_dict(folder.state(shapes), strict=True, assign=True)

    layers = folder.json(f"{name}.json", known=("size", "seed", "layers"))["layers"]
    described = [(s.name, s.styleclip_name, s.channels) for s in generator.layers]
    official = [(s["module"], s["styleclip_name"], s["channels"]) for s in layers]
    yield compare_lists("layers", described, official)

    data = folder.numbers(f"{name}.npz")
    styles = generator.affine(torch.from_numpy(data["w_plus"]))
    pairs = [(f"style_{i:02}", style, data[f"style_{i:02}"]) for i, style in enumerate(styles)]
    yield compare(f"styles ({len(pairs)})", pairs, bounds.STYLES)

    yield picture_row("image", draw(generator, styles), data, bounds.IMAGE)
    generator.upsample_as("folded")
    yield picture_row("image, folded blur", draw(generator, styles), data, bounds.IMAGE)
    generator.upsample_as("transposed")

    for index, channel, delta in data["edits"]:
        styles[int(index)][:, int(channel)] += float(delta)
    drawn = draw(generator, styles)
    yield picture_row("image, styles edited", drawn, data, bounds.IMAGE, prefix="edit_")

    w = generator.mapping(torch.from_numpy(data["z"]))
    yield compare("w of z", [("w", w, data["w"])], bounds.STYLES)
    average = folder.state({"latent_avg": [generator.w_dim]})["latent_avg"]
    w_plus = truncate(w[:, None].expand(-1, generator.num_latents, -1), average, TRUNCATION)
    rows = [(f"trunc_w, row {i}", w_plus[:, i], data["trunc_w"]) for i in (0, -1)]
    yield compare("w truncated", rows, bounds.STYLES)
    drawn = draw(generator, generator.affine(w_plus))
    yield picture_row("image, w truncated", drawn, data, bounds.IMAGE, prefix="trunc_")


def build(shapes: Mapping[str, Sequence[int]]) -> Generator:
    """A generator of the sizes that an official state_dict has, without memory for its weights."""
    mapping = len([k for k in shapes if k.startswith("style.") and k.endswith(".weight")])
    channels = {4: shapes["conv1.conv.weight"][1]}
    while f"convs.{2 * len(channels) - 2}.conv.weight" in shapes:
        weight = shapes[f"convs.{2 * len(channels) - 2}.conv.weight"]
        channels[2 ** (len(channels) + 2)] = weight[1]
    w_dim = shapes["conv1.conv.modulation.weight"][1]
    with torch.device("meta"):
        return Generator(max(channels), channels, w_dim, mapping).eval()


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a network's state_dict."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def draw(generator: Generator, styles: Sequence[Tensor]) -> Iterator[Tensor]:
    """The pictures of StyleSpace styles, a few (N, 3, H, W) at a time."""
    step = max(1, PIXELS_AT_ONCE // generator.resolution**2)
    for start in range(0, len(styles[0]), step):
        yield generator.synthesis([style[start : start + step] for style in styles])


def picture_row(
    quantity: str, pictures: Iterable[Tensor], data: Numbers, bound: float, prefix: str = ""
) -> Row:
    """Compares what a golden file keeps of a picture: its area average, crops, moments."""
    average = data[f"{prefix}image64"]
    views: dict[str, Callable[[Tensor], Tensor]] = {
        f"{prefix}image64": lambda x: F.interpolate(x, size=average.shape[2:], mode="area")
    }
    if f"{prefix}mean" in data or not prefix:  # truncated pictures come as an average alone
        views[f"{prefix}mean"] = lambda x: x.mean((2, 3))
        views[f"{prefix}std"] = lambda x: x.std((2, 3), correction=0)
        for i, corner in enumerate(data["corners"]):
            sides = data[f"{prefix}crop{i}"].shape[2:]
            views[f"{prefix}crop{i}"] = partial(_crop, corner=corner, sides=sides)
    seen: dict[str, list[Tensor]] = {name: [] for name in views}
    for picture in pictures:
        for name, view in views.items():
            seen[name].append(view(picture))
    return compare(quantity, [(k, torch.cat(v), data[k]) for k, v in seen.items()], bound)


def _crop(x: Tensor, corner: np.ndarray, sides: tuple[int, ...]) -> Tensor:
    (top, left), (height, width) = corner, sides
    return x[:, :, top : top + height, left : left + width]
