"""Where photos are read and images are written: a folder, or what pyarrow reaches by a URI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from styleclip_client.images import PARTIAL, write_file


class Store(Protocol):
    """Files by name, with "/" between folders; can be sent to another process."""

    def files(self) -> Iterator[tuple[str, float]]:
        """Yield name and modification time, in seconds, of each file that is not hidden."""

    def read(self, name: str, limit: int) -> bytes:
        """Return the first `limit` bytes of a file; FileNotFoundError if there is none."""

    def write(self, name: str, data: bytes, *, overwrite: bool) -> None:
        """Write a file atomically; FileExistsError when it must not be replaced."""


class Folder:
    """A folder of this machine, or one that all machines of a cluster mount."""

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

    def read(self, name: str, limit: int) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(limit)

    def write(self, name: str, data: bytes, *, overwrite: bool) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data, overwrite=overwrite)

    def remove_partial(self) -> None:
        """Remove the partial files of a killed run."""
        for path in self.path.rglob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)


class Bucket:
    """An object store by its URI, such as "s3://bucket/photos".

    Credentials are found as its own tools find them.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __str__(self) -> str:
        """The URI without credentials and options."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}

    def connect(self) -> None:
        """Find the file system of the URI.

        Raises:
            ImportError: pyarrow is not installed.
            OSError, ValueError: the URI names no file system that can be reached.
        """
        _ = self._file_system

    @cached_property
    def _file_system(self) -> tuple[Any, str]:
        from pyarrow import fs

        files, root = fs.FileSystem.from_uri(self.uri)
        return files, root.rstrip("/")

    def files(self) -> Iterator[tuple[str, float]]:
        from pyarrow import fs

        files, root = self._file_system
        listing = fs.FileSelector(root, recursive=True, allow_not_found=True)
        for entry in files.get_file_info(listing):
            name = entry.path[len(root) + 1 :]
            if entry.type == fs.FileType.File and not f"/{name}".count("/."):
                yield name, entry.mtime_ns / 1e9

    def read(self, name: str, limit: int) -> bytes:
        files, root = self._file_system
        with files.open_input_stream(f"{root}/{name}") as file:
            return bytes(file.read(limit))

    def write(self, name: str, data: bytes, *, overwrite: bool) -> None:
        files, root = self._file_system
        path = f"{root}/{name}"
        if not overwrite and files.get_file_info(path).is_file:
            raise FileExistsError(f"{self}/{name} exists")
        # An object appears when its stream is closed, so it is complete.
        with files.open_output_stream(path) as file:
            file.write(data)


def open_store(place: str) -> Folder | Bucket:
    """Return the store at a path or a URI.

    Raises:
        ValueError: the URI cannot be reached from here.
    """
    if "://" not in place:
        return Folder(Path(place))
    if place.startswith("file://"):
        return Folder(Path(place.removeprefix("file://")))
    bucket = Bucket(place)
    try:
        bucket.connect()
    except ImportError as error:
        raise ValueError(
            f"{bucket} needs pyarrow, which is not installed: pip install 'styleclip-triton[ray]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{bucket} cannot be opened: {error}") from error
    return bucket
