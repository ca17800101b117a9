"""Brings the files of a domain into one folder: from the user's own, else from the network.

What is there is checked before anything is brought, and a file gets its name only after it was
checked. Beside the files lies `fetch.lock.json`, with the SHA-256 and origin of each: where the
manifest knows no hash, the first file's hash is the one that counts from then on.
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from styleclip_export.errors import FetchError
from styleclip_export.fetch.download import Cancelled, Downloader, fetch_by_gdown, origin_file
from styleclip_export.fetch.local_files import Finder, Found, list_files, place, sync
from styleclip_export.fetch.manifest import File, Manifest
from styleclip_export.file_kinds import complaint, sha256_of

LOCK = "fetch.lock.json"
# Hosts that answer with a page to be confirmed where a file is large.
DRIVE = ("drive.google.com", "docs.google.com")
SPARE = 64 << 20  # bytes that shall stay free on the disk


class Reporter(Protocol):
    """Who tells the user; called from several threads."""

    def moved(self, name: str, done: int, total: int | None) -> None:
        """`done` bytes of a download have arrived."""

    def say(self, line: str) -> None:
        """A line for the user."""


@dataclass
class Plan:
    """What is in the folder, what the user has elsewhere, what must be downloaded."""

    folder: Path
    lock: dict[str, dict[str, Any]]
    present: list[File] = field(default_factory=list)
    local: list[tuple[File, Found]] = field(default_factory=list)
    missing: list[File] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> list[File]:
        """The files to be brought, whose licences apply."""
        return [*(file for file, _ in self.local), *self.missing]


def make_plan(
    manifest: Manifest,
    folder: Path,
    sources: Sequence[Path] = (),
    only: Sequence[str] = (),
    optional: bool = False,
    allow_modified: bool = False,
) -> Plan:
    """Finds out what must be done; nothing is brought, the folder is not made.

    only: names of files, all others are left. optional: optional files too. Raises FetchError
    where a file of the folder is not what it should be, or a needed one cannot be had.
    """
    names = {form.name: file for file in manifest.files for form in file.forms}
    if unknown := [name for name in only if name not in names]:
        raise FetchError(
            f"{unknown[0]} is no file of {manifest.domain}; there are {', '.join(names)}"
        )
    chosen = {names[name].name for name in only}
    plan = Plan(folder, _read_lock(folder))
    finder = Finder(list_files(sources, folder), allow_modified)
    for file in manifest.files:
        if chosen and file.name not in chosen:
            continue
        if _is_present(plan, file):
            plan.present.append(file)
        elif found := finder.find(file, _locked(plan, file)):
            plan.local.append((file, found))
        elif not file.optional or file.name in chosen or (optional and file.urls):
            plan.missing.append(file)
    plan.complaints = finder.complaints
    for file in plan.missing:
        if not file.urls:
            raise FetchError(
                f"{file.name} is published nowhere ({file.what}); give its folder with --from"
            )
    return plan


def carry_out(
    plan: Plan, reporter: Reporter, jobs: int = 4, downloader: Downloader | None = None
) -> None:
    """Brings what the plan lacks. Raises FetchError, after all files were tried, if any failed.

    KeyboardInterrupt stops the downloads; what arrived stays in `.part` files and counts later.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    _check_space(plan)
    if plan.lock:  # what was found in the folder may be new in it
        _write_lock(plan)
    for file, found in plan.local:
        how = place(found, plan.folder / found.form.name)
        reporter.say(f"{found.form.name}: {found.path} ({how}; recognised by {found.how})")
        origin = "a file of the user's"
        _note(plan, found.form.name, found.sha256, origin, file, found.published)
        if not found.published:
            reporter.say(f"{found.form.name}: NOT the published file, taken as it is")
        elif found.form.sha256 is None:
            reporter.say(_first_seen(found.form.name, found.sha256))
    if plan.missing:
        _download(plan, reporter, jobs, downloader or Downloader(threading.Event()))


def _download(plan: Plan, reporter: Reporter, jobs: int, downloader: Downloader) -> None:
    """Several files at once, in daemon threads: an interrupt never waits for a silent server."""
    todo: queue.SimpleQueue[File] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[File, str, str] | FetchError | Cancelled] = queue.SimpleQueue()
    for file in sorted(plan.missing, key=lambda file: -file.size):
        todo.put(file)

    def work() -> None:
        while not downloader.cancel.is_set():
            try:
                file = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((file, *_bring(plan, file, downloader, reporter)))
            except (FetchError, Cancelled) as error:
                done.put(error)
            except OSError as error:
                done.put(FetchError(f"{file.name}: {error}"))
            except Exception as error:  # a thread must not end without an answer
                done.put(FetchError(f"{file.name}: {type(error).__name__}: {error}"))

    threads = [
        threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(plan.missing)))
    ]
    for thread in threads:
        thread.start()
    failures: list[str] = []
    try:
        for _ in plan.missing:
            result = done.get()
            if isinstance(result, BaseException):
                failures.append(str(result))
                continue
            file, digest, url = result
            if file.sha256 is None and _locked(plan, file) is None:
                reporter.say(_first_seen(file.name, digest))
            _note(plan, file.name, digest, url, file, True)
            reporter.say(f"{file.name}: whole and true, from {urlsplit(url).hostname}")
    except BaseException:
        downloader.cancel.set()
        for thread in threads:
            thread.join(1.0)
        raise
    if failures:
        raise FetchError("; ".join(failures))


def _bring(plan: Plan, file: File, downloader: Downloader, reporter: Reporter) -> tuple[str, str]:
    """One file from the first address that gives it; its SHA-256 and that address."""
    locked = _locked(plan, file)
    expected = replace(file, sha256=locked[0]) if locked else file
    target = plan.folder / file.name
    part = plan.folder / f"{file.name}.part"

    def moved(so_far: int, total: int | None) -> None:
        reporter.moved(file.name, so_far, total)

    complaints = []
    for number, url in enumerate(file.urls):
        try:
            if urlsplit(url).hostname in DRIVE:
                path = fetch_by_gdown(url, plan.folder, file, downloader.cancel, moved)
                digest = sha256_of(path)
            else:
                path = part
                digest = downloader.fetch(expected, url, part, moved)
            wrong = complaint(path, file) if expected.sha256 is None else None
            if expected.sha256 not in (None, digest):
                wrong = f"its SHA-256 is {digest}, expected {expected.sha256}"
            if wrong:
                path.unlink()
                raise FetchError(f"{url} gave something that is not {file.name}: {wrong}")
        except FetchError as error:
            complaints.append(str(error))
            if number + 1 < len(file.urls):
                reporter.say(f"{file.name}: {error}; trying the next address")
            continue
        sync(path)
        path.replace(target)
        part.unlink(missing_ok=True)
        origin_file(part).unlink(missing_ok=True)
        return digest, url
    hint = (
        f" (the expected hash is the first download's, in {LOCK}; delete its entry there if the "
        "publisher is known to have changed the file)"
        if locked
        else ""
    )
    raise FetchError(f"{file.name}: {'; '.join(complaints)}{hint}")


def _is_present(plan: Plan, file: File) -> bool:
    """Whether a form of the file lies in the folder and is true; what is wrong is never replaced
    silently."""
    for form in file.forms:
        path = plan.folder / form.name
        if not path.exists():
            continue
        digest, entry = sha256_of(path), plan.lock.get(form.name)
        expected = form.sha256
        if entry and (expected is None or not entry["published"]):
            expected = entry["sha256"]
        if expected is None:
            if reason := complaint(path, form):
                raise FetchError(f"{path} is not {form.name}: {reason}; move it away")
            plan.lock[form.name] = _entry(digest, path.stat().st_size, "found in the folder", True)
        elif digest != expected:
            raise FetchError(
                f"{path} is not {form.name}: its SHA-256 is {digest}, expected {expected}; "
                "move it away and run the command again"
            )
        return True
    return False


def _check_space(plan: Plan) -> None:
    needed = 0
    for file in plan.missing:
        part = plan.folder / f"{file.name}.part"
        needed += max(file.size - (part.stat().st_size if part.exists() else 0), 0)
    device = plan.folder.stat().st_dev
    needed += sum(
        found.path.stat().st_size for _, found in plan.local if found.path.stat().st_dev != device
    )
    free = shutil.disk_usage(plan.folder).free
    if needed and needed + SPARE > free:
        raise FetchError(
            f"{plan.folder} needs about {needed / 1e6:,.0f} MB and has {free / 1e6:,.0f} MB free; "
            "make room or choose another folder with --to"
        )


def _first_seen(name: str, digest: str) -> str:
    return (
        f"{name}: its published SHA-256 is not known; {digest} is now in {LOCK}, and another file "
        "under this name will be refused"
    )


def _locked(plan: Plan, file: File) -> tuple[str, int] | None:
    """SHA-256 and size from the lock file, where the manifest knows no hash."""
    entry = plan.lock.get(file.name)
    return (entry["sha256"], entry["size"]) if entry and file.sha256 is None else None


def _entry(sha256: str, size: int, origin: str, published: bool) -> dict[str, Any]:
    return {"sha256": sha256, "size": size, "from": origin, "published": published}


def _note(plan: Plan, name: str, sha256: str, origin: str, file: File, published: bool) -> None:
    size = (plan.folder / name).stat().st_size
    plan.lock[name] = _entry(sha256, size, origin, published) | {"licence": file.licence.url}
    _write_lock(plan)


def _write_lock(plan: Plan) -> None:
    new = plan.folder / f".{LOCK}.new"
    new.write_text(json.dumps(plan.lock, indent=1, sort_keys=True) + "\n", "utf-8")
    new.replace(plan.folder / LOCK)


def _read_lock(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / LOCK
    try:
        lock = json.loads(path.read_text("utf-8"))
        for entry in lock.values():
            entry.update(
                _entry(
                    str(entry["sha256"]),
                    int(entry["size"]),
                    str(entry["from"]),
                    bool(entry["published"]),
                )
            )
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{path} cannot be read ({error}); repair it or move it away") from None
    return lock  # type: ignore[no-any-return]


def licences(files: Iterable[File]) -> list[tuple[File, str]]:
    """Each file with the line that names its terms."""
    return [
        (file, ("NON-COMMERCIAL: " if file.licence.non_commercial else "") + file.licence.title)
        for file in files
    ]
