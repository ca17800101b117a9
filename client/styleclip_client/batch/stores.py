"""Where photos come from and pictures go: a folder, or whatever pyarrow reaches by a URI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from styleclip_client.images import PARTIAL, write_file


class Store(Protocol):
    """Files by their names, "/" between folders; it can be sent to another process."""

    def files(self) -> Iterator[tuple[str, float]]:
        """Name and time of change, in seconds, of each file that is not hidden."""

    def read(self, name: str, most: int) -> bytes:
        """The file's bytes, no more than `most`; FileNotFoundError when it is not there."""

    def write(self, name: str, data: bytes, *, overwrite: bool) -> None:
        """Write a file, whole or not at all; FileExistsError when it must not be replaced."""


class Folder:
    """A folder of this machine, or one that the machines of a cluster share."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __str__(self) -> str:
        return str(self.path)

    def files(self) -> Iterator[tuple[str, float]]:
        for folder, below, names in os.walk(self.path):
            below[:] = [name for name in below if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if not name.startswith(".") and path.is_file():
                    yield path.relative_to(self.path).as_posix(), path.stat().st_mtime

    def read(self, name: str, most: int) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(most)

    def write(self, name: str, data: bytes, *, overwrite: bool) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data, overwrite=overwrite)

    def remove_partial(self) -> None:
        """Remove what a killed run was writing."""
        for path in self.path.rglob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)


class Bucket:
    """An object store by its URI, as "s3://bucket/photos"; keys are those of its own tools."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __str__(self) -> str:
        """Where it is, without what may be secret in the URI."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from pyarrow import fs

        files, root = fs.FileSystem.from_uri(self.uri)
        return files, root.rstrip("/")

    def files(self) -> Iterator[tuple[str, float]]:
        from pyarrow import fs

        files, root = self._place
        listing = fs.FileSelector(root, recursive=True, allow_not_found=True)
        for entry in files.get_file_info(listing):
            name = entry.path[len(root) + 1 :]
            if entry.type == fs.FileType.File and not f"/{name}".count("/."):
                yield name, entry.mtime_ns / 1e9

    def read(self, name: str, most: int) -> bytes:
        files, root = self._place
        with files.open_input_stream(f"{root}/{name}") as file:
            return bytes(file.read(most))

    def write(self, name: str, data: bytes, *, overwrite: bool) -> None:
        files, root = self._place
        path = f"{root}/{name}"
        if not overwrite and files.get_file_info(path).is_file:
            raise FileExistsError(f"{self}/{name} exists")
        # An object appears when its stream is closed, so whole.
        with files.open_output_stream(path) as file:
            file.write(data)


def store_of(place: str) -> Folder | Bucket:
    """The store at a path or a URI.

    Raises ValueError for a URI that cannot be reached from here.
    """
    if "://" not in place:
        return Folder(Path(place))
    if place.startswith("file://"):
        return Folder(Path(place.removeprefix("file://")))
    bucket = Bucket(place)
    try:
        bucket._place  # noqa: B018 - to fail early
    except ImportError as error:
        raise ValueError(
            f"{bucket} needs pyarrow, which is not installed: pip install 'styleclip-triton[ray]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{bucket} cannot be opened: {error}") from error
    return bucket
