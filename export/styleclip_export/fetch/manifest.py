"""What a domain is made of: files, where they are published, their hashes and licences.

A manifest is data, a JSON file; `manifests/` holds the known ones. A SHA-256 is written there only
where its publisher or several independent sources give it, else it is null.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from styleclip_export.errors import FetchError

FOLDER = Path(__file__).parent / "manifests"

Kind = Literal["torch", "pickle", "npy", "bzip2", "any"]


@dataclass(frozen=True)
class Licence:
    """Terms of a file."""

    title: str
    url: str
    non_commercial: bool


@dataclass(frozen=True)
class Form:
    """One form of a file: bytes that can be told from others.

    name: a plain file name. sha256: lower-case hexadecimal, None where it is not known. size: in
    bytes, rounded where no hash is known. kind: what its first bytes say. marks: words found in
    its pickle or header, which tell it from others of its kind.
    """

    name: str
    sha256: str | None
    size: int
    kind: Kind
    marks: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class File(Form):
    """A file that `fetch` brings. urls: mirrors in order of preference; none where it is published
    nowhere. optional: not needed to serve the domain. instead: forms that serve as well.
    """

    what: str = ""
    licence: Licence = Licence("", "", False)
    urls: tuple[str, ...] = ()
    optional: bool = False
    instead: tuple[Form, ...] = ()

    @property
    def forms(self) -> tuple[Form, ...]:
        """The file itself first, then what serves as well."""
        return (self, *self.instead)


@dataclass(frozen=True)
class Manifest:
    """The files of one domain."""

    domain: str
    title: str
    files: tuple[File, ...]


def known_domains() -> list[str]:
    """The domains whose manifests the project ships."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_manifest(domain: str) -> Manifest:
    """The manifest of a known domain, or the one in the JSON file that `domain` names.

    Raises FetchError for an unknown domain or a manifest that is not one.
    """
    path = Path(domain) if domain.endswith(".json") else FOLDER / f"{domain}.json"
    if domain not in known_domains() and not domain.endswith(".json"):
        raise FetchError(
            f"no domain {domain!r} is known; known are {', '.join(known_domains())}, or give the "
            "path of a manifest (.json)"
        )
    try:
        raw = json.loads(path.read_text("utf-8"))
        licences = {key: Licence(**licence) for key, licence in raw["licences"].items()}
        files = tuple(_file(entry, licences) for entry in raw["files"])
        manifest = Manifest(_plain_name(raw["domain"]), str(raw["title"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise FetchError(f"{path} is no manifest ({reason}); see {FOLDER.name}/ffhq.json") from None
    names = [form.name for file in files for form in file.forms]
    if len({name.lower() for name in names}) != len(names):
        raise FetchError(f"{path} names a file twice; each needs a name of its own")
    return manifest


def _file(raw: dict[str, Any], licences: dict[str, Licence]) -> File:
    urls = tuple(raw["urls"])
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{url!r} is no http or https address")
    return File(
        **_form(raw),
        what=str(raw["what"]),
        licence=licences[raw["licence"]],
        urls=urls,
        optional=bool(raw.get("optional", False)),
        instead=tuple(Form(**_form(form)) for form in raw.get("instead", ())),
    )


def _form(raw: dict[str, Any]) -> dict[str, Any]:
    sha256, kind = raw["sha256"], raw["kind"]
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256!r} is no SHA-256")
    if kind not in get_args(Kind):
        raise ValueError(f"kind {kind!r} is none of {', '.join(get_args(Kind))}")
    return {
        "name": _plain_name(raw["name"]),
        "sha256": sha256,
        "size": int(raw["size"]),
        "kind": kind,
        "marks": tuple(mark.encode() for mark in raw.get("marks", ())),
    }


def _plain_name(name: str) -> str:
    """A manifest may not name a file outside the folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", name):
        raise ValueError(f"{name!r} is no plain file name")
    return name
