"""The command `styleclip`: edit, invert, status.

One line on standard error tells what went wrong, and the exit status says of which kind it is:
0 done, 1 the server (unreachable, too slow, failing) or a file that cannot be written,
2 a wrong command line, 3 input that was refused (photo, texts, numbers), 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from styleclip_client.client import Client
from styleclip_client.edits import Edit
from styleclip_client.errors import InvalidInput, StyleclipError
from styleclip_client.results import Edited, Inverted, Status

DONE, SERVER_FAILED, WRONG_USAGE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 3, 130
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
_EXIT_STATUS = """\b
Exit status: 0 done, 1 the server or writing failed, 2 wrong command line,
3 photo or texts refused, 130 interrupted."""

Command = TypeVar("Command", bound=Callable[..., Any])


def _server_options(command: Command) -> Command:
    """Adds --server and --timeout, and hands the command a `client` in their place."""

    @click.option(
        "--server",
        metavar="HOST:PORT",
        default="localhost:8001",
        envvar="STYLECLIP_SERVER",
        show_envvar=True,
        show_default=True,
        help="gRPC address of the server.",
    )
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        default=60.0,
        show_default=True,
        help="Longest wait for an answer.",
    )
    @functools.wraps(command)
    def with_client(server: str, timeout: float, **options: Any) -> Any:
        try:
            client = Client(server, timeout)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--server") from error
        with client:
            return command(client=client, **options)

    return with_client  # type: ignore[return-value]


def _photo_options(command: Command) -> Command:
    """Adds PHOTO and which face of it is meant."""
    for option in (
        click.option("--face", default=-1, show_default=True, help="Which face; -1: the largest."),
        click.option(
            "--align/--no-align",
            default=None,
            help="Find and align a face, or take PHOTO as a face crop. "
            "[default: as the domain needs]",
        ),
        click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    ):
        command = option(command)
    return command


def _out_options(text: str) -> Callable[[Command], Command]:
    """Adds --out, described by `text`, and --overwrite."""

    def add(command: Command) -> Command:
        path = click.Path(dir_okay=False, path_type=Path)
        command = click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")(
            command
        )
        return click.option("-o", "--out", required=True, type=path, help=text)(command)

    return add


@click.group(
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_STATUS,
)
@click.version_option(package_name="styleclip-triton")
def cli() -> None:
    """Edit faces by text on a StyleCLIP server."""


@cli.command(epilog=_EXIT_STATUS)
@_photo_options
@click.option("--target", multiple=True, metavar="TEXT", help="What it should show. Repeatable.")
@click.option("--neutral", multiple=True, metavar="TEXT", help="What the picture shows.")
@click.option(
    "--strength",
    multiple=True,
    type=float,
    metavar="A",
    help="α: how far; negative is the opposite way.",
)
@click.option(
    "--threshold",
    multiple=True,
    type=float,
    metavar="B",
    help="β, 0 to 1: higher changes fewer other things.",
)
@click.option("--preset", multiple=True, metavar="NAME", help="An edit that the server knows.")
@click.option("--paste", is_flag=True, help="Put the edited face back into the photo.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    help="Of JPEG and WebP.",
)
@_out_options("Where to write: .jpg, .png or .webp decides the format.")
@_server_options
def edit(
    client: Client,
    photo: Path,
    target: Sequence[str],
    neutral: Sequence[str],
    strength: Sequence[float],
    threshold: Sequence[float],
    preset: Sequence[str],
    align: bool | None,
    face: int,
    paste: bool,
    quality: int,
    overwrite: bool,
    out: Path,
) -> None:
    """Edit the face in PHOTO and write OUT.

    PHOTO is a picture, or a latent that `styleclip invert` wrote (.npz), which is quicker.

    Several edits are summed: repeat --target or --preset. --neutral goes with the targets,
    --strength and --threshold with the presets and then the targets; give each of them once
    for all, or once an edit in the same order. What is left out has the server's default.

    \b
    Examples:
      styleclip edit me.jpg --target "a smiling face" -o smiling.jpg
      styleclip edit me.jpg --target "a face with sunglasses" --strength 4 -o cool.png
      styleclip edit me.jpg --target "a sad face" --target "a face with a beard" \\
          --strength 2 --strength 5 -o both.jpg
    """
    format = _FORMATS.get(out.suffix.lower())
    if format is None:
        raise click.BadParameter(
            f"{out.name!r} should end in one of {', '.join(_FORMATS)}", param_hint="--out"
        )
    _check_free(out, overwrite)
    if not target and not preset:
        raise click.UsageError("say what to change: --target TEXT, or --preset NAME")
    if photo.suffix == ".npz" and (paste or align is not None or face != -1):
        raise click.UsageError("--paste, --align and --face need the photo, not a latent")

    with _progress(f"editing {photo.name}"):
        edits = _edits(client, target, neutral, strength, threshold, preset)
        start = time.perf_counter()
        if photo.suffix == ".npz":
            latent = Inverted.load(photo).w_plus
            edited = client.edit(latent, edits, format=format, quality=quality)
        else:
            edited = client.edit_photo(
                photo,
                edits,
                align=align,
                face=face,
                paste=paste,
                format=format,
                quality=quality,
            )
        seconds = time.perf_counter() - start
    edited.save(out, overwrite=overwrite)
    click.echo(f"{out}: {_summary(edited)}, {seconds * 1000:.0f} ms")


@cli.command(epilog=_EXIT_STATUS)
@_photo_options
@_out_options("Where to write the latent (.npz).")
@_server_options
def invert(
    client: Client, photo: Path, align: bool | None, face: int, overwrite: bool, out: Path
) -> None:
    """Find the latent of the face in PHOTO and write it to OUT.

    OUT is a NumPy .npz file with w_plus (float32 [L, 512]) and quad (float32 [4, 2], the
    corners of the face in the upright photo). `styleclip edit OUT …` edits it.
    """
    if out.suffix != ".npz":
        raise click.BadParameter(f"{out.name!r} should end in .npz", param_hint="--out")
    _check_free(out, overwrite)
    with _progress(f"inverting {photo.name}"):
        start = time.perf_counter()
        inverted = client.invert(photo, align=align, face=face)
        seconds = time.perf_counter() - start
    inverted.save(out, overwrite=overwrite)
    rows, width = inverted.w_plus.shape
    click.echo(f"{out}: W+ of {rows} x {width}, {seconds * 1000:.0f} ms")


@cli.command(epilog=_EXIT_STATUS)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_server_options
@click.pass_context
def status(context: click.Context, client: Client, as_json: bool) -> None:
    """Show whether the server is ready, its models, defaults and presets.

    Exit status 0 when it can edit photos, 1 when it cannot.
    """
    found = client.status()
    if as_json:
        click.echo(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    else:
        _show(found)
    context.exit(DONE if found.ready else SERVER_FAILED)


def _edits(
    client: Client,
    targets: Sequence[str],
    neutrals: Sequence[str],
    strengths: Sequence[float],
    thresholds: Sequence[float],
    presets: Sequence[str],
) -> list[Edit]:
    """The edits that the options describe: presets first, then targets."""
    count = len(presets) + len(targets)
    each_neutral = _each("--neutral", neutrals, len(targets), "--target")
    each_strength = _each("--strength", strengths, count, "edit")
    each_threshold = _each("--threshold", thresholds, count, "edit")
    domain = client.domain()
    edits = [domain.preset(title) for title in presets]
    edits += [
        domain.edit(target, neutral=neutral)
        for target, neutral in zip(targets, each_neutral, strict=True)
    ]
    return [
        replace(
            edit,
            strength=edit.strength if strength is None else strength,
            threshold=edit.threshold if threshold is None else threshold,
        )
        for edit, strength, threshold in zip(edits, each_strength, each_threshold, strict=True)
    ]


Value = TypeVar("Value")


def _each(option: str, values: Sequence[Value], count: int, what: str) -> Sequence[Value | None]:
    """One value for each of `count`: given for each, given once for all, or None."""
    if len(values) == count:
        return values
    if not values:
        return [None] * count
    if len(values) == 1 and count:
        return list(values) * count
    raise click.UsageError(f"{option} is given {len(values)} times: once, or once a {what}")


def _check_free(out: Path, overwrite: bool) -> None:
    """Refuse a bad OUT before the server works for it."""
    if out.exists() and not overwrite:
        raise click.BadParameter(f"{out} exists; --overwrite replaces it", param_hint="--out")
    if not out.parent.is_dir():
        raise click.BadParameter(f"there is no folder {out.parent}", param_hint="--out")


def _progress(text: str) -> Any:
    """A spinner on standard error; nothing when that is no terminal."""
    return Console(stderr=True).status(text)


def _summary(edited: Edited) -> str:
    image = edited.image()
    moved = " + ".join(str(count) for count in edited.channels)
    return f"{image.width} x {image.height} {image.format}, channels moved: {moved}"


def _show(status: Status) -> None:
    console = Console()
    word = "[green]ready[/]" if status.ready else "[red]not ready[/]"
    console.print(f"{status.url}: Triton {status.version}, {word}", highlight=False)
    table = Table("model", "version", "state", "reason", box=None, pad_edge=False)
    for model in status.models:
        table.add_row(model.name, model.version, model.state, model.reason)
    console.print(table)
    if status.domain is None:
        return
    domain = status.domain
    console.print(
        f"\ndomain {domain.name}: {domain.title}\n"
        f"defaults: neutral {domain.neutral!r}, strength {domain.strength:g}, "
        f"threshold {domain.threshold:g}",
        highlight=False,
        markup=False,
    )
    if domain.presets:
        presets = Table("preset", "neutral", "target", "α", "β", box=None, pad_edge=False)
        for preset in domain.presets:
            edit = preset.edit
            presets.add_row(
                preset.title,
                edit.neutral,
                edit.target,
                f"{edit.strength:g}",
                f"{edit.threshold:g}",
            )
        console.print(presets)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; every failure is one line."""
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="styleclip",
            standalone_mode=False,
        )
        return result if isinstance(result, int) else DONE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "styleclip"
        return _fail(f"{error.format_message()} (see `{path} --help`)", WRONG_USAGE)
    except InvalidInput as error:
        return _fail(error.to_wire(), BAD_INPUT)
    except StyleclipError as error:
        return _fail(error.to_wire(), SERVER_FAILED)
    except OSError as error:
        return _fail(str(error), SERVER_FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int) -> int:
    """`message` as one line on standard error."""
    click.echo(f"styleclip: {' '.join(message.split())}", err=True)
    return code


def main() -> None:
    """Entry point of the command."""
    sys.exit(run())
