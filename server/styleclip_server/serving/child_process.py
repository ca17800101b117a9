"""What the launcher's child processes share."""

from __future__ import annotations

import ctypes
import signal
import urllib.request

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Have the kernel kill this new process when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_status(code: int) -> str:
    """Return how a process ended, from its return code."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def responds(url: str, timeout: float) -> bool:
    """Return whether a GET of `url`, on this machine, returns 200, without any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return bool(response.status == 200)
    except OSError:
        return False
