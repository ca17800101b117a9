"""PICTURE of the generator in PyTorch: the files of `edit`, which need no further step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styleclip_contract import jpeg_tensor, limits, wire
from styleclip_server.engines.cuda.jpeg import JpegFile
from styleclip_server.pipeline import composition
from styleclip_server.pipeline.credentials import Signer

INPUTS = (wire.FORMAT, wire.QUALITY, wire.MARK, wire.TEXTS)


@dataclass(frozen=True)
class FileOptions:
    """What a request says about the file of one row."""

    format: str
    quality: int
    marked: bool
    texts: str

    @property
    def jpeg_quality(self) -> int | None:
        """The quality of a JPEG file; None for another format, or a quality that is refused."""
        low, high = limits.QUALITY
        is_jpeg = self.format.upper() == limits.DEFAULT_FORMAT
        return self.quality if is_jpeg and low <= self.quality <= high else None


def file_options(
    rows: int,
    format: NDArray[np.object_] | None = None,
    quality: NDArray[np.int32] | None = None,
    mark: NDArray[np.bool_] | None = None,
    texts: NDArray[np.object_] | None = None,
) -> list[FileOptions]:
    """Return the options of each row of a request.

    Args:
        format, quality, mark, texts: the request's inputs (rows, 1); None: it was sent without.
    """
    return [
        FileOptions(
            limits.DEFAULT_FORMAT if format is None else format[row, 0].decode(errors="replace"),
            limits.DEFAULT_QUALITY if quality is None else int(quality[row, 0]),
            mark is None or bool(mark[row, 0]),
            "" if texts is None else texts[row, 0].decode(errors="replace"),
        )
        for row in range(rows)
    ]


def encode_files(
    files: Sequence[JpegFile | None],
    images: NDArray[np.uint8] | None,
    options: Sequence[FileOptions],
    domain: str,
    signer: Signer | None,
) -> NDArray[Any]:
    """Return PICTURE (rows, 1): each row's image as a file with its metadata.

    Args:
        files: each row's JPEG file without metadata; None: it is encoded from its pixels.
        images: RGB (rows, H, W, 3); may be None where every row has a JPEG file.

    Raises:
        UnknownFormat: another format or quality.
    """
    pictures = np.empty((len(options), 1), np.object_)
    for row, (file, option) in enumerate(zip(files, options, strict=True)):
        if file is None:
            assert images is not None
            image = images[row]
        else:
            image = jpeg_tensor.pack(file)
        pictures[row, 0] = composition.compose(
            image,
            format=option.format,
            quality=option.quality,
            domain=domain,
            texts=option.texts,
            marked=option.marked,
            signer=signer,
        )
    return pictures
