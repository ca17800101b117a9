"""Typed results of calls."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_client.images import write_file
from styleclip_contract import limits, wire
from styleclip_contract.domain import Domain
from styleclip_contract.errors import InvalidLatent


@dataclass(frozen=True)
class Edited:
    """An edited image.

    Attributes:
        picture: the encoded file: JPEG, PNG or WebP.
        channels: number of StyleSpace channels that each edit moved.
    """

    picture: bytes
    channels: list[int]

    def image(self) -> Image.Image:
        """Return the decoded image."""
        image = Image.open(io.BytesIO(self.picture))
        image.load()
        return image

    def array(self) -> NDArray[np.uint8]:
        """Return the image as RGB, uint8 [H, W, 3]."""
        return np.asarray(self.image().convert("RGB"))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the encoded image as it is, atomically."""
        write_file(Path(path), self.picture, overwrite=overwrite)


@dataclass(frozen=True)
class Face:
    """A face that the detector found in a photo.

    Attributes:
        box: left, top, right, bottom in pixels of the upright photo.
        score: the detector's score; a higher one is more certain.
    """

    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True, eq=False)
class Inverted:
    """The latent of a face, and where the face is in its photo.

    Attributes:
        w_plus: float32 [L, 512].
        quad: float32 [4, 2], the (x, y) corners of the face crop in pixels of the upright photo:
            top-left, bottom-left, bottom-right, top-right.
        crop: the face crop as PNG, which edits with the fidelity "features" need.
    """

    w_plus: NDArray[np.float32]
    quad: NDArray[np.float32]
    crop: bytes | None = None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write an .npz file for `load`."""
        write_file(Path(path), self.to_bytes(), overwrite=overwrite)

    def to_bytes(self) -> bytes:
        """Return the content of the .npz file."""
        buffer = io.BytesIO()
        arrays: dict[str, NDArray[Any]] = {"w_plus": self.w_plus, "quad": self.quad}
        if self.crop is not None:
            arrays["crop"] = np.frombuffer(self.crop, np.uint8)
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Inverted:
        """Read a file that `save` wrote; nothing in it is executed.

        Raises:
            InvalidLatent: the file has another format, or is damaged.
        """
        with Path(path).open("rb") as file:
            # One byte more than a latent can have is refused as another file.
            return cls.from_bytes(file.read(limits.LATENT_BYTES + 1), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "the latent") -> Inverted:
        """Read the content of an .npz file; `name` is for messages, otherwise as `load`."""
        try:
            _check_archive(data)
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                w_plus, quad = file["w_plus"], file["quad"]
                crop = file["crop"].astype(np.uint8).tobytes() if "crop" in file else None
        except Exception as error:  # zipfile, zlib and NumPy raise their own
            raise InvalidLatent(f"{name} is not a file that `styleclip invert` wrote") from error
        if w_plus.ndim != 2 or w_plus.shape[1] != wire.W_DIM or quad.shape != (4, 2):
            raise InvalidLatent(
                f"{name} has W+ of shape {w_plus.shape} and a quad of shape {quad.shape}; "
                f"[L, {wire.W_DIM}] and [4, 2] are expected"
            )
        return cls(w_plus.astype(np.float32), quad.astype(np.float32), crop)


def _check_archive(data: bytes) -> None:
    """Raise ValueError for an archive that is not as small as a latent, decompressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if max(size, len(data)) > limits.LATENT_BYTES:
        raise ValueError(f"{size} bytes")


@dataclass(frozen=True)
class ModelState:
    """One version of one model; `state` is Triton's (READY, UNAVAILABLE, …)."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ModelTiming:
    """The requests of one model since it was loaded: `seconds` in all, `waiting` in its queue."""

    name: str
    requests: int
    failures: int
    seconds: float
    waiting: float


@dataclass(frozen=True)
class Status:
    """What the server at `url` serves.

    `live`: the process answers; `ready`: it can edit photos. `domain` is None while the
    generator is not loaded.
    """

    url: str
    live: bool
    ready: bool
    version: str
    models: tuple[ModelState, ...]
    domain: Domain | None

    @property
    def generator_version(self) -> str:
        """The newest loaded version of the generator; empty while none is loaded."""
        name = wire.STYLEGAN2.name
        versions = [m.version for m in self.models if m.name == name and m.state == "READY"]
        return versions[-1] if versions else ""
