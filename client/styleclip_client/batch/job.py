"""What a batch does with each photo, and which photos it has done already.

The state is one small file beside the images, written before the first of them. An image that is
newer than this file is done, an older one belongs to the user. So a batch that is killed at any
moment can be resumed, and nothing is written twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from styleclip_client.batch.stores import Folder, Store
from styleclip_client.images import FORMAT_BY_SUFFIX, PHOTO_SUFFIXES
from styleclip_contract import limits
from styleclip_contract.edits import Edit
from styleclip_contract.errors import BatchMismatch

STATE = "styleclip-batch.json"
_MAX_STATE_BYTES = 2**20


@dataclass(frozen=True)
class Job:
    """The settings of a batch, the same for each photo.

    Attributes:
        source: where the photos are.
        domain, model_version: what the servers' generator draws, and its version.
        edits: the edits, which are summed.
        face: which face, best first; -1 is the largest, `faces.ALL` all clear ones.
        format: of all images; None keeps each photo's own.
        align, paste, quality, mark, keep_gps, fidelity: as in `Client.edit_photo`.
    """

    source: str
    domain: str
    model_version: str
    edits: tuple[Edit, ...]
    align: bool | None = None
    face: int = -1
    paste: bool = False
    format: str | None = None
    quality: int = limits.DEFAULT_QUALITY
    mark: bool = True
    keep_gps: bool = False
    fidelity: str = limits.DEFAULT_FIDELITY

    def task(self, photo: str) -> Task:
        """Return the task for `photo`.

        The image has the name of its photo, with the format's suffix added where the photo's suffix
        is another, so that no two photos get the same name.
        """
        suffix = PurePosixPath(photo).suffix.lower()
        format = self.format or FORMAT_BY_SUFFIX.get(suffix, "JPEG")
        fits = FORMAT_BY_SUFFIX.get(suffix) == format
        return Task(photo, photo if fits else photo + limits.SUFFIX_BY_FORMAT[format], format)


@dataclass(frozen=True)
class Task:
    """One photo, and the name and format of its image."""

    photo: str
    out: str
    format: str


@dataclass(frozen=True)
class BatchPlan:
    """The tasks of a batch by their state.

    Attributes:
        todo: to be done.
        done: done by an earlier run.
        blocked: their image's name belongs to another file.
        replace: `todo` may replace files.
    """

    todo: tuple[Task, ...]
    done: tuple[Task, ...]
    blocked: tuple[Task, ...]
    replace: bool


def plan_batch(job: Job, source: Store, out: Store, *, overwrite: bool) -> BatchPlan:
    """Start or resume `job`; `overwrite` starts over and replaces files.

    Raises:
        BatchMismatch: `out` has the images of another batch.
    """
    replace = _start_or_resume(job, out, overwrite)
    times = dict(out.files())
    started = times.get(STATE, float("inf"))
    todo: list[Task] = []
    done: list[Task] = []
    blocked: list[Task] = []
    for photo in list_photos(source, out):
        task = job.task(photo)
        written = times.get(task.out)
        if written is None or (replace and written < started):
            todo.append(task)
        elif written >= started:
            done.append(task)
        else:
            blocked.append(task)
    return BatchPlan(tuple(todo), tuple(done), tuple(blocked), replace)


def _start_or_resume(job: Job, out: Store, overwrite: bool) -> bool:
    """Check the state of an earlier run or write a new one; returns whether files are replaced."""
    settings = _settings(job)
    state = None if overwrite else _read_state(out)
    if state is None:
        text = json.dumps({**settings, "overwrite": overwrite}, indent=2, ensure_ascii=False)
        out.write(STATE, text.encode(), overwrite=True)
        return overwrite
    names = dict.fromkeys([*settings, "fidelity"])
    differing = [name for name in names if state.get(name) != settings.get(name)]
    if differing:
        raise BatchMismatch(
            f"{out} has the images of a batch with other {' and '.join(differing)}: "
            "choose another place, or --overwrite"
        )
    return bool(state.get("overwrite", False))


def _settings(job: Job) -> dict[str, object]:
    edits = [asdict(edit) for edit in job.edits]
    for edit in edits:
        if not edit["direction"]:  # the same settings as those of clients without directions
            del edit["direction"]
    settings = {**asdict(job), "edits": edits}
    if job.fidelity == limits.DEFAULT_FIDELITY:  # as of clients without this setting
        del settings["fidelity"]
    return settings


def _read_state(out: Store) -> dict[str, object] | None:
    try:
        state = json.loads(out.read(STATE, _MAX_STATE_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise BatchMismatch(f"{STATE} in {out} is damaged: remove it, or --overwrite") from error
    if not isinstance(state, dict):
        raise BatchMismatch(f"{STATE} in {out} is damaged: remove it, or --overwrite")
    return state


def list_photos(source: Store, out: Store) -> list[str]:
    """Return the names of the photos, sorted, without the images of an `out` inside `source`."""
    excluded = ""
    if isinstance(source, Folder) and isinstance(out, Folder):
        with contextlib.suppress(ValueError):
            excluded = out.path.resolve().relative_to(source.path.resolve()).as_posix() + "/"
    return sorted(
        name
        for name, _ in source.files()
        if name.lower().endswith(PHOTO_SUFFIXES) and not (excluded and name.startswith(excluded))
    )


@contextlib.contextmanager
def lock_output(out: Store) -> Iterator[None]:
    """Keep other batches out of a folder; the kernel releases the lock when this process dies.

    Raises:
        BatchMismatch: another batch is running there.
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
            raise BatchMismatch(f"another batch is running in {out}: wait for its end") from error
        except OSError:  # a file system without locks
            pass
        else:
            out.remove_partial()
        yield
