"""e4e cases: `e4e_<res>.npz` and `keys_e4e_<res>.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_export.verify import bounds, generator
from styleclip_export.verify.folder import Arrays, Case, Folder
from styleclip_export.verify.report import Comparison, Row, compare, compare_mappings
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sizes import encoder_sizes


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the cases of the golden folder."""
    stems = folder.stems("e4e_*.npz", "keys_e4e_*.json")
    for name in sorted({stem.removeprefix("keys_") for stem in stems}):
        files = (f"keys_{name}.json", f"{name}.npz")
        yield Case(name, files, partial(_check, folder, name), needs_weights=True)


def _check(folder: Folder, name: str) -> Iterator[Row]:
    file = f"keys_{name}.json"
    keys = folder.json(file, known=("state_dict", "latent_avg", "opts"))
    shapes = folder.shapes(keys["state_dict"], file)
    data = folder.arrays(f"{name}.npz")

    encoder = build_empty(_without_prefix(shapes, "encoder."))
    decoder = generator.build_empty(_without_prefix(shapes, "decoder."))
    ours = {f"encoder.{k}": v for k, v in generator.shapes_of(encoder).items()}
    ours |= {f"decoder.{k}": v for k, v in generator.shapes_of(decoder).items()}
    yield compare_mappings("names and shapes", ours, shapes)

    faces = torch.from_numpy(data["x_uint8"].transpose(0, 3, 1, 2).copy()).float()
    faces = (faces / 255 - 0.5) / 0.5
    if "x_face" in data:  # the first face, scaled; optional
        yield compare("images scaled", [("x_face", faces[:1], data["x_face"])], bounds.EXACT)

    average = folder.state_dict({"latent_avg": keys["latent_avg"]})["latent_avg"]
    _load(encoder, folder, shapes, "encoder.")
    codes = torch.cat([encoder(face[None]) for face in faces])
    yield _compare_codes("codes", codes, average, data)
    yield _compare_codes("codes, one batch", encoder(faces), average, data)
    del encoder  # free 1 GB before the decoder is loaded

    _load(decoder, folder, shapes, "decoder.")
    yield from _compare_image(decoder(codes[:1] + average), data)


def _compare_codes(quantity: str, codes: Tensor, average: Tensor, data: Arrays) -> Row:
    """Compare each face's code, with and without the average latent added."""
    names = [k.removeprefix("codes_") for k in data.names if re.match("codes_(?!avg_)", k)]
    comparisons: list[Comparison] = []
    for name, code in zip(names, codes.split(1), strict=True):
        comparisons.append((f"codes_{name}", code, data[f"codes_{name}"]))
        comparisons.append((f"codes_avg_{name}", code + average, data[f"codes_avg_{name}"]))
    return compare(quantity, comparisons, bounds.E4E)


def _compare_image(image: Tensor, data: Arrays) -> Iterator[Row]:
    yield generator.compare_images("image of the codes", [image], data, bounds.E4E)
    names = [name for name in data.names if re.fullmatch(r"face_pool\d+_mean", name)]
    comparisons = [
        (name, _pooled_mean(image, int(re.findall(r"\d+", name)[0])), data[name]) for name in names
    ]
    yield compare("pooled image, mean", comparisons, bounds.E4E)


def _pooled_mean(image: Tensor, side: int) -> Tensor:
    return F.adaptive_avg_pool2d(image, side).mean((2, 3))


def _without_prefix(shapes: Mapping[str, Sequence[int]], prefix: str) -> dict[str, Sequence[int]]:
    return {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}


def _load(module: torch.nn.Module, folder: Folder, shapes: dict, prefix: str) -> None:
    state = folder.state_dict({k: v for k, v in shapes.items() if k.startswith(prefix)})
    state = {k.removeprefix(prefix): v for k, v in state.items()}
    module.load_state_dict(state, strict=True, assign=True)


def build_empty(shapes: Mapping[str, Sequence[int]]) -> Encoder4Editing:
    """Build an encoder on the meta device.

    Args:
        shapes: an official state_dict's, without the prefix "encoder.".
    """
    with torch.device("meta"):
        return Encoder4Editing(**encoder_sizes(shapes)).eval()
