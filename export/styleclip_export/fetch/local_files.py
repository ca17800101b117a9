"""Files that the user already has: found under any name, installed, never changed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from styleclip_export.errors import FetchError
from styleclip_export.fetch.manifest import File, FileVariant
from styleclip_export.file_kinds import sha256_of

MAX_FILES = 20_000  # in all folders of --from together
_ROUNDED = 0.02  # by which a size in a manifest may be rounded
_FICLONE = 0x40049409  # ioctl: share the blocks of another file (Btrfs, XFS)


@dataclass(frozen=True)
class LocalFile:
    """A file of the user's.

    Attributes:
        recognized_by: "SHA-256", "name and kind", …
        published: the hash equals the published one, or none is published.
    """

    variant: FileVariant
    path: Path
    sha256: str
    recognized_by: str
    published: bool = True


@dataclass
class LocalFileFinder:
    """Finds the files of a manifest among the user's, hashing each at most once.

    Attributes:
        candidates: the user's files.
        allow_modified: take a file of the right name and kind although its hash is another one.
        warnings: why files of the right name were not taken.
    """

    candidates: list[Path]
    allow_modified: bool = False
    warnings: list[str] = field(default_factory=list)
    _hashes: dict[Path, str] = field(default_factory=dict)

    def find(self, file: File, pinned: tuple[str, int] | None) -> LocalFile | None:
        """Find a file by its hash where one is known, else by its name, else by its contents.

        Args:
            file: the file, or any of its variants.
            pinned: SHA-256 and size in the lock file where the manifest knows no hash.
        """
        for variant in file.variants:
            if variant.sha256:
                local = self._by_hash(variant, variant.sha256, variant.size, _ROUNDED)
            elif pinned and variant is file:
                local = self._by_hash(variant, *pinned, 0)
            else:
                local = self._by_name(variant) or self._by_contents(variant)
            if local:
                return local
        return None

    def _by_hash(
        self, variant: FileVariant, sha256: str, size: int, tolerance: float
    ) -> LocalFile | None:
        named = self._named(variant)
        of_that_size = [
            path
            for path in self.candidates
            if path not in named and abs(path.stat().st_size - size) <= tolerance * size
        ]
        for path in (*named, *of_that_size):
            if self._hash(path) == sha256:
                return LocalFile(variant, path, sha256, "SHA-256")
        for path in named:
            problem = variant.problem_with(path)
            if problem is None and self.allow_modified:
                return LocalFile(variant, path, self._hash(path), "name, modified", published=False)
            self.warnings.append(
                f"{path} is not {variant.name}: its SHA-256 is {self._hash(path)}, expected "
                f"{sha256}; {problem or '--allow-modified takes it all the same'}"
            )
        return None

    def _by_name(self, variant: FileVariant) -> LocalFile | None:
        for path in self._named(variant):
            problem = variant.problem_with(path)
            if problem is None:
                return LocalFile(variant, path, self._hash(path), "name and kind")
            self.warnings.append(f"{path} is not {variant.name}: {problem}")
        return None

    def _by_contents(self, variant: FileVariant) -> LocalFile | None:
        if not variant.marks:
            return None
        matching = [
            path
            for path in self.candidates
            if variant.size / 2 <= path.stat().st_size <= variant.size * 2
            and variant.problem_with(path) is None
        ]
        if len({self._hash(path) for path in matching}) > 1:
            names = ", ".join(str(path) for path in matching)
            self.warnings.append(
                f"several files may be {variant.name} ({names}); give the right one that name"
            )
            return None
        if not matching:
            return None
        return LocalFile(variant, matching[0], self._hash(matching[0]), "contents")

    def _named(self, variant: FileVariant) -> list[Path]:
        return [path for path in self.candidates if path.name.lower() == variant.name.lower()]

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_of(path)
        return self._hashes[path]


def list_files(sources: Iterable[Path], leave_out: Path) -> list[Path]:
    """List the regular files under the sources (folders or files), except those in `leave_out`."""
    files: dict[Path, None] = {}  # in order, each once
    for source in sources:
        paths = sorted(source.rglob("*")) if source.is_dir() else [source]
        for path in paths:
            real = path.resolve()
            if real.is_file() and not real.is_relative_to(leave_out.resolve()):
                files[path] = None
            if len(files) > MAX_FILES:
                raise FetchError(
                    f"{source} contains more than {MAX_FILES:,} files; give the folder of the "
                    "weights themselves"
                )
    return list(files)


def install_file(local: LocalFile, target: Path) -> str:
    """Put a file into place atomically; return how.

    Shared blocks cost no space and stay apart when one side changes; a hard link is one file under
    two names, which nothing here ever writes to; a copy is compared with the original's hash.
    """
    source, temporary = local.path.resolve(), target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        if _clone(source, temporary):
            how = "shared blocks"
        elif _link(source, temporary):
            how = "hard link"
        else:
            how = "copy"
            shutil.copyfile(source, temporary)
            if sha256_of(temporary) != local.sha256:
                raise FetchError(f"{source} changed while it was copied; run the command again")
        move_into_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return how


def move_into_place(path: Path, target: Path) -> None:
    """Rename a file once its bytes are on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    path.replace(target)


def _clone(source: Path, target: Path) -> bool:
    with source.open("rb") as original, target.open("wb") as clone:
        try:
            fcntl.ioctl(clone, _FICLONE, original.fileno())
            return True
        except OSError:
            pass
    target.unlink()
    return False


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
        return True
    except OSError:
        return False
