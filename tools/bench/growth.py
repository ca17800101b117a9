"""How cost grows: with the batch, the resolution, and the number of edits stacked."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from styleclip_client import Client
from styleclip_contract.wire import STYLEGAN2

BATCHES = (1, 2, 4, 8, 16, 32)
STACKED = (1, 2, 4, 8)
BATCH_RESOLUTION = 256  # 32 pictures of 1024 px need more memory than many machines have
LONG = 30_000  # ms of measuring one point, after which it is not repeated
_numbers = itertools.count()


def edits(client: Client, photo: Path, repeat: int = 5) -> list[dict[str, float]]:
    """Milliseconds of `edit` with 1 to 8 edits: `known` texts at a new strength; `new` texts."""
    w_plus = client.invert(photo).w_plus
    domain = client.domain()

    def ask(texts: Sequence[str]) -> float:
        strength = (1 + next(_numbers) / 1000) / len(texts)  # new, so that no offset is kept
        chosen = [domain.edit(text, strength=strength) for text in texts]
        began = time.perf_counter()
        client.edit(w_plus, chosen)
        return (time.perf_counter() - began) * 1000

    for _ in range(2 * repeat):  # what was asked before may not have come to its end
        ask([domain.presets[0].edit.target])
    found = []
    for count in STACKED:
        known = [domain.presets[i % len(domain.presets)].edit.target for i in range(count)]
        ask(known)
        new = [[f"a face with {next(_numbers)} hats" for _ in known] for _ in range(repeat)]
        found.append(
            {
                "edits": count,
                "known": statistics.median(ask(known) for _ in new),
                "new": statistics.median(ask(texts) for texts in new),
            }
        )
    return found


def networks(resolutions: list[int], repeat: int = 3) -> dict[str, list[dict[str, Any]]]:
    """Milliseconds of `stylegan2` as this CPU serves it, widths of config F, random weights; `by`
    tells in which precisions."""
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
    """batch → a call that draws so many pictures; and what computes it."""
    import torch  # here, as a server can be measured without it

    from styleclip_export.convert import onnx_export
    from styleclip_networks import Generator
    from tools.bench.served_networks import accuracy, as_served

    torch.manual_seed(0)
    generator = Generator(resolution).eval()
    example = onnx_export.random_latents(generator)
    module, bound = onnx_export.LatentToPicture(generator), accuracy("stylegan2", generator)
    run, by = as_served(module, STYLEGAN2, example, bound)

    def at(batch: int) -> Callable[[], Any]:
        inputs = example(batch)
        return lambda: run(*inputs)

    return at, by


def _median(call: Callable[[], Any], repeat: int) -> float:
    call()
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
        if sum(taken) > LONG:
            break
    return statistics.median(taken)
