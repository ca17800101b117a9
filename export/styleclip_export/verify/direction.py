"""Cases of StyleCLIP's global directions: `direction.npz` and `.json`.

`code_std_ii` and `style_ii` are the layers' deviations and styles, `fs3` their directions; a cut
fs3 (`rows`) leaves the last layers as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from styleclip_contract.errors import NoChannelLeft
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Case, Folder, Numbers
from styleclip_export.verify.report import Row, compare, compare_lists
from styleclip_server.pipeline.directions import style_direction
from styleclip_server.pipeline.style_statistics import Statistics, convolution_channels

FIELDS = (
    "seed",
    "dt_source",
    "counts",
    "edits",
    "no_channel",
    "conv_layers",
    "layer_channels",
)


def cases(folder: Folder) -> Iterator[Case]:
    for name in folder.stems("direction*.npz", "direction*.json"):
        yield Case(name, (f"{name}.json", f"{name}.npz"), partial(_check, folder, name))


def _check(folder: Folder, name: str) -> Iterator[Row]:
    about = folder.json(f"{name}.json", known=FIELDS)
    data = folder.numbers(f"{name}.npz")
    channels = [int(c) for c in about["layer_channels"]]
    statistics = _statistics(data, tuple(channels))
    offsets = np.cumsum([0, *channels])
    layers = np.unique(np.searchsorted(offsets, statistics.rows, side="right") - 1)
    yield compare_lists("convolution layers", layers.tolist(), about["conv_layers"])

    directions = data["dt"]
    found, official = [], []
    for case in about["counts"]:
        moved, kept = _direction(statistics, directions, case)
        per_layer = [int(np.count_nonzero(part)) for part in np.split(moved, offsets[1:-1])]
        which = f"dt {case['dt']}, beta {case['beta']}"
        found.append((which, kept, per_layer))
        official.append((which, case["num_channels"], case["per_layer"]))
    yield compare_lists(f"channel counts ({len(found)})", found, official)

    kept_channels, boundaries, codes, unmoved = [], [], [], []
    styles = [data[f"style_{i:02}"] for i in range(len(channels))]
    for j, case in enumerate(about["edits"]):
        number = case.get("case", j)
        moved, kept = _direction(statistics, directions, case)
        kept_channels.append((number, kept))
        for i, part in enumerate(np.split(moved, offsets[1:-1])):
            boundary, edited = f"case{number}_boundary_{i:02}", f"case{number}_codes_{i:02}"
            if boundary not in data:
                unmoved.append((f"case {number}, layer {i}", part, np.zeros_like(part)))
                continue
            boundaries.append((boundary, part, data[boundary]))
            alphas = np.array(case["alphas"], np.float32)[:, None]
            codes.append((edited, styles[i] + alphas * part, data[edited]))
    expected = [(c.get("case", j), c["num_channels"]) for j, c in enumerate(about["edits"])]
    yield compare_lists(f"channels of the edits ({len(expected)})", kept_channels, expected)
    yield compare("boundaries", boundaries, bounds.DIRECTION)
    yield compare("edited styles", codes, bounds.DIRECTION)
    yield compare("layers that stay", unmoved, bounds.EXACT)
    if "no_channel" in about:
        yield _no_channel(statistics, directions, about["no_channel"])


def _statistics(data: Numbers, channels: tuple[int, ...]) -> Statistics:
    std = np.concatenate([data[f"code_std_{i:02}"] for i in range(len(channels))])
    fs3 = data["fs3"].astype(np.float32)
    return Statistics(np.zeros_like(std), std, fs3, convolution_channels(channels)[: len(fs3)])


def _direction(statistics: Statistics, dt: np.ndarray, case: dict) -> tuple[np.ndarray, int]:
    rows = case.get("rows", len(statistics.fs3))
    cut = Statistics(
        statistics.style_mean,
        statistics.style_std,
        statistics.fs3[:rows],
        statistics.rows[:rows],
    )
    try:
        return style_direction(cut, dt[case["dt"]], case["beta"])
    except NoChannelLeft:
        return np.zeros_like(statistics.style_std), 0


def _no_channel(statistics: Statistics, dt: np.ndarray, official: Any) -> Row:
    """Where the official code divides by zero, ours refuses and tells a beta that works."""
    wrong, tried = [], 0
    for case in official if isinstance(official, list) else [official]:
        numbers = [case["dt"]] if "dt" in case else range(len(dt))
        for number in numbers:
            tried += 1
            try:
                style_direction(statistics, dt[number], case["beta"])
                wrong.append(f"dt {number}: beta {case['beta']} keeps a channel")
            except NoChannelLeft as error:
                advice = re.search(r"at most ([\d.e-]+) leaves", str(error))
                if advice is None or not style_direction(statistics, dt[number], float(advice[1])):
                    wrong.append(f"dt {number}: no beta that works is told")
    note = wrong[0] if wrong else ""
    quantity = f"no channel left ({tried})"
    return Row(quantity, "fail" if wrong else "pass", float(len(wrong)), 0.0, note)
