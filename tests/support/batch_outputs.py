"""The images that a batch has written."""

from pathlib import Path


def list_images(out: Path) -> list[str]:
    """Return their paths in the folder, sorted."""
    return sorted(
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.suffix != ".json" and path.is_file() and not path.name.startswith(".")
    )


def modification_times(out: Path) -> dict[str, int]:
    """Return by path when each was written, in nanoseconds."""
    return {name: (out / name).stat().st_mtime_ns for name in list_images(out)}
