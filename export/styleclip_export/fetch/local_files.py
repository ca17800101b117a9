"""Files that the user already has: found under any name, put into place, never changed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from styleclip_export.errors import FetchError
from styleclip_export.fetch.manifest import File, Form
from styleclip_export.file_kinds import complaint, sha256_of

MOST_FILES = 20_000  # in all folders of --from together
_FICLONE = 0x40049409  # ioctl: share the blocks of another file (Btrfs, XFS)


@dataclass(frozen=True)
class Found:
    """A file of the user's. how: by what it was recognised. published: its hash is the known one,
    or none is known."""

    form: Form
    path: Path
    sha256: str
    how: str
    published: bool = True


@dataclass
class Finder:
    """Looks for the files of a manifest in the user's folders, each hashed at most once.

    allow_modified: a file of the right name and kind is taken although its hash is another one.
    """

    candidates: list[Path]
    allow_modified: bool = False
    complaints: list[str] = field(default_factory=list)
    _hashes: dict[Path, str] = field(default_factory=dict)

    def find(self, file: File, locked: tuple[str, int] | None) -> Found | None:
        """The file by its hash where one is known, else by its name, else by its contents.

        locked: SHA-256 and size that the lock file holds where the manifest knows no hash. What
        has the right name and is not taken leaves a complaint.
        """
        for form in file.forms:
            if form.sha256:
                found = self._by_hash(form, form.sha256, form.size, 0.02)
            elif locked and form is file:
                found = self._by_hash(form, *locked, 0)
            else:
                found = self._by_name(form) or self._by_contents(form)
            if found:
                return found
        return None

    def _by_hash(self, form: Form, sha256: str, size: int, slack: float) -> Found | None:
        named = self._named(form)
        sized = [
            path
            for path in self.candidates
            if path not in named and abs(path.stat().st_size - size) <= slack * size
        ]
        for path in (*named, *sized):
            if self._hash(path) == sha256:
                return Found(form, path, sha256, "SHA-256")
        for path in named:
            reason = complaint(path, form)
            if reason is None and self.allow_modified:
                return Found(form, path, self._hash(path), "name, modified", published=False)
            self.complaints.append(
                f"{path} is not {form.name}: its SHA-256 is {self._hash(path)}, expected {sha256}"
                + (f"; {reason}" if reason else "; --allow-modified takes it all the same")
            )
        return None

    def _by_name(self, form: Form) -> Found | None:
        for path in self._named(form):
            if reason := complaint(path, form):
                self.complaints.append(f"{path} is not {form.name}: {reason}")
            else:
                return Found(form, path, self._hash(path), "name and kind")
        return None

    def _by_contents(self, form: Form) -> Found | None:
        if not form.marks:
            return None
        matching = [
            path
            for path in self.candidates
            if form.size / 2 <= path.stat().st_size <= form.size * 2
            and complaint(path, form) is None
        ]
        if len({self._hash(path) for path in matching}) > 1:
            names = ", ".join(str(path) for path in matching)
            self.complaints.append(
                f"several files may be {form.name} ({names}); give the right one that name"
            )
            return None
        return Found(form, matching[0], self._hash(matching[0]), "contents") if matching else None

    def _named(self, form: Form) -> list[Path]:
        return [path for path in self.candidates if path.name.lower() == form.name.lower()]

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_of(path)
        return self._hashes[path]


def list_files(sources: Iterable[Path], leave_out: Path) -> list[Path]:
    """The regular files under the sources (folders or files), without those in `leave_out`."""
    found: dict[Path, None] = {}
    for source in sources:
        paths = sorted(source.rglob("*")) if source.is_dir() else [source]
        for path in paths:
            real = path.resolve()
            if real.is_file() and not real.is_relative_to(leave_out.resolve()):
                found[path] = None
            if len(found) > MOST_FILES:
                raise FetchError(
                    f"{source} holds more than {MOST_FILES:,} files; give the folder of the "
                    "weights themselves"
                )
    return list(found)


def place(found: Found, target: Path) -> str:
    """Puts the file into place whole or not at all; returns how ("shared blocks", …).

    Shared blocks cost no space and stay apart when one side changes; a hard link is one file under
    two names, which nothing here ever writes to; a copy is compared with the original's hash.
    """
    source, new = found.path.resolve(), target.with_name(f".{target.name}.new")
    new.unlink(missing_ok=True)
    try:
        how = "shared blocks" if _clone(source, new) else "hard link" if _link(source, new) else ""
        if not how:
            shutil.copyfile(source, new)
            if sha256_of(new) != found.sha256:
                raise FetchError(f"{source} changed while it was copied; run the command again")
            how = "copy"
        sync(new)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)
    return how


def sync(path: Path) -> None:
    """Has the bytes on the disk before a rename makes them count."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _clone(source: Path, new: Path) -> bool:
    with source.open("rb") as original, new.open("wb") as clone:
        try:
            fcntl.ioctl(clone, _FICLONE, original.fileno())
            return True
        except OSError:
            pass
    new.unlink()
    return False


def _link(source: Path, new: Path) -> bool:
    try:
        os.link(source, new)
        return True
    except OSError:
        return False
