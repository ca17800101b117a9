"""`styleclip edit`, `styleclip invert` and `styleclip faces`: one photo."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from styleclip_client import faces
from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.batch import edit_all
from styleclip_client.commands.edit_options import EditOptions, edit_options
from styleclip_client.commands.options import EXIT_STATUS, LATENT, PhotoOptions
from styleclip_client.connection_options import ConnectionOptions
from styleclip_client.results import Edited, Face, Inverted
from styleclip_contract.edits import Edit

_PHOTO = click.Path(exists=True, dir_okay=False, path_type=Path)
_PHOTO_OR_FOLDER = click.Path(exists=True, path_type=Path)


@click.command(epilog=EXIT_STATUS)
@click.argument("photo", type=_PHOTO_OR_FOLDER)
@edit_options
@options.photo_options
@options.out_options("Where to write: .jpg, .png or .webp decides the format.", folder=True)
@options.json_option
@options.servers_option(several=False)
def edit(
    connection: ConnectionOptions,
    urls: list[str],
    photo: Path,
    edit_options: EditOptions,
    photo_options: PhotoOptions,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> int | None:
    """Edit the face in PHOTO and write OUT.

    PHOTO is an image, or a latent that `styleclip invert` wrote (.npz), which is faster; or a
    folder, whose photos are edited into the folder OUT as `styleclip batch` does.

    Several edits are summed: repeat --target or --preset. --neutral goes with the targets,
    --strength and --threshold with the presets and then the targets; give each of them once
    for all, or once per edit in the same order. What is left out comes from the preset with the
    same target, else from the domain.

    `--face all` writes each clear face to a file of its own, OUT with -0, -1, … in its name; with
    --paste it edits all of them in the one image OUT. Faces with a score below 0.3, which may be
    none, are listed and edited only if --face names their number.

    \b
    Examples:
      styleclip edit me.jpg --target "a smiling face" -o smiling.jpg
      styleclip edit me.jpg --target "a face with sunglasses" --strength 4 -o cool.png
      styleclip edit me.jpg --target "a sad face" --target "a face with a beard" \\
          --strength 2 --strength 5 -o both.jpg
      styleclip edit us.jpg --target "a smiling face" --face all --paste -o smiling.jpg
      styleclip edit photos/ --target "a smiling face" -o smiling/
    """
    if photo.is_dir():
        return edit_all(
            connection, urls, str(photo), str(out), edit_options, photo_options,
            overwrite=overwrite, as_json=as_json,
        )  # fmt: skip
    format = options.image_format(out)
    options.check_latent(
        photo, align=photo_options.align, face=photo_options.face, paste=photo_options.paste
    )
    numbered = photo_options.face == faces.ALL and not photo_options.paste
    options.check_out(_numbered(out, 0) if numbered else out, overwrite)

    with connection.client(urls[0]) as client, options.spinner(f"editing {photo.name}"):
        edits = edit_options.resolve(client.domain())
        start = time.perf_counter()
        images = _edit_file(client, photo, edits, photo_options, format)
        milliseconds = round(1000 * (time.perf_counter() - start))
    files, lines = [], []
    for index, edited in enumerate(images):
        file = _numbered(out, index) if numbered else out
        edited.save(file, overwrite=overwrite)
        files.append({"out": file, **options.image_content(edited)})
        lines.append(f"{file}: {options.image_text(edited)}, {milliseconds} ms")
    content = {"files": files, "milliseconds": milliseconds}
    options.print_result(as_json, content, "\n".join(lines))
    return None


def _edit_file(
    client: Client, photo: Path, edits: list[Edit], photo_options: PhotoOptions, format: str
) -> list[Edited]:
    """Edit a photo, all faces of a photo, or a latent."""
    settings: dict[str, Any] = {"format": format, **asdict(photo_options)}
    face, paste = settings.pop("face"), settings.pop("paste")
    if photo.suffix == LATENT:
        del settings["align"], settings["keep_gps"]
        return [client.edit(Inverted.load(photo), edits, **settings)]
    if face != faces.ALL:
        return [client.edit_photo(photo, edits, face=face, paste=paste, **settings)]
    settings["report_unclear"] = _print_unclear
    if paste:
        return [faces.edit_together(client, photo, edits, **settings)]
    return faces.edit_each(client, photo, edits, **settings)


def _print_unclear(index: int, face: Face) -> None:
    click.echo(f"styleclip: {options.unclear_text(index, face)}", err=True)


@click.command(epilog=EXIT_STATUS)
@click.argument("photo", type=_PHOTO)
@options.face_options
@options.fidelity_option
@options.out_options("Where to write the latent (.npz).")
@options.json_option
@options.server_option
def invert(
    client: Client,
    photo: Path,
    align: bool | None,
    face: int,
    fidelity: str | None,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Find the latent of the face in PHOTO and write it to OUT.

    OUT is a NumPy .npz file with w_plus (float32 [L, 512]) and quad (float32 [4, 2], the
    corners of the face in the upright photo); for features also crop, the face as a PNG file
    (uint8). `styleclip edit OUT …` edits it.
    """
    if out.suffix != LATENT:
        raise click.BadParameter(f"{out.name!r} should end in {LATENT}", param_hint="--out")
    options.check_out(out, overwrite)
    with options.spinner(f"inverting {photo.name}"):
        start = time.perf_counter()
        inverted = client.invert(photo, align=align, face=face, fidelity=fidelity)
        milliseconds = round(1000 * (time.perf_counter() - start))
    inverted.save(out, overwrite=overwrite)
    rows, width = inverted.w_plus.shape
    content = {
        "out": out,
        "latents": rows,
        "quad": inverted.quad.tolist(),
        "milliseconds": milliseconds,
    }
    options.print_result(as_json, content, f"{out}: W+ of {rows} x {width}, {milliseconds} ms")


@click.command("faces", epilog=EXIT_STATUS)
@click.argument("photo", type=_PHOTO)
@options.json_option
@options.server_option
def list_faces(client: Client, photo: Path, as_json: bool) -> None:
    """List the faces that the server finds in PHOTO, best first.

    --face takes their numbers. The box is in pixels of the upright photo; a higher score is more
    certain: below 0.3 it may be no face.
    """
    with options.spinner(f"looking for faces in {photo.name}"):
        detected = client.faces(photo)
    content = [{"face": i, "box": f.box, "score": f.score} for i, f in enumerate(detected)]
    lines = [
        "{}: ({:.0f}, {:.0f}) to ({:.0f}, {:.0f}), score {:.2f}".format(i, *f.box, f.score)
        for i, f in enumerate(detected)
    ]
    options.print_result(as_json, {"faces": content}, "\n".join(lines))


def _numbered(out: Path, index: int) -> Path:
    return out.with_name(f"{out.stem}-{index}{out.suffix}")
