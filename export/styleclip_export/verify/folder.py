"""A golden folder: reads its files without executing anything, and tracks what was read."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from styleclip_contract.photo_files import check_pixels
from styleclip_export.errors import VerificationError
from styleclip_export.verify.report import Row
from styleclip_export.verify.weights import KNOWN_RULE, FillRule, Override

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
SELF_DESCRIBED = "sfe_*.json"
MAX_WEIGHTS = 2**30  # of one network; e4e with its decoder has 0.3 * 2**30
_IMAGE_FORMATS = ("PNG", "JPEG")


@dataclass(frozen=True)
class Case:
    """Something to verify.

    Attributes:
        name: its name in the report.
        files: its files, relative to the golden folder.
        check: yields the rows; may raise anything, since golden data may be wrong in any way.
        needs_weights: whether `check` fills networks with the folder's fill rule.
    """

    name: str
    files: tuple[str, ...]
    check: Callable[[], Iterable[Row]]
    needs_weights: bool = False


class Arrays:
    """The arrays of an npz file, and which of them are unread."""

    def __init__(self, path: Path) -> None:
        self.file = path.name
        try:
            archive = np.load(path, allow_pickle=False)
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise VerificationError(f"{path.name} is not an npz file: {error}") from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise VerificationError(f"{path.name} is not an npz file")
        self._archive = archive
        self.names = tuple(archive.files)
        self.unread = set(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise VerificationError(f"{self.file} has no array {name!r}")
        self.unread.discard(name)
        return self._archive[name]

    def close(self) -> None:
        self._archive.close()


class Folder:
    """A golden folder.

    Args:
        root: the folder; `golden.json` in it gives the format and the seed of its weights. A
            folder of `sfe` cases alone needs none: they name their own seeds of the known rule.
        trust_fill: execute the folder's `fill.py` even if it is not the known one.

    Raises:
        VerificationError: it is not a golden folder, or has another format.
    """

    def __init__(self, root: Path, trust_fill: bool = False) -> None:
        self.root = root.resolve()
        header = self.root / "golden.json"
        if header.is_file():
            self.rule = FillRule(self.root / "fill.py", self._read_seed(header), trust_fill)
        elif self.stems(SELF_DESCRIBED):
            self.rule = FillRule(KNOWN_RULE, 0)
        else:
            raise VerificationError(
                f"{root} is not a golden folder: golden.json, with the seed of the weights, is "
                "missing; name a folder laid out as tests/golden"
            )
        self._open_archives: list[Arrays] = []
        self._unknown_fields: list[str] = []

    def _read_seed(self, header: Path) -> int:
        content = self._read_json(header)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise VerificationError(f"{header} is not of format {FORMAT}, the one that is known")
        if not isinstance(content.get("seed"), int):
            raise VerificationError(f"{header} has no integer 'seed'")
        return int(content["seed"])

    def files(self) -> list[str]:
        """All files, relative to the folder, except Python's bytecode caches."""
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if not path.is_dir() and "__pycache__" not in path.parts
        )

    def stems(self, *patterns: str) -> list[str]:
        """Unique names, without suffix, of top-level files that match a glob."""
        return sorted({path.stem for pattern in patterns for path in self.root.glob(pattern)})

    def path(self, name: str) -> Path:
        """Resolve the name of a file in the folder.

        Raises:
            VerificationError: the file is missing, or the name leads out of the folder.
        """
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root):
            raise VerificationError(f"{name!r} leads out of the golden folder")
        if not path.is_file():
            raise VerificationError(f"{name} is missing")
        return path

    def has(self, name: str) -> bool:
        """Whether the folder contains a file of this name."""
        path = (self.root / name).resolve()
        return path.is_relative_to(self.root) and path.is_file()

    def arrays(self, name: str) -> Arrays:
        """Open an npz file; `close_files` closes it."""
        arrays = Arrays(self.path(name))
        self._open_archives.append(arrays)
        return arrays

    def json(self, name: str, known: Iterable[str] | None = None) -> dict[str, Any]:
        """Read a JSON object.

        Args:
            known: fields that are read; `close_files` reports others. None for all fields.
        """
        content = self._read_json(self.path(name))
        if not isinstance(content, dict):
            raise VerificationError(f"{name} is not a JSON object")
        if known is not None:
            self._unknown_fields += [f"{name}: field {key}" for key in content.keys() - set(known)]
        return content

    def shapes(self, content: Any, name: str) -> dict[str, list[int]]:
        """Check that `content` gives the names and shapes of a network that fits in memory."""
        total = 0
        if not isinstance(content, dict) or not content:
            raise VerificationError(f"{name} does not contain names and shapes")
        for key, shape in content.items():
            if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
                raise VerificationError(f"{name}: {key} is not a shape: {shape!r}")
            total += math.prod(shape)
        if total > MAX_WEIGHTS:
            raise VerificationError(
                f"{name} describes {total:,} weights; at most {MAX_WEIGHTS:,} are accepted"
            )
        return content

    def state_dict(
        self,
        shapes: Mapping[str, Sequence[int]],
        overrides: Sequence[Override] = (),
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Fill an official state_dict of these names and shapes by the folder's rule.

        Args:
            overrides: tried before the rule.
            seed: None means the folder's.
        """
        rule = self.rule if seed is None else self.rule.with_seed(seed)
        return rule.state_dict(shapes, overrides)

    def image(self, name: str) -> Image.Image:
        """Read a PNG or JPEG as RGB; transparency is dropped."""
        with Image.open(self.path(name), formats=_IMAGE_FORMATS) as image:
            check_pixels(*image.size)
            return image.convert("RGB")

    def close_files(self) -> list[Row]:
        """Close all open files, and return a row for each array and field that was not read."""
        rows = [
            Row(f"{arrays.file}: array {name}", "unknown")
            for arrays in self._open_archives
            for name in arrays.names
            if name in arrays.unread
        ]
        rows += [Row(field, "unknown") for field in sorted(self._unknown_fields)]
        for arrays in self._open_archives:
            arrays.close()
        self._open_archives, self._unknown_fields = [], []
        return rows

    @staticmethod
    def _read_json(path: Path) -> Any:
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise VerificationError(f"{path.name} is not JSON: {error}") from None
