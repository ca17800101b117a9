"""CLIP cases: `clip_text.npz` and `.json`, `keys_clip_<model>.json`.

With several models in one folder, the files are named `clip_text_<model>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from styleclip_contract.errors import TextTooLong
from styleclip_export.errors import VerificationError
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Arrays, Case, Folder
from styleclip_export.verify.generator import shapes_of
from styleclip_export.verify.report import Row, compare, compare_lists, compare_mappings
from styleclip_networks.clip import CLIP, normalize_images, trim_tokens
from styleclip_networks.sizes import clip_sizes
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.tokenizer import tokenize

FIELDS = (
    "seed",
    "prompts",
    "long_prompt",
    "long_prompt_without_truncate",
    "class_names",
    "pairs_neutral_target",
    "dt_norm_before_normalising",
    "num_templates",
    "images",
)


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the cases of the golden folder."""
    keys = folder.stems("keys_clip_*.json")
    for name in folder.stems("clip_text*.npz", "clip_text*.json"):
        named = f"keys_clip_{name.removeprefix('clip_text').removeprefix('_')}"
        candidates = [named] if named in keys else keys
        files = (*(f"{k}.json" for k in candidates), f"{name}.json", f"{name}.npz")
        yield Case(name, files, partial(_check, folder, name, candidates), needs_weights=True)


def _check(folder: Folder, name: str, keys: list[str]) -> Iterator[Row]:
    if len(keys) != 1:
        raise VerificationError(
            f"{len(keys)} files keys_clip_*.json and none is named after {name}; one is expected"
        )
    file = f"{keys[0]}.json"
    shapes = folder.shapes(folder.json(file), file)
    clip = CLIP(**clip_sizes(shapes)).eval()
    clip.load_state_dict(folder.state_dict(shapes))
    yield compare_mappings("names and shapes", shapes_of(clip), shapes)
    texts = folder.json(f"{name}.json", known=FIELDS)
    data = folder.arrays(f"{name}.npz")

    tokens = tokenize(texts["prompts"])
    yield compare("tokens", [("tokens", tokens, data["tokens"])], bounds.EXACT)
    yield _compare_long_prompt(texts, data)

    official = data["text_features"]
    features = {
        "text features": clip.encode_text(torch.from_numpy(tokens)),
        "text features, trimmed": clip.encode_text(trim_tokens(torch.from_numpy(tokens))),
    }
    for quantity, ours in features.items():
        yield compare(quantity, [("text_features", ours, official)], bounds.CLIP)

    yield compare_lists("prompt templates", [len(TEMPLATES)], [texts["num_templates"]])
    yield from _compare_directions(clip, texts, data)
    if texts.get("images"):
        yield from _compare_images(clip, folder, texts["images"], data)


def _compare_long_prompt(texts: dict, data: Arrays) -> Row:
    cut = tokenize([texts["long_prompt"]], truncate=True)
    row = compare("tokens cut", [("", cut, data["tokens_long_truncated"])], bounds.EXACT)
    try:
        tokenize([texts["long_prompt"]])
    except TextTooLong:
        refused = True
    else:
        refused = False
    if refused != bool(texts.get("long_prompt_without_truncate")):
        return Row(row.quantity, "fail", row.error, row.bound, "refused only by one of the two")
    return row


def _compare_directions(clip: CLIP, texts: dict, data: Arrays) -> Iterator[Row]:
    """Compare class embeddings and text directions, computed by the server's functions."""

    def encode(tokens: np.ndarray) -> np.ndarray:
        return clip.encode_text(trim_tokens(torch.from_numpy(tokens))).numpy()

    names, pairs = texts["class_names"], texts["pairs_neutral_target"]
    unique = dict.fromkeys([*names, *(text for pair in pairs for text in pair)])
    # One text at a time, since its 79 prompts have similar lengths, to which `encode` trims.
    embeddings = {text: directions.class_embeddings([text], encode)[0] for text in unique}
    ours = np.stack([embeddings[text] for text in names])
    pair = ("class_embeddings", ours, data["class_embeddings"])
    yield compare(f"class embeddings ({len(names)})", [pair], bounds.CLIP)
    dt = [directions.text_direction(embeddings[n], embeddings[t]) for n, t in pairs]
    comparison = ("dt", np.stack(dt), data["dt"])
    yield compare(f"text directions ({len(pairs)})", [comparison], bounds.TEXT_DIRECTION)
    if "dt_norm_before_normalising" in texts:
        lengths = [np.linalg.norm(embeddings[t] - embeddings[n]) for n, t in pairs]
        official = np.array(texts["dt_norm_before_normalising"])
        yield compare("their lengths", [("", lengths, official)], bounds.TEXT_DIRECTION)


def _compare_images(clip: CLIP, folder: Folder, names: list[str], data: Arrays) -> Iterator[Row]:
    missing = [name for name in names if not folder.has(name)]
    if missing:
        yield Row("image features", "missing", note=f"{', '.join(missing)} not in the folder")
        return
    side = clip.visual.resolution
    images = torch.cat([preprocess(folder.image(name), side) for name in names])
    prefix = "image_preprocessed_row"
    rows = [name for name in data.names if name.startswith(prefix)]
    pairs = [(k, images[:, :, int(k.removeprefix(prefix))], data[k]) for k in rows]
    mean = "image_preprocessed_mean"
    pairs.append((mean, images.mean((2, 3)), data[mean]))
    yield compare("images preprocessed", pairs, bounds.CLIP)
    features = [("image_features", clip.encode_image(images), data["image_features"])]
    yield compare("image features", features, bounds.CLIP)


def preprocess(image: Image.Image, side: int) -> Tensor:
    """Resize the short side of an RGB image to `side`, crop the center and normalize, as CLIP does.

    Returns:
        (1, 3, side, side) float32.
    """
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    square = image.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.asarray(square, np.float32) / 255)
    return normalize_images(pixels.permute(2, 0, 1)[None])
