"""Which files a domain needs, where they are published, their hashes and licenses.

A manifest is a JSON file, such as `domains/ffhq/weights.json`. It gives a SHA-256 only where the
publisher or several independent sources do, else null.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from styleclip_export.domains import DOMAINS, known_domains
from styleclip_export.errors import FetchError
from styleclip_export.file_kinds import FileKind, git_blob_of, problem_with


@dataclass(frozen=True)
class License:
    """The terms of a file."""

    title: str
    url: str
    non_commercial: bool


@dataclass(frozen=True)
class ReportedHash:
    """A hash that is known from others than the publisher.

    Attributes:
        kind: "SHA-256", or "Git blob" (SHA-1 of Git's object).
        value: lower-case hexadecimal.
        by: who has it, for a message.
    """

    kind: str
    value: str
    by: str


@dataclass(frozen=True)
class FileVariant:
    """How a file can be recognized.

    Attributes:
        name: a plain file name.
        sha256: lower-case hexadecimal, None where it is not known.
        size: in bytes, rounded where no hash is known.
        kind: judged by the first bytes.
        marks: words in its pickle or header, which distinguish it from others of its kind.
        reported: a hash that others report, where the publisher gives none; see `doubt`.
    """

    name: str
    sha256: str | None
    size: int
    kind: FileKind
    marks: tuple[bytes, ...] = ()
    reported: ReportedHash | None = None

    def doubt(self, path: Path, sha256: str) -> str | None:
        """Say that a file of this SHA-256 is not the one that others report; None if it is."""
        reported = self.reported
        if reported is None:
            return None
        actual = sha256 if reported.kind == "SHA-256" else git_blob_of(path)
        if actual == reported.value:
            return None
        return (
            f"{self.name}: WARNING: its {reported.kind} is {actual}, but {reported.value} "
            f"according to {reported.by}; taken all the same"
        )

    def problem_with(self, path: Path) -> str | None:
        """Say why a file cannot be this one, judged without its hash; None if it can."""
        return problem_with(path, self.kind, self.marks)


@dataclass(frozen=True)
class File(FileVariant):
    """A file to fetch.

    Attributes:
        description: for the user.
        urls: mirrors in order of preference; none where the file is not published.
        optional: not needed to serve the domain.
        alternatives: variants that serve as well, such as the file uncompressed.
    """

    description: str = ""
    license: License = License("", "", False)
    urls: tuple[str, ...] = ()
    optional: bool = False
    alternatives: tuple[FileVariant, ...] = ()

    @property
    def variants(self) -> tuple[FileVariant, ...]:
        """The file itself, then its alternatives."""
        return (self, *self.alternatives)


@dataclass(frozen=True)
class Manifest:
    """The files of one domain."""

    domain: str
    title: str
    files: tuple[File, ...]


def load_manifest(domain: str) -> Manifest:
    """Load a manifest.

    Args:
        domain: a known domain, or the path of a manifest (.json).

    Raises:
        FetchError: the domain is unknown, or the file is not a manifest.
    """
    if domain.endswith(".json"):
        path = Path(domain)
    elif domain in known_domains():
        path = DOMAINS / domain / "weights.json"
    else:
        raise FetchError(
            f"domain {domain!r} is unknown; known domains: {', '.join(known_domains())}; or give "
            "the path of a manifest (.json)"
        )
    try:
        manifest = _parse_manifest(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise FetchError(
            f"{path} is not a manifest ({reason}); see {DOMAINS.name}/ffhq/weights.json"
        ) from None
    names = [variant.name.lower() for file in manifest.files for variant in file.variants]
    if len(set(names)) != len(names):
        raise FetchError(f"{path} names a file twice; each needs a name of its own")
    return manifest


def _parse_manifest(raw: dict[str, Any]) -> Manifest:
    described = raw["licenses"] if "licenses" in raw else raw["licences"]
    licenses = {key: License(**value) for key, value in described.items()}
    files = tuple(_parse_file(file, licenses) for file in raw["files"])
    return Manifest(_plain_name(raw["domain"]), str(raw["title"]), files)


def _parse_file(raw: dict[str, Any], licenses: dict[str, License]) -> File:
    urls = tuple(raw["urls"])
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{url!r} is not an http or https address")
    return File(
        **_parse_variant(raw),
        description=str(raw["what"]),
        license=licenses[raw["license"] if "license" in raw else raw["licence"]],
        urls=urls,
        optional=bool(raw.get("optional", False)),
        alternatives=tuple(FileVariant(**_parse_variant(v)) for v in raw.get("instead", ())),
    )


def _parse_variant(raw: dict[str, Any]) -> dict[str, Any]:
    sha256, kind = raw["sha256"], raw["kind"]
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256!r} is not a SHA-256")
    if kind not in get_args(FileKind):
        raise ValueError(f"kind {kind!r} is not one of {', '.join(get_args(FileKind))}")
    return {
        "name": _plain_name(raw["name"]),
        "sha256": sha256,
        "size": int(raw["size"]),
        "kind": kind,
        "marks": tuple(mark.encode() for mark in raw.get("marks", ())),
        "reported": ReportedHash(**raw["reported"]) if "reported" in raw else None,
    }


def _plain_name(name: str) -> str:
    """Refuse a name that could lead out of the folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", name):
        raise ValueError(f"{name!r} is not a plain file name")
    return name
