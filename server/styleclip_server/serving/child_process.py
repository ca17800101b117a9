"""What the launcher's child processes have in common."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Have the kernel kill this new process when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_status(code: int) -> str:
    """Return how a process ended, from its return code."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
