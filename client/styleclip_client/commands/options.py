"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from styleclip_client import faces
from styleclip_client.batch.job import FORMATS
from styleclip_client.batch.workers import Reach
from styleclip_client.client import Client
from styleclip_client.client_base import RETRIES, TIMEOUT
from styleclip_client.results import Edited
from styleclip_contract.limits import QUALITY

DONE, SERVER_FAILED, WRONG_USAGE, BAD_INPUT, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_STATUS = """\b
Exit status: 0 done, 1 the server or writing failed, 2 wrong command line,
3 photo or texts refused, 4 some photos of a folder failed, 130 interrupted."""

Command = TypeVar("Command", bound=Callable[..., Any])


def server_options(command: Command) -> Command:
    """Adds how to reach the server, and hands the command a `client` in their place."""

    @functools.wraps(command)
    def with_client(server: str, **others: Any) -> Any:
        reach, others = _reach(**others)
        with _checked(reach, server) as client:
            return command(client=client, **others)

    return add((_server(), *_reaching()), with_client)  # type: ignore[return-value]


def servers_options(several: bool) -> Callable[[Command], Command]:
    """The same without a connection: the command gets `reach` and `urls`, one or `several`."""

    def added(command: Command) -> Command:
        @functools.wraps(command)
        def with_reach(server: str | Sequence[str], **others: Any) -> Any:
            reach, others = _reach(**others)
            urls = [server] if isinstance(server, str) else list(dict.fromkeys(server))
            for url in urls:
                _checked(reach, url).close()
            return command(reach=reach, urls=urls, **others)

        return add((_server(several), *_reaching()), with_reach)  # type: ignore[return-value]

    return added


def _server(several: bool = False) -> Callable[[Any], Any]:
    default = "localhost:8001"
    return click.option(
        "--server",
        metavar="URL",
        multiple=several,
        default=[default] if several else default,
        envvar="STYLECLIP_SERVER",
        show_envvar=True,
        show_default=True,
        help="HOST:PORT or grpc://… (gRPC), http://…; with TLS grpcs://… or https://…."
        + (" Repeatable." if several else ""),
    )


def _reaching() -> Sequence[Callable[[Any], Any]]:
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
            help="Attempts more when no server answers, or it is busy.",
        ),
        click.option(
            "--token",
            envvar="STYLECLIP_TOKEN",
            show_envvar=True,
            help="Sent as “authorization: Bearer …”; others can read a command line, so rather "
            "use the variable.",
        ),
        click.option("--ca", type=file, help="PEM file with the authorities to trust for TLS."),
    )


def _reach(
    timeout: float, retries: int, token: str | None, ca: str | None, **others: Any
) -> tuple[Reach, dict[str, Any]]:
    return Reach(timeout, retries, token, ca), others


def _checked(reach: Reach, url: str) -> Client:
    try:
        return reach.client(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--server") from error


def json_option(command: Command) -> Command:
    """Adds --json."""
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(command)


class FaceChoice(click.ParamType):
    """A face's index, or "all" where `several`."""

    name = "face"

    def __init__(self, several: bool) -> None:
        self.several = several

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if self.several and value == "all":
            return faces.ALL
        try:
            face = int(value)
        except ValueError:
            face = -3
        if face < -1:
            known = "0 or more, -1: the largest" + (", or all" if self.several else "")
            self.fail(f"{value!r} is no face: {known}", param, ctx)
        return face


def face_options(several: bool = False) -> Callable[[Command], Command]:
    """Adds --face and --align."""
    help = "Which face, best first; -1: the largest" + ("; all: each of them." if several else ".")
    return functools.partial(
        add,
        (
            click.option(
                "--face",
                type=FaceChoice(several),
                default=-1,
                metavar="N",
                show_default=True,
                help=help,
            ),
            click.option(
                "--align/--no-align",
                default=None,
                help="Find and align a face, or take the photo as a face crop. "
                "[default: as the domain needs]",
            ),
        ),
    )


def picture_options(command: Command) -> Command:
    """Adds --paste and --quality, and what is written into the file beside the picture."""
    options = (
        click.option("--paste", is_flag=True, help="Put the edited face back into the photo."),
        click.option(
            "--quality",
            type=click.IntRange(*QUALITY),
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
    )
    return add(options, command)


def out_options(text: str, *, folder: bool = False) -> Callable[[Command], Command]:
    """Adds --out, described by `text`, and --overwrite."""
    path = click.Path(dir_okay=folder, path_type=Path)
    return functools.partial(
        add,
        (
            click.option("-o", "--out", required=True, type=path, help=text),
            click.option("--overwrite", is_flag=True, help="Replace what exists."),
        ),
    )


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse a bad OUT before the server works for it."""
    if out.is_dir():
        raise click.BadParameter(f"{out} is a folder", param_hint="--out")
    if out.exists() and not overwrite:
        raise click.BadParameter(f"{out} exists; --overwrite replaces it", param_hint="--out")
    if not out.parent.is_dir():
        raise click.BadParameter(f"there is no folder {out.parent}", param_hint="--out")


def format_of(out: Path, *others: str) -> str:
    """The format that the name asks for; `others` are suffixes that the caller knows as well."""
    format = FORMATS.get(out.suffix.lower())
    if format is None:
        raise click.BadParameter(
            f"{out.name!r} should end in one of {', '.join((*FORMATS, *others))}",
            param_hint="--out",
        )
    return format


def spinner(text: str) -> Any:
    """A spinner on standard error; nothing when that is no terminal."""
    return Console(stderr=True).status(text)


def tell(as_json: bool, content: dict[str, Any], text: str) -> None:
    """The result on standard output: `content` for programs, `text` for people."""
    if as_json:
        text = json.dumps(content, ensure_ascii=False, indent=2, default=os.fspath)
    click.echo(text)


def description(edited: Edited) -> dict[str, Any]:
    """What there is to say of an edited picture."""
    image = edited.image()
    return {
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "channels": edited.channels,
    }


def summary(edited: Edited) -> str:
    """The same in words."""
    image = edited.image()
    moved = " + ".join(str(count) for count in edited.channels)
    return f"{image.width} x {image.height} {image.format}, channels moved: {moved}"


def add(options: Sequence[Callable[[Any], Any]], command: Command) -> Command:
    """`command` with `options`, which `--help` shows in this order."""
    for option in reversed(options):
        command = option(command)
    return command
