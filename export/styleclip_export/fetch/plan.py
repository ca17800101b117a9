"""What has to be fetched into a folder: files that exist, that the user has, or to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from styleclip_export.errors import FetchError
from styleclip_export.fetch.local_files import LocalFile, LocalFileFinder, list_files
from styleclip_export.fetch.lock_file import LockEntry, LockFile
from styleclip_export.fetch.manifest import File, FileVariant, Manifest
from styleclip_export.file_kinds import sha256_of


@dataclass
class FetchPlan:
    """Where each file of a manifest comes from.

    Attributes:
        present: files that are in the folder, checked.
        local: files that the user has elsewhere.
        missing: files to download.
        warnings: why files of the user's were not taken.
    """

    folder: Path
    lock: LockFile
    present: list[File] = field(default_factory=list)
    local: list[tuple[File, LocalFile]] = field(default_factory=list)
    missing: list[File] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def to_fetch(self) -> list[File]:
        """The files to fetch, whose licenses apply."""
        return [*(file for file, _ in self.local), *self.missing]


def plan_fetch(
    manifest: Manifest,
    folder: Path,
    sources: Sequence[Path] = (),
    only: Sequence[str] = (),
    optional: bool = False,
    allow_modified: bool = False,
) -> FetchPlan:
    """Find out what must be fetched. Nothing is written.

    Args:
        folder: where the files go.
        sources: folders or files of the user's.
        only: names of files; none selects all.
        optional: also download optional files.
        allow_modified: take a file of the right name from `sources` although its hash is wrong.

    Raises:
        FetchError: a file in the folder is not what it should be, or a needed one is not published.
    """
    selected = _select(manifest, only)
    plan = FetchPlan(folder, LockFile.read(folder))
    finder = LocalFileFinder(list_files(sources, leave_out=folder), allow_modified)
    for file in selected:
        if _is_present(folder, plan, file):
            plan.present.append(file)
        elif local := finder.find(file, plan.lock.pinned(file)):
            plan.local.append((file, local))
        elif not file.optional or only or (optional and file.urls):
            plan.missing.append(file)
    plan.warnings += finder.warnings
    for file in plan.missing:
        if not file.urls:
            raise FetchError(
                f"{file.name} is not published anywhere ({file.description}); give its folder "
                "with --from"
            )
    return plan


def _select(manifest: Manifest, only: Sequence[str]) -> list[File]:
    """Return the named files of a manifest, or all."""
    by_name = {variant.name: file for file in manifest.files for variant in file.variants}
    if unknown := [name for name in only if name not in by_name]:
        raise FetchError(
            f"{unknown[0]} is not a file of {manifest.domain}; its files are {', '.join(by_name)}"
        )
    selected = {by_name[name].name for name in only}
    return [file for file in manifest.files if not only or file.name in selected]


def _is_present(folder: Path, plan: FetchPlan, file: File) -> bool:
    """Return whether a variant of the file is in the folder, and check it."""
    for variant in file.variants:
        path = folder / variant.name
        if path.exists():
            sha256 = _check_present(path, variant, plan.lock)
            if doubt := variant.doubt(path, sha256):
                plan.warnings.append(doubt)
            return True
    return False


def _check_present(path: Path, variant: FileVariant, lock: LockFile) -> str:
    """Return the file's SHA-256.

    Raises:
        FetchError: it is not what it should be; it is never replaced silently.
    """
    sha256, entry = sha256_of(path), lock.entries.get(variant.name)
    expected = variant.sha256
    if entry and (expected is None or not entry.published):
        expected = entry.sha256
    if expected is None:
        if problem := variant.problem_with(path):
            raise FetchError(f"{path} is not {variant.name}: {problem}; move it away")
        size = path.stat().st_size
        lock.entries[variant.name] = LockEntry(sha256, size, "found in the folder")
    elif sha256 != expected:
        raise FetchError(
            f"{path} is not {variant.name}: its SHA-256 is {sha256}, expected {expected}; "
            "move it away and run the command again"
        )
    return sha256
