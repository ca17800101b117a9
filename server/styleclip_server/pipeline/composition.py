"""The synthesized face as an encoded image, alone or pasted back into the photo.

Pasting undoes `ffhq_crop.crop_quad`: a perspective transform maps pixels of the photo to pixels of
the face, and a feathered mask in the shape of a head leaves the rest of the photo unchanged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from styleclip_contract.errors import InvalidInput, NotAnImage
from styleclip_server.pipeline import color_profiles, images, metadata
from styleclip_server.pipeline.credentials import Signer
from styleclip_server.pipeline.ffhq_crop import Quad, crop_quad

# In the crop's own square from -1 to 1 (x to the right, y down), where FFHQ's geometry puts the
# eyes at y = -0.05, the mouth at 0.5 and the chin at 0.85: the face alone within the inner
# outline, the photo alone beyond the outer one. Half-widths left and right, up and down, about
# _HEART, and the degree of the superellipse: 2 is an ellipse, 4 a rounded square.
_HEART = 0.04
_HEAD = ((0.64, 0.70, 0.80), (0.93, 0.93, 0.92), 2.3)
_WHOLE = ((0.72, 0.72, 0.72), (0.96, 0.96, 0.96), 4.0)  # about 0: the subject may fill the crop
_FARTHEST = 1e5  # pixels; beyond any photo that holds a face, and still exact in float32

_SEEN = 128  # pixels of the copies in which colours are compared, where detail is averaged out
_LEAST_SHIFT = 1.5  # levels; less is rounding and JPEG
_SAME_THING = 12  # levels; farther apart, photo and face show different things
_CHANGED = (4, 14)  # levels; a face is unchanged up to the first, edited from the second on


def compose(
    image: NDArray[np.uint8],
    photo: Image.Image | None = None,
    quad: NDArray[np.floating] | None = None,
    paste: bool = False,
    format: str = "JPEG",
    quality: int = 95,
    *,
    model: str = "",
    texts: str = "",
    match_colours: bool = True,
    marked: bool = True,
    signer: Signer | None = None,
) -> bytes:
    """The encoded face `image` (H, W, 3) uint8, or with `paste` the photo with the face in it.

    Where JPEG is requested without `paste`, `image` may be a JPEG file without metadata instead,
    its bytes as (1, length, 1).
    `photo` is upright RGB, as `images.decode` gives it: with the ICC profile and EXIF to keep.
    `quad` (4, 2) is that of `alignment`. Both count only with `paste`. The file says that it was
    edited by AI, by which `model` and `texts`, signed by `signer`, unless `marked` is false.
    Raises UnknownFormat, ImageTooLarge, NotAnImage (an empty image, bytes that are no JPEG file),
    InvalidInput (a JPEG file where pixels are needed, paste without photo or quad, a quad that is
    not convex, turned over or beside the photo).
    """
    name = images.check_encoding(format, quality)  # before the work
    jpeg = _jpeg_file(image)
    if jpeg is None:
        images.check_pixels(image.shape[1], image.shape[0])
    elif paste or name != "JPEG":
        raise InvalidInput("IMAGE is a JPEG file: send its pixels, or FORMAT JPEG without PASTE")
    result: NDArray[np.uint8] | Image.Image = image
    if not paste:
        photo = None
    elif photo is None or quad is None:
        raise InvalidInput("PASTE needs PHOTO and QUAD: send both, or PASTE false")
    else:
        result = paste_back(image, photo, quad, match_colours)
    said = metadata.statement(model, texts, paste) if marked else None
    beside = metadata.of_edit(photo, said)
    if jpeg is None:
        picture = images.encode(result, format, quality, beside)
    else:
        picture = metadata.into_jpeg(jpeg, beside)
    return signer.sign(picture, format, said) if signer and said else picture


def _jpeg_file(image: NDArray[np.uint8]) -> memoryview | None:
    """The bytes of a JPEG file given in place of pixels, None where `image` is pixels.

    Raises:
        NotAnImage: the shape is of neither.
    """
    if image.shape[2] == 3:
        return None
    if image.shape[0] != 1 or image.shape[2] != 1:
        raise NotAnImage(f"IMAGE has the shape {list(image.shape)}, not [height, width, 3]")
    return np.ascontiguousarray(image).reshape(-1).data


def paste_back(
    image: NDArray[np.uint8],
    photo: Image.Image,
    quad: NDArray[np.floating],
    match_colours: bool = True,
) -> Image.Image:
    """A copy of the RGB `photo` with the face `image` (H, W, 3) uint8 sRGB at `quad` (4, 2).

    Pixels where the mask is 0 are the photo's own. Raises InvalidInput for an unusable quad.
    """
    corners = _checked(quad)
    left, top = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)), photo.size).astype(int).tolist()
    if left >= right or top >= bottom:
        raise InvalidInput(
            f"QUAD lies beside the photo of {photo.width} x {photo.height} pixels: send the QUAD "
            "that came with this photo"
        )
    whole = _is_whole_picture(corners, photo.size)
    beneath = photo.crop((left, top, right, bottom))
    edges = np.roll(corners, -1, axis=0) - corners
    side = max(1, round(float(np.hypot(*edges.T).max())))
    size = (min(image.shape[1], side), min(image.shape[0], side))
    to_face = _perspective(corners - (left, top), *size)

    def warped(picture: Image.Image) -> Image.Image:
        # Pillow's transform does not filter: a face larger than its place is reduced first.
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        perspective, bicubic = Image.Transform.PERSPECTIVE, Image.Resampling.BICUBIC
        return picture.transform(beneath.size, perspective, to_face, bicubic)

    mask = warped(_mask(*size, whole))
    face = Image.fromarray(np.ascontiguousarray(image))
    face = warped(color_profiles.from_srgb(face, color_profiles.read_profile(photo, "RGB")))
    before = warped(_as_cropped(photo, np.asarray(quad, np.float64), max(image.shape), whole))
    if match_colours:
        face = _matched(face, before, mask)
    face = _with_detail(face, before, beneath)
    result = photo.copy()
    result.paste(face, (left, top), mask)
    return result


def _as_cropped(photo: Image.Image, quad: Quad, size: int, whole: bool) -> Image.Image:
    """The part of `photo` at `quad` as the networks got it, `size` x `size` pixels."""
    if not whole:
        return crop_quad(photo, quad, size)
    left, top = (quad[0] + 0.5).round().astype(int).tolist()
    square = (left, top, left + min(photo.size), top + min(photo.size))
    return photo.crop(square).resize((size, size), Image.Resampling.LANCZOS)


def _with_detail(face: Image.Image, before: Image.Image, photo: Image.Image) -> Image.Image:
    """`face` with the detail that resampling took from `photo`, where `face` is not changed.

    `before` is the photo as it is after the same way into the crop and back, so an unchanged face
    becomes the photo itself. Where something was edited, old detail would show through as a
    ghost: there, with some room around it, none is added.
    """
    changes = ImageChops.difference(face, before)
    red, green, blue = changes.resize([min(side, _SEEN) for side in face.size]).split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    largest = largest.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.BoxBlur(2))
    share = largest.point([round(255 * s) for s in np.interp(range(256), _CHANGED, (1, 0))])
    share = share.resize(face.size, Image.Resampling.BILINEAR)

    result = face.copy()
    rows = max(1, 2**20 // face.width)  # strips, since the sums need six times the memory
    for top in range(0, face.height, rows):
        box = (0, top, face.width, min(top + rows, face.height))
        ours, old, new, weight = (
            np.asarray(p.crop(box), np.float32) for p in (face, before, photo, share)
        )
        ours += (new - old) * (weight / 255)[..., None]
        result.paste(Image.fromarray(np.rint(ours.clip(0, 255)).astype(np.uint8)), box)
    return result


def _is_whole_picture(corners: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether the quad is the largest square of the photo, so a crop and no detected face."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    upright = np.array([(left, top), (left, bottom), (right, bottom), (right, top)])
    square = abs(right - left - min(size)) < 2 and abs(bottom - top - min(size)) < 2
    return bool(square and np.abs(corners - upright).max() < 1)


def _checked(quad: NDArray[np.floating]) -> NDArray[np.float64]:
    """The corners (4, 2) counted from the corner of the first pixel, as Pillow does."""
    corners = np.asarray(quad, np.float64)
    if corners.shape != (4, 2) or not (np.abs(corners) < _FARTHEST).all():  # NaN fails too
        raise InvalidInput("QUAD must be 4 finite corners (x, y) in the photo")
    edges = np.roll(corners, -1, axis=0) - corners
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    if not (turns < -0.5).all():  # not degenerate, and every corner turns the same way
        raise InvalidInput(
            "QUAD must be a convex quadrangle: top-left, bottom-left, bottom-right, top-right"
        )
    return corners + 0.5


def _perspective(corners: NDArray[np.float64], width: int, height: int) -> tuple[float, ...]:
    """Pillow's 8 numbers that take `corners` in the photo to those of a width x height face.

    (x, y) goes to ((ax + by + c) / (gx + hy + 1), (dx + ey + f) / (gx + hy + 1)); four pairs of
    points make eight linear equations.
    """
    # Solved about the quad's centre and in units of its size, where the equations are well
    # conditioned; then moved to the region's own pixels.
    centre, scale = corners.mean(axis=0), float(np.ptp(corners))
    unit = (corners - centre) / scale
    rows, values = [], []
    targets = [(0, 0), (0, height), (width, height), (width, 0)]
    for (x, y), (u, v) in zip(unit, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    homography = np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3)
    x, y = centre / scale
    matrix = homography @ np.array([[1 / scale, 0, -x], [0, 1 / scale, -y], [0, 0, 1]])
    if abs(matrix[2, 2]) < 1e-9:  # the horizon runs through the region's first pixel
        raise InvalidInput("QUAD is too slanted to hold a face: send the QUAD that align gave")
    return tuple((matrix / matrix[2, 2]).ravel()[:8].tolist())


def _mask(width: int, height: int, whole: bool) -> Image.Image:
    """Mode L: 255 within the inner outline, 0 beyond the outer one, a smooth step between."""
    inner, outer, degree = _WHOLE if whole else _HEAD
    x = np.abs((np.arange(width) + 0.5) / width * 2 - 1)[None, :]
    y = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None] - (0 if whole else _HEART)
    # Where a ray from the heart through the pixel leaves each outline, in units of the pixel's
    # own distance: the step runs along the ray.
    leaves = []
    for across, up, down in (inner, outer):
        radius = (x / across) ** degree + (np.abs(y) / np.where(y < 0, up, down)) ** degree
        leaves.append(1 / np.maximum(radius, 1e-9) ** (1 / degree))
    t = np.clip((leaves[1] - 1) / np.maximum(leaves[1] - leaves[0], 1e-9), 0, 1)  # 1 at the heart
    return Image.fromarray(np.rint(t * t * (3 - 2 * t) * 255).astype(np.uint8))


def _matched(face: Image.Image, before: Image.Image, mask: Image.Image) -> Image.Image:
    """`face` with the mean and the deviation of the photo, channel by channel, where they meet.

    Face and photo (`before`, after the same way into the crop and back) are compared in the mask's
    ring. The face stays as it is if they agree, and also if they show different things there
    (other hair, a hat): then the difference is the edit, not a shift.
    """
    size = (min(face.width, _SEEN), min(face.height, _SEEN))
    box = Image.Resampling.BOX
    weight = np.asarray(mask.resize(size, box))
    ring = (weight > 8) & (weight < 247)
    ours, theirs = (np.asarray(p.resize(size, box), np.float64)[ring] for p in (face, before))
    unclipped = ((ours > 2) & (ours < 253) & (theirs > 2) & (theirs < 253)).all(axis=-1)
    ours, theirs = ours[unclipped], theirs[unclipped]
    if len(ours) < 200:
        return face
    shift = np.median(theirs - ours, axis=0)
    same = (np.abs(theirs - ours - shift) <= _SAME_THING).all(axis=-1)
    if np.abs(shift).max() < _LEAST_SHIFT or same.mean() < 0.5:
        return face
    ours, theirs = ours[same], theirs[same]
    deviation = ours.std(axis=0)
    gain = np.where(deviation > 8, theirs.std(axis=0) / np.maximum(deviation, 1), 1).clip(0.8, 1.25)
    offset = theirs.mean(axis=0) - gain * ours.mean(axis=0)
    levels = gain[:, None] * np.arange(256) + offset[:, None]
    return face.point(np.rint(levels.clip(0, 255)).astype(int).ravel().tolist())
