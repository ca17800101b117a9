"""The parts of a statistics job as tasks of a Ray cluster, on several GPUs or hosts.

A task runs `StatisticsJob.compute_part`, so the numbers do not depend on the cluster. Networks and
results travel through Ray's object store: the hosts share no file system. Ray runs a task again
whose worker dies, and a job that was killed continues with the parts that are not on disk yet.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import ray
import torch

from styleclip_export.progress import ReportRows
from styleclip_export.statistics.job import MOMENTS, StatisticsJob
from styleclip_server.files import write_atomically

LOCAL = "local"  # a cluster of this machine alone, for the duration of the call


def compute_parts(
    job: StatisticsJob,
    address: str = LOCAL,
    device: str = "cuda",
    progress: ReportRows | None = None,
) -> None:
    """Compute the missing parts of a job, as many at once as the cluster has resources for.

    Args:
        address: of a Ray cluster ("auto", "ray://host:10001"), or LOCAL.
        device: "cuda" requests one GPU for each task, "cpu" one core.
        progress: called after each part with the rows done and all rows.

    Raises:
        StatisticsError: see `Fs3Part.load`.
    """
    job.moments()
    sizes = [len(job.rows(part)) for part in range(job.parts)]
    missing = [part for part in range(job.parts) if job.missing_rows(part, job.load_part(part))]
    done = sum(sizes) - sum(sizes[part] for part in missing)
    if progress:
        progress(done, sum(sizes))
    if not missing:
        return

    ray.init(address=None if address == LOCAL else address, log_to_driver=False)
    try:
        gpus = int(device == "cuda")
        task = ray.remote(num_gpus=gpus, num_cpus=1, max_retries=3)(_compute_part)
        shared_job = ray.put(replace(job, generator=job.generator.cpu(), clip=job.clip.cpu()))
        moments = (job.work / MOMENTS).read_bytes()
        pending = {task.remote(shared_job, moments, part, device): part for part in missing}
        while pending:
            (ready, *_), _ = ray.wait(list(pending), num_returns=1)
            part = pending.pop(ready)
            write_atomically(job.path(part), ray.get(ready))
            done += sizes[part]
            if progress:
                progress(done, sum(sizes))
    finally:
        ray.shutdown()


def _compute_part(job: StatisticsJob, moments: bytes, part: int, device: str) -> bytes:
    """Compute a part on a worker and return the content of its file."""
    if device == "cpu":
        torch.set_num_threads(1)  # Ray runs one task per core
    with tempfile.TemporaryDirectory() as folder:
        local_job = replace(
            job, generator=job.generator.to(device), clip=job.clip.to(device), work=Path(folder)
        )
        (local_job.work / MOMENTS).write_bytes(moments)
        local_job.compute_part(part)
        return local_job.path(part).read_bytes()
