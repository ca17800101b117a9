"""A step's process that does not outlive Triton.

Triton's stubs look whether Triton is there, but one that waits for a lock which a killed Triton
held waits for ever, and with Python's own lock, so no thread of Python's can end it. The kernel
can: Triton holds the only writing end of a pipe, and each stub asks for SIGKILL when that is gone.
PR_SET_PDEATHSIG would come too soon, with the end of the thread that started the stub.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "STYLECLIP_LIFELINE"  # the descriptors of the pipe's ends, as Triton has them: "5,6"


@contextmanager
def made() -> Iterator[tuple[int, int]]:
    """The pipe's two ends, for Triton to inherit; closed here afterwards."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def hold() -> None:
    """In a stub: from now on the kernel kills this process when Triton has ended."""
    if not (told := os.environ.pop(VARIABLE, "")):
        return  # Triton was started by somebody else
    inherited, writing = map(int, told.split(","))
    os.close(writing)
    # Opened anew: what is asked of a descriptor holds for all who inherited it.
    mine = os.open(f"/proc/self/fd/{inherited}", os.O_RDONLY | os.O_NONBLOCK)
    os.close(inherited)
    fcntl.fcntl(mine, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(mine, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(mine, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if select.select([mine], [], [], 0)[0]:  # it ended before it was asked
        os.kill(os.getpid(), signal.SIGKILL)
