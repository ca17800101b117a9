"""fs3 on a Ray cluster: its parts as tasks, on several GPUs or hosts.

Every part is computed by `job.compute_part`, so the numbers do not depend on the cluster. The
networks travel through Ray's object store and the parts come back through it: the hosts share no
file system. A task whose worker dies is run again, and a run that is killed goes on with the parts
that are not on disk yet.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ray
import torch

from styleclip_export.statistics import job
from styleclip_export.statistics.fs3 import Fs3Rule
from styleclip_networks.clip import CLIP
from styleclip_networks.stylegan2 import Generator

LOCAL = "local"  # a cluster of this machine alone, for as long as the call lasts


def compute_parts(
    generator: Generator,
    clip: CLIP,
    work: Path,
    rule: Fs3Rule,
    *,
    samples: int = 100_000,
    parts: int = 48,
    channels: int | None = None,
    address: str = LOCAL,
    device: str = "cuda",
    progress: job.Progress | None = None,
) -> list[Path]:
    """Computes the parts of fs3 that are missing in `work`, as many at once as there is room for.

    Args:
        address: of a Ray cluster ("auto", "ray://host:10001"), or LOCAL.
        device: what a task computes on; "cuda" asks Ray for one GPU a task, "cpu" for one core.
        progress: called with rows done and rows in all, after each part.

    Returns:
        The parts' files.

    Raises:
        StatisticsError: see `job.Part.load`.
    """
    key = job.fingerprint((generator, clip), rule, samples)
    job.moments(generator, work, key, samples)
    files = [job.part_path(work, k, parts) for k in range(parts)]
    sizes = [len(job.rows_of_part(generator, k, parts, channels)) for k in range(parts)]
    missing = [
        k for k in range(parts) if not job.is_complete(files[k], key, generator, clip, sizes[k])
    ]
    done = sum(sizes) - sum(sizes[k] for k in missing)
    if progress:
        progress(done, sum(sizes))
    if not missing:
        return files

    ray.init(address=None if address == LOCAL else address, log_to_driver=False)
    try:
        gpus = int(device == "cuda")
        task = ray.remote(num_gpus=gpus, num_cpus=1, max_retries=3)(_part)
        networks = ray.put((generator.cpu(), clip.cpu()))
        moments = (work / job.MOMENTS).read_bytes()
        waiting = {
            task.remote(networks, moments, rule, samples, k, parts, channels, device): k
            for k in missing
        }
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            k = waiting.pop(ready)
            job.write_bytes(files[k], ray.get(ready))
            done += sizes[k]
            if progress:
                progress(done, sum(sizes))
    finally:
        ray.shutdown()
    return files


def _part(
    networks: tuple[Generator, CLIP],
    moments: bytes,
    rule: Fs3Rule,
    samples: int,
    part: int,
    parts: int,
    channels: int | None,
    device: str,
) -> bytes:
    """One part's file, made on a worker."""
    generator, clip = networks[0].to(device), networks[1].to(device)
    if device == "cpu":
        torch.set_num_threads(1)  # Ray runs one task a core
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / job.MOMENTS).write_bytes(moments)
        path = job.compute_part(generator, clip, work, rule, samples=samples, part=part,
                                  parts=parts, channels=channels)  # fmt: skip
        return path.read_bytes()
