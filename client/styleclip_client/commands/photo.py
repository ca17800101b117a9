"""`styleclip edit`, `styleclip invert` and `styleclip faces`: one photo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from styleclip_client import faces
from styleclip_client.batch.workers import Reach
from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.batch import edit_all
from styleclip_client.commands.edit_options import Wanted, edit_options
from styleclip_client.commands.options import EXIT_STATUS
from styleclip_client.results import Inverted

_PHOTO = click.Path(exists=True, dir_okay=False, path_type=Path)
_PHOTO_OR_FOLDER = click.Path(exists=True, path_type=Path)


@click.command(epilog=EXIT_STATUS)
@click.argument("photo", type=_PHOTO_OR_FOLDER)
@edit_options
@options.face_options(several=True)
@options.picture_options
@options.out_options("Where to write: .jpg, .png or .webp decides the format.", folder=True)
@options.json_option
@options.servers_options(several=False)
def edit(
    reach: Reach,
    urls: list[str],
    photo: Path,
    wanted: Wanted,
    align: bool | None,
    face: int,
    paste: bool,
    quality: int,
    mark: bool,
    keep_gps: bool,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> int | None:
    """Edit the face in PHOTO and write OUT.

    PHOTO is a picture, or a latent that `styleclip invert` wrote (.npz), which is quicker; or a
    folder, whose photos are edited into the folder OUT as `styleclip batch` does.

    Several edits are summed: repeat --target or --preset. --neutral goes with the targets,
    --strength and --threshold with the presets and then the targets; give each of them once
    for all, or once an edit in the same order. What is left out has the server's default.

    `--face all` writes each face to a file of its own, OUT with -0, -1, … in its name; with
    --paste it edits all of them in the one picture OUT.

    \b
    Examples:
      styleclip edit me.jpg --target "a smiling face" -o smiling.jpg
      styleclip edit me.jpg --target "a face with sunglasses" --strength 4 -o cool.png
      styleclip edit me.jpg --target "a sad face" --target "a face with a beard" \\
          --strength 2 --strength 5 -o both.jpg
      styleclip edit us.jpg --target "a smiling face" --face all --paste -o smiling.jpg
      styleclip edit photos/ --target "a smiling face" -o smiling/
    """
    settings: dict[str, Any] = {
        "align": align,
        "quality": quality,
        "mark": mark,
        "keep_gps": keep_gps,
    }
    if photo.is_dir():
        settings |= {"face": face, "paste": paste}
        return edit_all(reach, urls, str(photo), str(out), wanted, settings, overwrite, as_json)
    settings["format"] = options.format_of(out)
    latent = photo.suffix == ".npz"
    if latent and (paste or align is not None or face != -1):
        raise click.UsageError("--paste, --align and --face need the photo, not a latent")
    apart = face == faces.ALL and not paste
    options.check_free(_numbered(out, 0) if apart else out, overwrite)

    with reach.client(urls[0]) as client, options.spinner(f"editing {photo.name}"):
        edits = wanted.edits(client.domain())
        start = time.perf_counter()
        if latent:
            del settings["align"], settings["keep_gps"]
            pictures = [client.edit(Inverted.load(photo).w_plus, edits, **settings)]
        elif apart:
            pictures = faces.edit_each(client, photo, edits, **settings)
        elif face == faces.ALL:
            pictures = [faces.edit_together(client, photo, edits, **settings)]
        else:
            pictures = [client.edit_photo(photo, edits, face=face, paste=paste, **settings)]
        milliseconds = round(1000 * (time.perf_counter() - start))
    files, words = [], []
    for index, edited in enumerate(pictures):
        file = _numbered(out, index) if apart else out
        edited.save(file, overwrite=overwrite)
        files.append({"out": file, **options.description(edited)})
        words.append(f"{file}: {options.summary(edited)}, {milliseconds} ms")
    options.tell(as_json, {"files": files, "milliseconds": milliseconds}, "\n".join(words))
    return None


@click.command(epilog=EXIT_STATUS)
@click.argument("photo", type=_PHOTO)
@options.face_options()
@options.out_options("Where to write the latent (.npz).")
@options.json_option
@options.server_options
def invert(
    client: Client,
    photo: Path,
    align: bool | None,
    face: int,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Find the latent of the face in PHOTO and write it to OUT.

    OUT is a NumPy .npz file with w_plus (float32 [L, 512]) and quad (float32 [4, 2], the
    corners of the face in the upright photo). `styleclip edit OUT …` edits it.
    """
    if out.suffix != ".npz":
        raise click.BadParameter(f"{out.name!r} should end in .npz", param_hint="--out")
    options.check_free(out, overwrite)
    with options.spinner(f"inverting {photo.name}"):
        start = time.perf_counter()
        inverted = client.invert(photo, align=align, face=face)
        milliseconds = round(1000 * (time.perf_counter() - start))
    inverted.save(out, overwrite=overwrite)
    rows, width = inverted.w_plus.shape
    content = {
        "out": out,
        "latents": rows,
        "quad": inverted.quad.tolist(),
        "milliseconds": milliseconds,
    }
    options.tell(as_json, content, f"{out}: W+ of {rows} x {width}, {milliseconds} ms")


@click.command("faces", epilog=EXIT_STATUS)
@click.argument("photo", type=_PHOTO)
@options.json_option
@options.server_options
def list_faces(client: Client, photo: Path, as_json: bool) -> None:
    """Tell which faces the server finds in PHOTO, best first.

    Their numbers are what --face means. The box is in pixels of the upright photo; a higher
    score is surer: below 0.3 it may be no face.
    """
    with options.spinner(f"looking for faces in {photo.name}"):
        found = client.faces(photo)
    content = [{"face": i, "box": f.box, "score": f.score} for i, f in enumerate(found)]
    lines = [
        "{}: ({:.0f}, {:.0f}) to ({:.0f}, {:.0f}), score {:.2f}".format(i, *f.box, f.score)
        for i, f in enumerate(found)
    ]
    options.tell(as_json, {"faces": content}, "\n".join(lines))


def _numbered(out: Path, index: int) -> Path:
    return out.with_name(f"{out.stem}-{index}{out.suffix}")
