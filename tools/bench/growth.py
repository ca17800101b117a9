"""How time grows with the batch, the resolution, and the number of stacked edits."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from styleclip_client import Client

BATCHES = (1, 2, 4, 8, 16, 32)
STACKED = (1, 2, 4, 8)
BATCH_RESOLUTION = 256  # 32 images of 1024 px need more memory than many machines have
MAX_MS = 30_000  # of measuring one point
_numbers = itertools.count()


def measure_edits(client: Client, photo: Path, repeat: int = 5) -> list[dict[str, float]]:
    """Measure the ms of `edit` with 1 to 8 edits, for cached and for new texts."""
    w_plus = client.invert(photo).w_plus
    domain = client.domain()

    def timed_edit(texts: Sequence[str]) -> float:
        # A strength of its own, so that the server has no cached offset.
        strength = (1 + next(_numbers) / 1000) / len(texts)
        edits = [domain.edit(text, strength=strength) for text in texts]
        start = time.perf_counter()
        client.edit(w_plus, edits)
        return (time.perf_counter() - start) * 1000

    for _ in range(2 * repeat):  # let earlier requests finish
        timed_edit([domain.presets[0].edit.target])
    rows = []
    for count in STACKED:
        known = [domain.presets[i % len(domain.presets)].edit.target for i in range(count)]
        timed_edit(known)
        new = [[f"a face with {next(_numbers)} hats" for _ in known] for _ in range(repeat)]
        rows.append(
            {
                "edits": count,
                "known": statistics.median(timed_edit(known) for _ in new),
                "new": statistics.median(timed_edit(texts) for texts in new),
            }
        )
    return rows


def measure_networks(resolutions: list[int], repeat: int = 3) -> dict[str, list[dict[str, Any]]]:
    """Measure ms of `stylegan2` (config F, random weights) as it is served on this CPU.

    `by` in each row says in which runtime and precision.
    """
    by_resolution, by_batch = [], []
    for resolution in resolutions:
        run, by = _served(resolution)
        row = {"resolution": resolution, "ms": _median(run(1), repeat), "by": by}
        by_resolution.append(row)
    run, _ = _served(BATCH_RESOLUTION)
    for batch in BATCHES:
        by_batch.append({"batch": batch, "ms": _median(run(batch), repeat)})
    return {"resolution": by_resolution, "batch": by_batch}


def _served(resolution: int) -> tuple[Callable[[int], Callable[[], Any]], str]:
    """Return a function from a batch size to a call that draws the batch, and what computes it."""
    import torch  # here, since a server can be measured without it

    from styleclip_export.convert.network_variants import stylegan2_variants
    from styleclip_networks.stylegan2 import Generator
    from tools.bench.served_networks import export_as_served

    torch.manual_seed(0)
    variants = stylegan2_variants(Generator(resolution).eval())
    run, by = export_as_served(variants)

    def draw(batch: int) -> Callable[[], Any]:
        inputs = variants.draw_inputs(batch)
        return lambda: run(*inputs)

    return draw, by


def _median(call: Callable[[], Any], repeat: int) -> float:
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
        if sum(times) > MAX_MS:
            break
    return statistics.median(times)
