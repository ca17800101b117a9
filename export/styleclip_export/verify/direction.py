"""Cases of StyleCLIP's global directions: `direction.npz` and `.json`.

`code_std_ii` and `style_ii` are the standard deviations and styles of layer ii. An fs3 with fewer
`rows` leaves the last layers unedited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from styleclip_contract.errors import NoChannelLeft
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Arrays, Case, Folder
from styleclip_export.verify.report import Comparison, Row, compare, compare_lists, count_failures
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
    """Yield the cases of the golden folder."""
    for name in folder.stems("direction*.npz", "direction*.json"):
        yield Case(name, (f"{name}.json", f"{name}.npz"), partial(_check, folder, name))


def _check(folder: Folder, name: str) -> Iterator[Row]:
    content = folder.json(f"{name}.json", known=FIELDS)
    data = folder.arrays(f"{name}.npz")
    channels = tuple(int(c) for c in content["layer_channels"])
    statistics = _statistics(data, channels)
    offsets = np.cumsum([0, *channels])
    layers = np.unique(np.searchsorted(offsets, statistics.rows, side="right") - 1)
    yield compare_lists("convolution layers", layers.tolist(), content["conv_layers"])
    boundaries = offsets[1:-1]
    yield _compare_counts(statistics, data["dt"], content["counts"], boundaries)
    yield from _compare_edits(statistics, data, content["edits"], boundaries)
    if "no_channel" in content:
        yield _check_no_channel_left(statistics, data["dt"], content["no_channel"])


def _compare_counts(
    statistics: Statistics, dt: np.ndarray, cases: list[dict], boundaries: np.ndarray
) -> Row:
    """Compare how many channels are edited, in all and in each layer."""
    ours, official = [], []
    for case in cases:
        offset, count = _direction(statistics, dt, case)
        per_layer = [int(np.count_nonzero(layer)) for layer in np.split(offset, boundaries)]
        label = f"dt {case['dt']}, beta {case['beta']}"
        ours.append((label, count, per_layer))
        official.append((label, case["num_channels"], case["per_layer"]))
    return compare_lists(f"channel counts ({len(ours)})", ours, official)


def _compare_edits(
    statistics: Statistics, data: Arrays, cases: list[dict], boundaries: np.ndarray
) -> Iterator[Row]:
    """Compare the offset of each layer ("boundary") and the edited styles ("codes")."""
    counts, official_counts = [], []
    offsets: list[Comparison] = []
    styles: list[Comparison] = []
    unedited: list[Comparison] = []
    original = [data[f"style_{i:02}"] for i in range(len(boundaries) + 1)]
    for index, case in enumerate(cases):
        number = case.get("case", index)
        offset, count = _direction(statistics, data["dt"], case)
        counts.append((number, count))
        official_counts.append((number, case["num_channels"]))
        alphas = np.array(case["alphas"], np.float32)[:, None]
        for i, layer in enumerate(np.split(offset, boundaries)):
            boundary, codes = f"case{number}_boundary_{i:02}", f"case{number}_codes_{i:02}"
            if boundary not in data:
                unedited.append((f"case {number}, layer {i}", layer, np.zeros_like(layer)))
                continue
            offsets.append((boundary, layer, data[boundary]))
            styles.append((codes, original[i] + alphas * layer, data[codes]))
    yield compare_lists(f"channels of the edits ({len(counts)})", counts, official_counts)
    yield compare("boundaries", offsets, bounds.DIRECTION)
    yield compare("edited styles", styles, bounds.DIRECTION)
    yield compare("layers that stay", unedited, bounds.EXACT)


def _statistics(data: Arrays, channels: tuple[int, ...]) -> Statistics:
    std = np.concatenate([data[f"code_std_{i:02}"] for i in range(len(channels))])
    fs3 = data["fs3"].astype(np.float32)
    return Statistics(np.zeros_like(std), std, fs3, convolution_channels(channels)[: len(fs3)])


def _direction(statistics: Statistics, dt: np.ndarray, case: dict) -> tuple[np.ndarray, int]:
    rows = case.get("rows", len(statistics.fs3))
    truncated = Statistics(
        statistics.style_mean,
        statistics.style_std,
        statistics.fs3[:rows],
        statistics.rows[:rows],
    )
    try:
        return style_direction(truncated, dt[case["dt"]], case["beta"])
    except NoChannelLeft:
        return np.zeros_like(statistics.style_std), 0


def _check_no_channel_left(statistics: Statistics, dt: np.ndarray, official: Any) -> Row:
    """Where the official code divides by zero, ours raises an error that suggests a beta."""
    failures, tried = [], 0
    for case in official if isinstance(official, list) else [official]:
        numbers = [case["dt"]] if "dt" in case else range(len(dt))
        for number in numbers:
            tried += 1
            try:
                style_direction(statistics, dt[number], case["beta"])
                failures.append(f"dt {number}: beta {case['beta']} keeps a channel")
            except NoChannelLeft as error:
                beta = re.search(r"at most ([\d.e-]+) leaves", str(error))
                if beta is None or not style_direction(statistics, dt[number], float(beta[1])):
                    failures.append(f"dt {number}: the error suggests no beta that works")
    return count_failures(f"no channel left ({tried})", failures)
