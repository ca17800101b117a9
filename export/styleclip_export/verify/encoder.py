"""e4e cases: `e4e_<res>.npz` and `keys_e4e_<res>.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count, groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_export.verify import bounds, generator
from styleclip_export.verify.folder import Case, Folder
from styleclip_export.verify.report import Row, compare, compare_mappings
from styleclip_networks.e4e import Encoder4Editing


def cases(folder: Folder) -> Iterator[Case]:
    stems = folder.stems("e4e_*.npz", "keys_e4e_*.json")
    for name in sorted({stem.removeprefix("keys_") for stem in stems}):
        files = (f"keys_{name}.json", f"{name}.npz")
        yield Case(name, files, partial(_check, folder, name), needs_weights=True)


def _check(folder: Folder, name: str) -> Iterator[Row]:
    file = f"keys_{name}.json"
    keys = folder.json(file, known=("state_dict", "latent_avg", "opts"))
    shapes = folder.shapes(keys["state_dict"], file)
    data = folder.numbers(f"{name}.npz")

    encoder = build(_part(shapes, "encoder."))
    decoder = generator.build(_part(shapes, "decoder."))
    ours = {f"encoder.{k}": v for k, v in generator.shapes_of(encoder).items()}
    ours |= {f"decoder.{k}": v for k, v in generator.shapes_of(decoder).items()}
    yield compare_mappings("names and shapes", ours, shapes)

    average = folder.state({"latent_avg": keys["latent_avg"]})["latent_avg"]
    faces = torch.from_numpy(data["x_uint8"].transpose(0, 3, 1, 2).copy()).float()
    faces = (faces / 255 - 0.5) / 0.5
    names = [k.removeprefix("codes_") for k in data.names if re.match("codes_(?!avg_)", k)]
    if "x_face" in data:  # the first picture, scaled; folders may leave it out
        yield compare("pictures scaled", [("x_face", faces[:1], data["x_face"])], bounds.EXACT)

    _load(encoder, folder, shapes, "encoder.")
    one_by_one = torch.cat([encoder(face[None]) for face in faces])
    together = encoder(faces)
    del encoder  # 1 GB, before the decoder comes
    for quantity, codes in (("codes", one_by_one), ("codes, one batch", together)):
        pairs = [
            (f"{prefix}{k}", rows + offset, data[f"{prefix}{k}"])
            for k, rows in zip(names, codes.split(1), strict=True)
            for prefix, offset in (("codes_", torch.zeros(())), ("codes_avg_", average))
        ]
        yield compare(quantity, pairs, bounds.E4E)

    _load(decoder, folder, shapes, "decoder.")
    picture = decoder(one_by_one[:1] + average)
    yield generator.picture_row("image of the codes", [picture], data, bounds.E4E)
    pooled = [k for k in data.names if re.fullmatch(r"face_pool\d+_mean", k)]
    pairs = [(k, _pooled_mean(picture, int(re.findall(r"\d+", k)[0])), data[k]) for k in pooled]
    yield compare("pooled image, mean", pairs, bounds.E4E)


def _pooled_mean(picture: Tensor, side: int) -> Tensor:
    return F.adaptive_avg_pool2d(picture, side).mean((2, 3))


def _part(shapes: Mapping[str, Sequence[int]], prefix: str) -> dict[str, Sequence[int]]:
    return {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}


def _load(module: torch.nn.Module, folder: Folder, shapes: dict, prefix: str) -> None:
    state = folder.state({k: v for k, v in shapes.items() if k.startswith(prefix)})
    state = {k.removeprefix(prefix): v for k, v in state.items()}
    module.load_state_dict(state, strict=True, assign=True)


def build(shapes: Mapping[str, Sequence[int]]) -> Encoder4Editing:
    """An encoder of the sizes that an official state_dict has (without the prefix "encoder."),
    without memory for its weights."""
    units: list[int] = []
    for i in count():
        weight = shapes.get(f"body.{i}.res_layer.1.weight")
        if weight is None:
            break
        units.append(weight[0])
    stages = [(width, len(list(run))) for width, run in groupby(units)]
    latents = len([k for k in shapes if k.startswith("styles.") and k.endswith("linear.weight")])
    with torch.device("meta"):
        return Encoder4Editing(
            latents,
            widths=[width for width, _ in stages],
            depths=[depth for _, depth in stages],
            style_width=shapes["styles.0.convs.0.weight"][0],
            w_dim=shapes["styles.0.linear.weight"][0],
        ).eval()
