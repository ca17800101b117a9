"""Carries out a plan: installs the user's own files and downloads the others.

A file gets its name only after it was checked.
"""

from __future__ import annotations

import queue
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from styleclip_export.errors import FetchError
from styleclip_export.fetch import google_drive
from styleclip_export.fetch.download import Cancelled, Downloader, NoAnswer
from styleclip_export.fetch.local_files import LocalFile, install_file, move_into_place
from styleclip_export.fetch.lock_file import LOCK, LockEntry
from styleclip_export.fetch.manifest import File
from styleclip_export.fetch.part_file import part_path, remove_part
from styleclip_export.fetch.plan import FetchPlan
from styleclip_export.file_kinds import sha256_of
from styleclip_export.progress import ReportBytes

SPARE_BYTES = 64 << 20  # that must stay free on the disk
_REMEDY = "run the command again to resume, or give a folder that has the missing files with --from"


class Reporter(Protocol):
    """Shows the user what happens; called from several threads."""

    def progress(self, name: str, size: int, total: int | None) -> None:
        """Report that `size` bytes of a download have arrived."""

    def message(self, line: str) -> None:
        """Print a line."""


@dataclass(frozen=True)
class _Downloaded:
    file: File
    sha256: str
    url: str


def fetch_files(
    plan: FetchPlan, reporter: Reporter, jobs: int = 4, downloader: Downloader | None = None
) -> None:
    """Fetch the files that are not in the folder.

    KeyboardInterrupt stops the downloads; what arrived stays in part files and is used later.

    Args:
        jobs: downloads at a time.
        downloader: None takes the default retries and time-outs.

    Raises:
        FetchError: some files could not be fetched; the others were.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    _check_space(plan)
    if plan.lock.entries:  # may have new ones, of files that were found in the folder
        plan.lock.write()
    for file, local in plan.local:
        _install(plan, file, local, reporter)
    if plan.missing:
        _download_all(plan, reporter, jobs, downloader or Downloader(threading.Event()))


def _check_space(plan: FetchPlan) -> None:
    device = plan.folder.stat().st_dev
    needed = sum(
        local.path.stat().st_size for _, local in plan.local if local.path.stat().st_dev != device
    )
    for file in plan.missing:
        part = part_path(plan.folder / file.name)
        needed += max(file.size - (part.stat().st_size if part.exists() else 0), 0)
    free = shutil.disk_usage(plan.folder).free
    if needed and needed + SPARE_BYTES > free:
        raise FetchError(
            f"{plan.folder} needs about {needed / 1e6:,.0f} MB and has {free / 1e6:,.0f} MB free; "
            "make room or choose another folder with --to"
        )


def _install(plan: FetchPlan, file: File, local: LocalFile, reporter: Reporter) -> None:
    name = local.variant.name
    target = plan.folder / name
    how = install_file(local, target)
    reporter.message(f"{name}: {local.path} ({how}; recognized by {local.recognized_by})")
    size, origin = target.stat().st_size, "a file of the user's"
    entry = LockEntry(local.sha256, size, origin, local.published, file.license.url)
    plan.lock.record(name, entry)
    if not local.published:
        reporter.message(f"{name}: NOT the published file, taken as it is")
    elif doubt := local.variant.doubt(target, local.sha256):
        reporter.message(doubt)
    elif local.variant.sha256 is None:
        reporter.message(_first_hash_message(name, local.sha256))


def _first_hash_message(name: str, sha256: str) -> str:
    return (
        f"{name}: its published SHA-256 is not known; {sha256} is now in {LOCK}, and another file "
        "under this name will be refused"
    )


def _download_all(plan: FetchPlan, reporter: Reporter, jobs: int, downloader: Downloader) -> None:
    """Download several files at a time, the largest first.

    The threads are daemons, so that an interrupt does not wait for a silent server.
    """
    todo: queue.SimpleQueue[File] = queue.SimpleQueue()
    results: queue.SimpleQueue[_Downloaded | str] = queue.SimpleQueue()
    for file in sorted(plan.missing, key=lambda file: -file.size):
        todo.put(file)

    def work() -> None:
        while not downloader.cancel.is_set():
            try:
                file = todo.get_nowait()
            except queue.Empty:
                return
            results.put(_try_download(plan, file, downloader, reporter))

    size = sum(file.size for file in plan.missing) / 1e6
    reporter.message(f"to download: {len(plan.missing)} file(s), about {size:,.0f} MB")
    threads = [
        threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(plan.missing)))
    ]
    for thread in threads:
        thread.start()
    failures = []
    try:
        for _ in plan.missing:
            result = results.get()
            if isinstance(result, str):
                failures.append(result)
            else:
                _record(plan, result, reporter)
    except BaseException:
        downloader.cancel.set()
        for thread in threads:
            thread.join(1.0)
        raise
    if failures:
        raise FetchError(f"{'; '.join(failures)}; {_REMEDY}")


def _record(plan: FetchPlan, result: _Downloaded, reporter: Reporter) -> None:
    file = result.file
    if doubt := file.doubt(plan.folder / file.name, result.sha256):
        reporter.message(doubt)
    elif file.sha256 is None and plan.lock.pinned(file) is None:
        reporter.message(_first_hash_message(file.name, result.sha256))
    size = (plan.folder / file.name).stat().st_size
    entry = LockEntry(result.sha256, size, result.url, license_url=file.license.url)
    plan.lock.record(file.name, entry)
    reporter.message(f"{file.name}: complete and checked, from {urlsplit(result.url).hostname}")


def _try_download(
    plan: FetchPlan, file: File, downloader: Downloader, reporter: Reporter
) -> _Downloaded | str:
    """Download a file; return why it failed if it did. A thread must not end without a result."""
    try:
        return _download(plan, file, downloader, reporter)
    except FetchError as error:
        return str(error)
    except Cancelled:
        return f"{file.name}: interrupted"
    except OSError as error:
        return f"{file.name}: {error}"
    except Exception as error:
        return f"{file.name}: {type(error).__name__}: {error}"


def _download(
    plan: FetchPlan, file: File, downloader: Downloader, reporter: Reporter
) -> _Downloaded:
    """Download a file from the first address that gives it."""
    pinned = plan.lock.pinned(file)
    expected = replace(file, sha256=pinned[0]) if pinned else file
    target = plan.folder / file.name

    def progress(size: int, total: int | None) -> None:
        reporter.progress(file.name, size, total)

    problems: list[FetchError] = []
    for url in file.urls:
        if problems:
            reporter.message(f"{file.name}: {problems[-1]}; trying the next address")
        reporter.message(f"{file.name}: downloading from {urlsplit(url).hostname} …")
        try:
            path, sha256 = _download_from(url, expected, target, downloader, progress)
        except FetchError as error:
            problems.append(error)
            continue
        move_into_place(path, target)
        remove_part(part_path(target))
        return _Downloaded(file, sha256, url)
    hint = (
        f" (the expected hash is the first download's, in {LOCK}; delete its entry there if the "
        "publisher is known to have changed the file)"
        if pinned
        else ""
    )
    if len(problems) > 1 and all(isinstance(problem, NoAnswer) for problem in problems):
        problems = [FetchError(f"none of its {len(problems)} addresses answers"), problems[-1]]
    raise FetchError(f"{file.name}: {'; '.join(map(str, problems))}{hint}")


def _download_from(
    url: str, file: File, target: Path, downloader: Downloader, progress: ReportBytes
) -> tuple[Path, str]:
    """Download a file from one address and check it; return where it is, and its SHA-256."""
    if google_drive.is_on_drive(url):
        path = target.with_name(f"{target.name}.drive")
        google_drive.download(url, path, downloader, progress)
        sha256 = sha256_of(path)
    else:
        path = part_path(target)
        sha256 = downloader.download(file, url, path, progress)
    if file.sha256 is None:
        problem = file.problem_with(path)
    elif file.sha256 != sha256:
        problem = f"its SHA-256 is {sha256}, expected {file.sha256}"
    else:
        problem = None
    if problem:
        path.unlink()
        raise FetchError(f"{url} gave something that is not {file.name}: {problem}")
    return path, sha256
