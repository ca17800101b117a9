"""Cases of the fs3 estimation: `fs3_estimation.npz`, with deviations from `direction.npz`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from styleclip_export.statistics.fs3 import channel_direction
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Arrays, Case, Folder
from styleclip_export.verify.report import Row, compare

ALPHA = 5.0


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the cases of the golden folder."""
    for name in folder.stems("fs3_estimation*.npz"):
        yield Case(name, (f"{name}.npz",), partial(_check, folder, name))


def _check(folder: Folder, name: str) -> Iterator[Row]:
    data = folder.arrays(f"{name}.npz")
    rows, _ = channel_direction(torch.from_numpy(data["features"].astype(np.float32)))
    yield compare(f"fs3 ({len(rows)} channels)", [("fs3", rows, data["fs3"])], bounds.DIRECTION)
    if "channel_edit_values" in data:
        yield _channel_edit(folder, name, data)


def _channel_edit(folder: Folder, name: str, data: Arrays) -> Row:
    """Compare the two values of a channel between which its direction is measured."""
    layer, channel = (int(n) for n in data["channel_edit_layer_channel"])
    mean, values = data["channel_edit_mean"], data["channel_edit_values"]
    source = name.replace("fs3_estimation", "direction") + ".npz"
    if not folder.has(source):
        return Row("channel's ends", "missing", note=f"{source} with the deviation is missing")
    with np.load(folder.path(source), allow_pickle=False) as deviations:
        std = deviations[f"code_std_{layer:02}"][channel]
    ends = [mean - ALPHA * std, mean + ALPHA * std]
    return compare("channel's ends", [("", ends, values)], bounds.DIRECTION)
