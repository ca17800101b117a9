"""A golden folder: its files, read so that nothing in them is executed, and what was read."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from styleclip_export.errors import VerificationError
from styleclip_export.verify.report import Row
from styleclip_export.verify.weights import FillRule
from styleclip_server.pipeline.images import check_pixels

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MOST_WEIGHTS = 2**30  # of one network; e4e with its decoder has 0.3 * 2**30
_PICTURES = ("PNG", "JPEG")


@dataclass(frozen=True)
class Case:
    """Something to verify: its name, its files (relative to the folder) and the check.

    `check` yields the rows; it may raise anything, for the data may be wrong in any way.
    """

    name: str
    files: tuple[str, ...]
    check: Callable[[], Iterable[Row]]
    needs_weights: bool = False


class Numbers:
    """The arrays of an npz file; knows which of them nobody asked for."""

    def __init__(self, path: Path) -> None:
        self.file = path.name
        try:
            opened = np.load(path, allow_pickle=False)
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise VerificationError(f"{path.name} is no npz file: {error}") from None
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise VerificationError(f"{path.name} is no npz file")
        self._arrays = opened
        self.names = tuple(opened.files)
        self.unread = set(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise VerificationError(f"{self.file} has no array {name!r}")
        self.unread.discard(name)
        return self._arrays[name]

    def close(self) -> None:
        self._arrays.close()


class Folder:
    """A golden folder.

    Args:
        root: the folder; `golden.json` in it gives the format and the seed of its weights.
        trust_fill: execute the folder's `fill.py` although it is not the one we know.

    Raises:
        VerificationError: it is no golden folder, or of another format.
    """

    def __init__(self, root: Path, trust_fill: bool = False) -> None:
        self.root = root.resolve()
        header = self.root / "golden.json"
        if not header.is_file():
            raise VerificationError(
                f"{root} is no golden folder: golden.json is missing, which gives the seed of the "
                "weights; name a folder laid out as tests/golden"
            )
        about = self._read_json(header)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise VerificationError(f"{header} is not of format {FORMAT}, the one that is known")
        if not isinstance(about.get("seed"), int):
            raise VerificationError(f"{header} has no whole number as 'seed'")
        self.rule = FillRule(self.root / "fill.py", about["seed"], trust_fill)
        self._opened: list[Numbers] = []
        self._fields: list[str] = []

    def files(self) -> list[str]:
        """Every file, relative to the folder; not what Python leaves beside a module."""
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if not path.is_dir() and "__pycache__" not in path.parts
        )

    def stems(self, *patterns: str) -> list[str]:
        """Names of the top folder's files that match a glob, without their suffix, once each."""
        found = {path.stem for pattern in patterns for path in self.root.glob(pattern)}
        return sorted(found)

    def path(self, name: str) -> Path:
        """A file of the folder.

        Raises:
            VerificationError: it is not there, or the name leads out of the folder.
        """
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root):
            raise VerificationError(f"{name!r} leads out of the golden folder")
        if not path.is_file():
            raise VerificationError(f"{name} is missing")
        return path

    def has(self, name: str) -> bool:
        path = (self.root / name).resolve()
        return path.is_relative_to(self.root) and path.is_file()

    def numbers(self, name: str) -> Numbers:
        """An npz file's arrays."""
        opened = Numbers(self.path(name))
        self._opened.append(opened)
        return opened

    def json(self, name: str, known: Iterable[str] | None = None) -> dict[str, Any]:
        """A JSON object. Fields that are not in `known` are reported (None: all are known)."""
        content = self._read_json(self.path(name))
        if not isinstance(content, dict):
            raise VerificationError(f"{name} is no JSON object")
        if known is not None:
            self._fields += [f"{name}: field {key}" for key in content.keys() - set(known)]
        return content

    def shapes(self, content: Any, name: str) -> dict[str, list[int]]:
        """`content` as names and shapes of a network's tensors, of a size that fits in memory."""
        total = 0
        if not isinstance(content, dict) or not content:
            raise VerificationError(f"{name} does not hold names and shapes")
        for key, shape in content.items():
            if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
                raise VerificationError(f"{name}: {key} has no shape but {shape!r}")
            total += math.prod(shape)
        if total > MOST_WEIGHTS:
            raise VerificationError(
                f"{name} describes {total:,} weights; at most {MOST_WEIGHTS:,} are accepted"
            )
        return content

    def state(self, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
        """The state_dict of an official checkpoint with these names, filled by the rule."""
        return self.rule.state(shapes)

    def image(self, name: str) -> Image.Image:
        """A PNG or JPEG as RGB, as Pillow converts it (transparency is dropped)."""
        with Image.open(self.path(name), formats=_PICTURES) as picture:
            check_pixels(*picture.size)
            return picture.convert("RGB")

    def left_over(self) -> Iterator[Row]:
        """Closes what was opened, and reports what of it nobody read."""
        for opened in self._opened:
            for name in opened.names:
                if name in opened.unread:
                    yield Row(f"{opened.file}: array {name}", "unknown")
            opened.close()
        for field in sorted(self._fields):
            yield Row(field, "unknown")
        self._opened, self._fields = [], []

    @staticmethod
    def _read_json(path: Path) -> Any:
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise VerificationError(f"{path.name} is not JSON: {error}") from None
