"""How many processors a container leaves to this process.

Libraries that start a thread for each processor count those of the machine; where a container may
use fewer (docker run --cpus, Kubernetes' limits), their threads take the time from one another.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def quota(cgroup: Path = _CGROUP) -> int | None:
    """Processors that the container's quota allows, rounded up; None when it allows all."""
    try:
        if (cgroup / "cpu.max").is_file():  # version 2 of control groups: "quota period" or "max …"
            allowed, period = (cgroup / "cpu.max").read_text().split()
        else:
            allowed = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        count = math.ceil(int(allowed) / int(period))
    except (OSError, ValueError):
        return None
    return count if 0 < count < len(os.sched_getaffinity(0)) else None
