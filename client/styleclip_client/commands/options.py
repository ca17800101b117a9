"""Options that several commands share, and what commands print."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
from rich.console import Console

from styleclip_client import faces
from styleclip_client.address import DEFAULT_URL
from styleclip_client.client import Client
from styleclip_client.client_base import RETRIES, TIMEOUT
from styleclip_client.connection_options import ConnectionOptions
from styleclip_client.images import FORMAT_BY_SUFFIX
from styleclip_client.results import Edited, Face
from styleclip_contract import limits

DONE, SERVER_FAILED, WRONG_USAGE, BAD_INPUT, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_STATUS = """\b
Exit status: 0 done, 1 the server or writing failed, 2 wrong command line,
3 photo or texts refused, 4 some photos of a folder failed, 130 interrupted."""

LATENT = ".npz"  # suffix of a latent, which some commands take in place of a photo

Command: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class PhotoOptions:
    """How photos are edited, as in `Client.edit_photo`; `face` may be `faces.ALL`."""

    face: int
    align: bool | None
    paste: bool
    quality: int
    mark: bool
    keep_gps: bool
    fidelity: str | None


def add_options(options: Sequence[Callable[[Any], Any]], command: Command) -> Command:
    """Return `command` with `options`, which `--help` shows in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def server_option(command: Command) -> Command:
    """Add how to connect to one server; the command gets a connected `client`."""

    @functools.wraps(command)
    def with_client(server: str, **others: Any) -> Any:
        connection, others = _connection(**others)
        with _checked_client(connection, server) as client:
            return command(client=client, **others)

    return add_options((_server(), *_connection_options()), with_client)


def servers_option(several: bool) -> Callable[[Command], Command]:
    """Add how to connect to one server or `several`; the command gets `connection` and `urls`."""

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def with_connection(server: str | Sequence[str], **others: Any) -> Any:
            connection, others = _connection(**others)
            urls = [server] if isinstance(server, str) else list(dict.fromkeys(server))
            for url in urls:
                _checked_client(connection, url).close()
            return command(connection=connection, urls=urls, **others)

        options = (_server(several), *_connection_options())
        return add_options(options, with_connection)

    return add


def _server(several: bool = False) -> Callable[[Any], Any]:
    return click.option(
        "--server",
        metavar="URL",
        multiple=several,
        default=[DEFAULT_URL] if several else DEFAULT_URL,
        envvar="STYLECLIP_SERVER",
        show_envvar=True,
        show_default=True,
        help="HOST:PORT or grpc://… (gRPC), http://…; with TLS grpcs://… or https://…."
        + (" Repeatable." if several else ""),
    )


def _connection_options() -> Sequence[Callable[[Any], Any]]:
    file = click.Path(exists=True, dir_okay=False)
    return (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            default=TIMEOUT,
            show_default=True,
            help="Longest wait for an answer.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0, 100),
            default=RETRIES,
            show_default=True,
            help="Further attempts when no server answers, or it is busy.",
        ),
        click.option(
            "--token",
            envvar="STYLECLIP_TOKEN",
            show_envvar=True,
            help="Sent as “authorization: Bearer …”. Prefer the variable: other users can read a "
            "command line.",
        ),
        click.option("--ca", type=file, help="PEM file with the authorities to trust for TLS."),
    )


def _connection(
    timeout: float, retries: int, token: str | None, ca: str | None, **others: Any
) -> tuple[ConnectionOptions, dict[str, Any]]:
    return ConnectionOptions(timeout, retries, token, ca), others


def _checked_client(connection: ConnectionOptions, url: str) -> Client:
    try:
        return connection.client(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--server") from error


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


class FaceIndex(click.ParamType):
    """The index of a face, or "all" where `several` are possible."""

    name = "face"

    def __init__(self, several: bool) -> None:
        self.several = several

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if self.several and value == "all":
            return faces.ALL
        with contextlib.suppress(ValueError):
            if (face := int(value)) >= -1:
                return face
        known = "0 or more, -1: the largest" + (", or all" if self.several else "")
        self.fail(f"{value!r} is not a face: {known}", param, ctx)


def _face_options(several: bool) -> Sequence[Callable[[Any], Any]]:
    return (
        click.option(
            "--face",
            type=FaceIndex(several),
            default=-1,
            metavar="N",
            show_default=True,
            help="Which face, best first; -1: the largest"
            + ("; all: each clear one." if several else "."),
        ),
        click.option(
            "--align/--no-align",
            default=None,
            help="Find and align a face, or take the photo as a face crop. "
            "[default: as the domain needs]",
        ),
    )


def face_options(command: Command) -> Command:
    """Add --face, of one face, and --align."""
    return add_options(_face_options(several=False), command)


def fidelity_option(command: Command) -> Command:
    """Add --fidelity."""
    return click.option(
        "--fidelity",
        type=click.Choice(limits.FIDELITIES),
        help="features: keep details of the photo that a latent cannot hold, where the server has "
        "them. [default: the domain's]",
    )(command)


def photo_options(command: Command) -> Command:
    """Add how photos are edited; the command gets `photo_options`."""
    options = (
        *_face_options(several=True),
        click.option("--paste", is_flag=True, help="Put the edited face back into the photo."),
        click.option(
            "--quality",
            type=click.IntRange(*limits.QUALITY),
            default=95,
            show_default=True,
            help="Of JPEG and WebP.",
        ),
        click.option(
            "--mark/--no-mark",
            default=True,
            help="Write into the file that AI edited it, with which model and texts, or do not. "
            "[default: mark]",
        ),
        click.option(
            "--keep-gps", is_flag=True, help="With --paste: keep where the photo was taken."
        ),
        fidelity_option,
    )

    @functools.wraps(command)
    def with_photo_options(
        face: int,
        align: bool | None,
        paste: bool,
        quality: int,
        mark: bool,
        keep_gps: bool,
        fidelity: str | None,
        **others: Any,
    ) -> Any:
        photo_options = PhotoOptions(face, align, paste, quality, mark, keep_gps, fidelity)
        return command(photo_options=photo_options, **others)

    return add_options(options, with_photo_options)


def out_options(text: str, *, folder: bool = False) -> Callable[[Command], Command]:
    """Add --out, described by `text`, and --overwrite."""
    path = click.Path(dir_okay=folder, path_type=Path)
    return functools.partial(
        add_options,
        (
            click.option("-o", "--out", required=True, type=path, help=text),
            click.option("--overwrite", is_flag=True, help="Replace what exists."),
        ),
    )


def check_latent(photo: Path, *, align: bool | None, face: int, paste: bool = False) -> None:
    """Raise UsageError for options that need a photo, if `photo` is a latent."""
    given = {"--paste": paste, "--align": align is not None, "--face": face != -1}
    names = [name for name, is_given in given.items() if is_given]
    if photo.suffix == LATENT and names:
        raise click.UsageError(f"these options need the photo, not a latent: {', '.join(names)}")


def check_out(out: Path, overwrite: bool) -> None:
    """Raise BadParameter if OUT cannot be written, before the server works for it."""
    if out.is_dir():
        raise click.BadParameter(f"{out} is a folder", param_hint="--out")
    if out.exists() and not overwrite:
        raise click.BadParameter(f"{out} exists; --overwrite replaces it", param_hint="--out")
    if not out.parent.is_dir():
        raise click.BadParameter(f"there is no folder {out.parent}", param_hint="--out")


def image_format(out: Path, *other_suffixes: str) -> str:
    """Return the format for the suffix of `out`; a message names `other_suffixes` as well."""
    format = FORMAT_BY_SUFFIX.get(out.suffix.lower())
    if format is None:
        raise click.BadParameter(
            f"{out.name!r} should end in one of {', '.join((*FORMAT_BY_SUFFIX, *other_suffixes))}",
            param_hint="--out",
        )
    return format


def spinner(text: str) -> Any:
    """Show a spinner on standard error; nothing if that is not a terminal."""
    return Console(stderr=True).status(text)


def print_result(as_json: bool, content: dict[str, Any], text: str) -> None:
    """Print `content` as JSON, or `text`."""
    if as_json:
        text = json.dumps(content, ensure_ascii=False, indent=2, default=os.fspath)
    click.echo(text)


def unclear_text(index: int, face: Face) -> str:
    """Return why `--face all` left out face `index`, and what edits it."""
    return (
        f"face {index} has a score of {face.score:.2f} and may be none: it is not edited; "
        f"--face {index} edits it"
    )


def image_content(edited: Edited) -> dict[str, Any]:
    """Return the JSON description of an edited image."""
    image = edited.image()
    return {
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "channels": edited.channels,
    }


def image_text(edited: Edited) -> str:
    """Return the description of an edited image in words."""
    image = edited.image()
    moved = " + ".join(str(count) for count in edited.channels)
    return f"{image.width} x {image.height} {image.format}, channels moved: {moved}"
