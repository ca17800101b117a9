"""`fetch.lock.json`: SHA-256 and origin of each file in a folder of checkpoints.

Where the manifest knows no hash, the first file's hash counts from then on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from styleclip_export.errors import FetchError
from styleclip_export.fetch.manifest import File
from styleclip_server.files import write_atomically

LOCK = "fetch.lock.json"


@dataclass(frozen=True)
class LockEntry:
    """A file that was fetched or found.

    Attributes:
        origin: its address, or how it was found.
        published: the hash equals the published one, or none is published.
        license_url: None for a file that was found in the folder.
    """

    sha256: str
    size: int
    origin: str
    published: bool = True
    license_url: str | None = None

    def to_json(self) -> dict[str, Any]:
        entry = {
            "sha256": self.sha256,
            "size": self.size,
            "from": self.origin,
            "published": self.published,
        }
        return entry if self.license_url is None else entry | {"license": self.license_url}


@dataclass
class LockFile:
    """The lock file of a folder; `write` saves changes of `entries`."""

    folder: Path
    entries: dict[str, LockEntry]

    @classmethod
    def read(cls, folder: Path) -> LockFile:
        """Read the lock file; a folder without one gives an empty one.

        Raises:
            FetchError: it is damaged.
        """
        path = folder / LOCK
        try:
            raw = json.loads(path.read_text("utf-8"))
            entries = {
                name: LockEntry(
                    str(entry["sha256"]),
                    int(entry["size"]),
                    str(entry["from"]),
                    bool(entry["published"]),
                    entry.get("license", entry.get("licence")),
                )
                for name, entry in raw.items()
            }
        except FileNotFoundError:
            return cls(folder, {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(
                f"{path} cannot be read ({error}); repair it or move it away"
            ) from None
        return cls(folder, entries)

    def write(self) -> None:
        """Save the entries atomically."""
        raw = {name: entry.to_json() for name, entry in self.entries.items()}
        write_atomically(self.folder / LOCK, json.dumps(raw, indent=1, sort_keys=True) + "\n")

    def record(self, name: str, entry: LockEntry) -> None:
        """Add an entry and save it."""
        self.entries[name] = entry
        self.write()

    def pinned(self, file: File) -> tuple[str, int] | None:
        """Return SHA-256 and size of a file whose hash the manifest does not know."""
        entry = self.entries.get(file.name)
        return (entry.sha256, entry.size) if entry and file.sha256 is None else None
