"""The named directions in a domain's folder: files, `affine.npz` and the list in `domain.json`.

`directions/NAME.npz` is what the server's `named_directions` reads. A file also keeps the direction
in W+, so that it can be computed again when the generator is converted again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from styleclip_contract import limits, wire
from styleclip_contract.domain import DOMAIN_FILE, Direction, Domain
from styleclip_contract.errors import UnknownDirection
from styleclip_export.directions.files import Components, DirectionContent, FloatArray
from styleclip_export.errors import DirectionError
from styleclip_export.npz_files import save_npz
from styleclip_export.progress import ReportLine
from styleclip_networks.mapper import LatentMapper
from styleclip_networks.stylespace import style_layers
from styleclip_server.engines.model_files import MODEL_FILE
from styleclip_server.engines.weights import read_parameters
from styleclip_server.files import write_atomically
from styleclip_server.pipeline.named_directions import (
    AFFINE_FILE,
    FOLDER,
    Affine,
    parse_mapper,
)
from styleclip_server.serving import model_repository

NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{limits.DIRECTION_CHARACTERS - 1}}}")
RANGE, MAPPER_RANGE, COMPONENT_RANGE = (-5.0, 5.0), (-1.0, 2.0), (-20.0, 20.0)
# Of the served mapper from PyTorch's; its output has a deviation of about 1.
MAX_MAPPER_ERROR = 1e-4


@dataclass(frozen=True)
class DirectionOptions:
    """How a file becomes a direction.

    Attributes:
        name: what an edit calls it.
        title: for people; None: from the name.
        range: of strengths; None: the usual one of its kind.
        layers: rows of W+ that move, the first and the one after the last; None: all.
        component: of GANSpace's components.
        scale: multiplies the direction, so that strength 1 is a useful step.
    """

    name: str
    title: str | None = None
    range: tuple[float, float] | None = None
    layers: tuple[int, int] | None = None
    component: int | None = None
    scale: float = 1.0


class DirectionStore:
    """The directions of the domain in a folder.

    Raises:
        DirectionError: the folder has no domain.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / DOMAIN_FILE
        if not path.is_file():
            raise DirectionError(
                f"{path} does not exist: convert the domain first, or see `--repository`"
            )
        self._content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        self.domain = Domain.from_json(json.dumps(self._content))

    def add(
        self, content: DirectionContent, options: DirectionOptions, *, replace: bool = False
    ) -> Direction:
        """Add a direction and list it in domain.json.

        Raises:
            DirectionError: it does not fit the domain, or the name is taken or not one.
        """
        self._check_name(options.name, replace)
        low, high = options.range or _usual_range(content)
        _check_range(low, high)
        if isinstance(content, LatentMapper):
            arrays = self._mapper_arrays(content, options)
        else:
            arrays = self._constant_arrays(content, options)
        title = options.title or options.name.replace("_", " ").replace("-", " ").capitalize()
        follows_face = isinstance(content, LatentMapper)
        direction = Direction(options.name, title, low, high, follows_face)
        save_npz(self.folder / FOLDER / f"{direction.name}.npz", arrays)
        others = [other for other in self.domain.directions if other.name != direction.name]
        self._write_list([*others, direction])
        return direction

    def remove(self, name: str) -> None:
        """Remove a direction.

        Raises:
            DirectionError: the domain has none of that name.
        """
        try:
            removed = self.domain.direction(name)
        except UnknownDirection as error:
            raise DirectionError(str(error)) from None
        self._write_list([other for other in self.domain.directions if other != removed])
        (self.folder / FOLDER / f"{removed.name}.npz").unlink(missing_ok=True)
        if not any(direction.follows_face for direction in self.domain.directions):
            (self.folder / AFFINE_FILE).unlink(missing_ok=True)

    def recompute(self, report: ReportLine = print) -> None:
        """Compute all directions again, for a generator that was converted again."""
        if not self.domain.directions:
            return
        affine = self._read_affine()
        if any(direction.follows_face for direction in self.domain.directions):
            self._write_affine(affine)
        for direction in self.domain.directions:
            path = self.folder / FOLDER / f"{direction.name}.npz"
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if "w_plus" in arrays:
                arrays["offset"] = affine.offset(arrays["w_plus"])
                save_npz(path, arrays)
            elif not direction.follows_face:
                report(f"direction {direction.name}: given in StyleSpace, kept as it is")

    def _check_name(self, name: str, replace: bool) -> None:
        if not NAME.fullmatch(name):
            raise DirectionError(
                f"{name!r} is not a valid name: use lower-case letters, digits, - and _, at most "
                f"{limits.DIRECTION_CHARACTERS}"
            )
        if not replace and any(direction.name == name for direction in self.domain.directions):
            raise DirectionError(
                f"{self.domain.name} has a direction {name}: --replace replaces it"
            )

    def _mapper_arrays(
        self, mapper: LatentMapper, options: DirectionOptions
    ) -> dict[str, FloatArray]:
        """Return the arrays of a mapper's file, and write A for it."""
        if options.layers or options.component is not None or options.scale != 1:
            raise DirectionError(
                f"{options.name} is a latent mapper: it takes only a name and a range"
            )
        arrays = _checked_mapper_arrays(mapper, self.domain)
        self._write_affine(self._read_affine())
        return arrays

    def _constant_arrays(
        self, content: Components | FloatArray, options: DirectionOptions
    ) -> dict[str, FloatArray]:
        """Return the arrays of a constant direction's file."""
        if isinstance(content, Components):
            direction = _component(content, options)
        elif options.component is not None:
            raise DirectionError("the file has a single direction: leave out --component")
        else:
            direction = content
        domain = self.domain
        flat = direction
        while flat.ndim > 1 and len(flat) == 1:  # pose.pt has (1, 18, 512)
            flat = flat[0]
        scale = np.float32(options.scale)
        if flat.shape == (domain.style_size,):
            if options.layers:
                raise DirectionError("--layers are rows of W+, but the direction is in StyleSpace")
            return {"offset": scale * flat}
        shapes = {(domain.w_dim,), (domain.num_latents, domain.w_dim)}
        if flat.shape not in shapes:
            raise DirectionError(
                f"the direction has the shape {direction.shape}; {domain.name} takes "
                f"({domain.w_dim},), ({domain.num_latents}, {domain.w_dim}) of W+ or "
                f"({domain.style_size},) of StyleSpace"
            )
        rows = np.broadcast_to(flat, (domain.num_latents, domain.w_dim))
        first, end = options.layers or (0, domain.num_latents)
        if not 0 <= first < end <= domain.num_latents:
            raise DirectionError(f"layers {first}:{end} are not within 0:{domain.num_latents}")
        w_plus = np.zeros_like(rows)
        w_plus[first:end] = scale * rows[first:end]
        return {"w_plus": w_plus, "offset": self._read_affine().offset(w_plus)}

    def _read_affine(self) -> Affine:
        """Read A from the newest version of the served generator."""
        network = self.folder / wire.STYLEGAN2.name
        path = network / str(model_repository.newest_version(network)) / MODEL_FILE
        if not path.is_file():
            raise DirectionError(f"{path} does not exist: convert the generator first")
        parameters = read_parameters(path)
        channels = self.domain.style_channels
        by_resolution = {4: channels[0]} | {8 << i: n for i, n in enumerate(channels[3::3])}
        scale = np.float32(self.domain.w_dim**-0.5)  # of the equalized learning rate
        layers = style_layers(by_resolution)
        weights = [parameters[f"generator.{layer.name}.conv.modulation.weight"] for layer in layers]
        return Affine(np.concatenate(weights).astype(np.float32) * scale, channels)

    def _write_affine(self, affine: Affine) -> None:
        save_npz(self.folder / AFFINE_FILE, {"weight": affine.weight})

    def _write_list(self, directions: list[Direction]) -> None:
        """Write the list into domain.json and into the configuration that repeats it."""
        self._content["directions"] = [direction.to_json() for direction in directions]
        text = json.dumps(self._content, indent=2, ensure_ascii=False) + "\n"
        self.domain = Domain.from_json(text)
        write_atomically(self.folder / DOMAIN_FILE, text)
        model_repository.write_configs(self.folder.parent, self.folder.name)


def _component(content: Components, options: DirectionOptions) -> FloatArray:
    """Return one of GANSpace's components times its standard deviation, (512,)."""
    count = len(content.components)
    if options.component is None or not 0 <= options.component < count:
        raise DirectionError(f"the file has {count} components: give --component 0 to {count - 1}")
    index = options.component
    return content.components[index] * content.deviations[index]


def _usual_range(content: DirectionContent) -> tuple[float, float]:
    if isinstance(content, LatentMapper):
        return MAPPER_RANGE
    return COMPONENT_RANGE if isinstance(content, Components) else RANGE


def _check_range(low: float, high: float) -> None:
    limit = limits.DIRECTION_STRENGTH
    if not -limit <= low < high <= limit:
        raise DirectionError(
            f"the range {low:g} to {high:g} is not valid: give two numbers from {-limit:g} "
            f"to {limit:g}, the lower first"
        )


@torch.no_grad()
def mapper_arrays(mapper: LatentMapper) -> dict[str, FloatArray]:
    """Return the arrays of a mapper's file: its layers with the gains applied."""
    arrays = {}
    for group in mapper.groups:
        for number, layer in enumerate(mapper.layers(group)):
            weight, bias = layer.weight * layer.scale, layer.bias * layer.lr_mul
            arrays[f"{group}.{number}.weight"] = weight.numpy()
            arrays[f"{group}.{number}.bias"] = bias.numpy()
    return arrays


@torch.no_grad()
def _checked_mapper_arrays(mapper: LatentMapper, domain: Domain) -> dict[str, FloatArray]:
    """Return the arrays of a mapper's file, after a comparison with PyTorch.

    Raises:
        DirectionError: they differ.
    """
    arrays = mapper_arrays(mapper)
    generator = torch.Generator().manual_seed(0)
    w_plus = torch.randn(1, domain.num_latents, domain.w_dim, generator=generator)
    served = parse_mapper(arrays).offset(w_plus[0].numpy())
    largest = float(np.abs(served - mapper(w_plus)[0].numpy()).max())
    if not largest <= MAX_MAPPER_ERROR:
        raise DirectionError(
            f"the served mapper differs from PyTorch's by {largest:.3g}, bound {MAX_MAPPER_ERROR:g}"
        )
    return arrays
