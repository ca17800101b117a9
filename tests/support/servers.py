"""Servers for tests that are not about how a server stops or watches itself."""

from contextlib import contextmanager
from dataclasses import replace

from styleclip_server.serving import supervisor


@contextmanager
def running_server(options):
    """Run a server without a periodic canary; at the end no request is under way.

    With time left for requests, Triton waits four seconds for its Python models.
    """
    with supervisor.running_server(replace(options, exit_timeout=0), canary=0) as server:
        yield server
