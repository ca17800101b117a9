"""Ends the process of a Python step when Triton is killed.

Triton's stub processes poll whether Triton is alive, but a stub that waits for a lock of a killed
Triton waits forever and keeps the GIL, so no Python thread can end it. The kernel can: Triton has
the only write end of a pipe, and the kernel sends each stub SIGKILL when that end is closed.
PR_SET_PDEATHSIG would fire too early, when the thread that started the stub ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "STYLECLIP_LIFELINE"  # the pipe's descriptors in Triton, read and write end: "5,6"


@contextmanager
def inheritable_pipe() -> Iterator[tuple[int, int]]:
    """Yield a pipe's read and write end, for Triton to inherit; close them here afterwards."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def die_with_triton() -> None:
    """Have the kernel kill this process, a stub, when Triton ends.

    Do nothing where Triton was started without the pipe.
    """
    if not (descriptors := os.environ.pop(VARIABLE, "")):
        return
    inherited, write_end = map(int, descriptors.split(","))
    os.close(write_end)
    # Opened once more: the settings below belong to the open file, which the stubs share.
    own = os.open(f"/proc/self/fd/{inherited}", os.O_RDONLY | os.O_NONBLOCK)
    os.close(inherited)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if select.select([own], [], [], 0)[0]:  # Triton ended before the signal was set up
        os.kill(os.getpid(), signal.SIGKILL)
