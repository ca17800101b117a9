"""How fast the GPU networks start and run, with kernels that were compiled ahead or without.

`STYLECLIP_KERNELS=FOLDER python -m tools.bench.gpu_start` does what the server does before it is
ready: it builds the networks, at full size with random weights, and captures all batch sizes.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import click
import torch

from styleclip_server.engines.cuda import kernel_cache, prebuilt
from styleclip_server.engines.cuda.cuda_graphs import Graphed, captured_batch_sizes
from styleclip_server.serving.configs import MAX_BATCH
from tools.bench.gpu_networks import EXAMPLES, NetworkCase, build_cases, cuda_ms

REPEAT = 50


@torch.inference_mode()
def measure_start(case: NetworkCase) -> dict[str, Any]:
    """Return seconds to the first result and to all captures, then ms per call by batch size."""
    call = Graphed(case.served(), torch.device("cuda"))
    seconds = {}
    began = time.perf_counter()
    for batch in captured_batch_sizes(MAX_BATCH):
        call(*case.example(batch))
        torch.cuda.synchronize()
        seconds.setdefault("first_s", time.perf_counter() - began)
    seconds["captured_s"] = time.perf_counter() - began
    return seconds | {
        f"batch_{batch}_ms": _median_ms(call, case, batch) for batch in (1, MAX_BATCH)
    }


def _median_ms(call: Graphed, case: NetworkCase, batch: int) -> float:
    examples = [case.example(batch) for _ in range(EXAMPLES)]
    for inputs in examples:
        call(*inputs)
    return statistics.median(cuda_ms(call, examples[i % EXAMPLES]) for i in range(REPEAT))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure the start of `stylegan2` and `e4e` on this machine's GPU."""
    torch.backends.cudnn.benchmark = True
    folder = prebuilt.prebuilt_folder()
    print(f"kernels: {folder}; C compiler: {prebuilt.c_compiler()}")
    for case in build_cases((1, MAX_BATCH), "cuda", small=False):
        if case.name == "clip_text":  # has no kernels of its own
            continue
        use = kernel_cache.use_prebuilt_kernels(folder)
        row = measure_start(case)
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        print(f"{case.name} on {torch.cuda.get_device_name()}: {numbers}; {use}", flush=True)


if __name__ == "__main__":
    main()
