"""Closes shared memory that Triton keeps open for clients that have exited.

A client that is killed cannot ask for it, and Triton refuses it while a request still uses the
region. Each region is up to some MiB of memory that no one else can use.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os

from tritonclient.grpc.service_pb2 import (
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest,
)

from styleclip_contract.wire import SHARED_MEMORY_PREFIX
from styleclip_server.api.kserve.regions import SHARED_MEMORY_FOLDER
from styleclip_server.api.kserve.triton import Triton
from styleclip_server.api.refusals import Refused

SECONDS = 5.0  # between checks
_log = logging.getLogger("styleclip_server")


async def close_abandoned_regions(triton: Triton, seconds: float = SECONDS) -> None:
    """Close the regions of clients that have exited, every `seconds`, until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(Refused):  # Triton is unavailable, or a region is still in use
            await asyncio.to_thread(_close_once, triton)


def _close_once(triton: Triton) -> None:
    message = SystemSharedMemoryStatusRequest().SerializeToString()
    response = triton.call("SystemSharedMemoryStatus", message)
    for name, region in SystemSharedMemoryStatusResponse.FromString(response).regions.items():
        if _is_abandoned(region.key.removeprefix("/")):
            request = SystemSharedMemoryUnregisterRequest(name=name)
            with contextlib.suppress(Refused):
                triton.call("SystemSharedMemoryUnregister", request.SerializeToString())
                _log.info("closed the abandoned shared memory region %s", name)


def _is_abandoned(file: str) -> bool:
    """Return whether a region is unused: it has no file, or the client that locked it has exited.

    Only this project's clients lock their regions; the file of an exited one is removed.
    """
    path = SHARED_MEMORY_FOLDER / file
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not file.startswith(SHARED_MEMORY_PREFIX):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except OSError:  # it is locked
        return False
    finally:
        os.close(descriptor)
