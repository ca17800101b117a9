"""Ports of the processes of `pytest -n`.

A port is free from when it is chosen until a server has loaded its models and listens there.
"""

import os

from styleclip_server.serving import ports


def separate():
    """Let this process choose ports that the other processes never choose."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:  # it is the only process
        return
    count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    number = int(worker.removeprefix("gw")) % count
    candidates = ports.list_candidates
    ports.list_candidates = lambda: candidates()[number::count]
