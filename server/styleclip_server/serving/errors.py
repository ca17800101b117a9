"""The error of a server that cannot be started."""

from __future__ import annotations


class ServerStartFailed(Exception):
    """The server cannot be started; the message says why and what to do."""
