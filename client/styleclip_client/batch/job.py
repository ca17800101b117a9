"""What a batch does with each photo, and which photos it has done already.

The state is one small file beside the pictures, written before the first of them. A picture that
is newer than this file is done, an older one is somebody's own: so a run that is killed at any
moment goes on where it was, and nothing needs to be written twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from styleclip_client.batch.stores import Folder, Store
from styleclip_contract.edits import Edit
from styleclip_contract.errors import BatchMismatch

STATE = "styleclip-batch.json"
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
# What the server may be able to read; other files of the folder are no photos.
PHOTOS = (*FORMATS, ".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff")
_STATE_BYTES = 2**20


@dataclass(frozen=True)
class Job:
    """What makes one picture of one photo. `face` may be `faces.ALL`; no `format`: the photo's."""

    source: str
    domain: str
    model_version: str
    edits: tuple[Edit, ...]
    align: bool | None = None
    face: int = -1
    paste: bool = False
    format: str | None = None
    quality: int = 95
    mark: bool = True
    keep_gps: bool = False

    def task(self, photo: str) -> Task:
        """`photo` and where its picture goes: its own name, with the format's suffix added when
        it has another, so that no two photos meet."""
        suffix = PurePosixPath(photo).suffix.lower()
        own = FORMATS.get(suffix, "JPEG")
        format = self.format or own
        fits = FORMATS.get(suffix) == format
        return Task(photo, photo if fits else photo + SUFFIXES[format], format)


@dataclass(frozen=True)
class Task:
    """One photo, and its picture's name and format."""

    photo: str
    out: str
    format: str


@dataclass(frozen=True)
class Plan:
    """The photos by what is left to do. `taken`: their picture's name is somebody's file."""

    todo: tuple[Task, ...]
    done: tuple[Task, ...]
    taken: tuple[Task, ...]
    replace: bool  # `todo` may replace files


def plan(job: Job, source: Store, out: Store, *, overwrite: bool) -> Plan:
    """Begin `job`, or go on with it. `overwrite`: begin anew, and replace what is there.

    Raises:
        BatchMismatch: other edits, or another server's, made the pictures that are there.
    """
    begun = None if overwrite else _begun(out)
    if begun is None:
        state = json.dumps({**_content(job), "overwrite": overwrite}, indent=2, ensure_ascii=False)
        out.write(STATE, state.encode(), overwrite=True)
        replace = overwrite
    else:
        replace = bool(begun.pop("overwrite", False))
        differing = [key for key, value in _content(job).items() if begun.get(key) != value]
        if differing:
            raise BatchMismatch(
                f"{out} holds the pictures of a batch with other {' and '.join(differing)}: "
                "choose another place, or --overwrite"
            )
    times = dict(out.files())
    since = times.get(STATE, float("inf"))
    todo: list[Task] = []
    done: list[Task] = []
    taken: list[Task] = []
    for photo in photos(source, out):
        task = job.task(photo)
        time = times.get(task.out)
        if time is None or (replace and time < since):
            todo.append(task)
        else:
            (done if time >= since else taken).append(task)
    return Plan(tuple(todo), tuple(done), tuple(taken), replace)


def photos(source: Store, out: Store) -> list[str]:
    """The names of the photos, in order; pictures in a folder below are no photos."""
    below = ""
    if isinstance(source, Folder) and isinstance(out, Folder):
        with contextlib.suppress(ValueError):
            below = out.path.resolve().relative_to(source.path.resolve()).as_posix() + "/"
    return sorted(
        name
        for name, _ in source.files()
        if name.lower().endswith(PHOTOS) and not (below and name.startswith(below))
    )


@contextlib.contextmanager
def alone(out: Store) -> Iterator[None]:
    """Keep a second run out of a folder; the kernel lets go when this one dies.

    Raises:
        BatchMismatch: another one is at work there.
    """
    if not isinstance(out, Folder):
        yield
        return
    out.path.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (out.path / f".{STATE}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BatchMismatch(f"another batch is at work in {out}: wait for its end") from error
        except OSError:  # a file system without locks
            pass
        else:
            out.remove_partial()
        yield


def _content(job: Job) -> dict[str, object]:
    return {**asdict(job), "edits": [asdict(edit) for edit in job.edits]}


def _begun(out: Store) -> dict[str, object] | None:
    try:
        content = json.loads(out.read(STATE, _STATE_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise BatchMismatch(f"{STATE} in {out} is damaged: remove it, or --overwrite") from error
    if not isinstance(content, dict):
        raise BatchMismatch(f"{STATE} in {out} is damaged: remove it, or --overwrite")
    return content
