"""What the machine offers to the engines: cores, bfloat16 instructions, and memory given back."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def core_quota(cgroup: Path = _CGROUP) -> int | None:
    """Return how many cores the container's CPU quota allows, rounded up; None if all.

    Libraries that start one thread per core count the cores of the machine. Under a quota (docker
    run --cpus, Kubernetes limits) that many threads only take time from one another.
    """
    try:
        if (cgroup / "cpu.max").is_file():  # control groups v2: "quota period" or "max period"
            allowed, period = (cgroup / "cpu.max").read_text().split()
        else:
            allowed = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        count = math.ceil(int(allowed) / int(period))
    except (OSError, ValueError):
        return None
    return count if 0 < count < len(os.sched_getaffinity(0)) else None


def return_freed_memory() -> None:
    """Return freed memory to the system, which glibc keeps for later by default."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries lack it
    if trim:
        trim(0)


def supports_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether the CPU multiplies bfloat16 (AVX512-BF16: Intel 2023, AMD 2022 and later)."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any("avx512_bf16" in line.split() for line in lines if line.startswith("flags"))
