"""Starts, watches and stops the processes of the API server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

from styleclip_server.api.settings import Settings
from styleclip_server.engines.engine import CPU_ENGINES, Engine
from styleclip_server.serving import triton_command
from styleclip_server.serving.child_process import die_with_parent, exit_status
from styleclip_server.serving.configs import concurrent_requests
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options
from styleclip_server.serving.ports import TRITON_HOST, Ports
from styleclip_server.serving.server_log import ServerLog
from styleclip_server.serving.tokens import read_tokens

_START_SECONDS = 60
_LIVE_SECONDS = 5
_LIVENESS_SOCKET = "api-"  # and the number of the process
_CORES_PER_PROCESS = 4  # of a machine with a GPU
_MOST_PROCESSES = 8

# Images are copied in blocks that glibc keeps for the next ones: each block that goes back to the
# kernel costs as many page faults as it has pages. Larger ones go back when they are freed; by
# default glibc would keep them, too, once some were freed.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**23),
    "MALLOC_ARENA_MAX": "2",
}


def count_processes(options: Options, engine: Engine) -> int:
    """Return how many processes the API server has.

    One needs 0.7 ms of a core for an edit. That is little beside a CPU's networks, and the most
    that a GPU's can serve.
    """
    if options.rate_limit:  # a process counts the calls of its own connections only
        return 1
    if options.api_processes:
        return options.api_processes
    if engine in CPU_ENGINES:
        return 1
    return max(1, min(_MOST_PROCESSES, (os.cpu_count() or 1) // _CORES_PER_PROCESS))


class ApiProcess:
    """A running process of the API server; `stop` ends it.

    Args:
        folder: a folder of this user alone, for the settings.
        engine: what runs the networks.
        number: of the process, from 0 on.
    """

    def __init__(
        self, options: Options, ports: Ports, folder: Path, engine: Engine, number: int = 0
    ) -> None:
        self._options = options
        self._liveness = httpx.Client(
            transport=httpx.HTTPTransport(uds=f"{folder / _LIVENESS_SOCKET}{number}")
        )
        settings = folder / "api.json"
        if not settings.exists():  # a restart must not depend on free disk space
            _settings(options, ports, folder, engine).save(settings)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "styleclip_server.api", str(settings), str(number)],
            env=_MALLOC | os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is the launcher's, which stops its processes in order
            preexec_fn=die_with_parent,
        )
        assert self._process.stdout
        self._log = ServerLog(_log_file(options, number), options.log_format)
        self._log.follow(self._process.stdout)  # type: ignore[arg-type]

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until it responds.

        Raises:
            ServerStartFailed: it ended, or does not respond in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_live():
            if failure := self.find_failure():
                self._log.finish()
                lines = self._log.last_lines
                raise ServerStartFailed(f"{failure}: {lines[-1] if lines else 'it logged nothing'}")
            if time.monotonic() > deadline:
                raise ServerStartFailed(f"the API server did not respond within {_START_SECONDS} s")
            time.sleep(0.05)

    def is_live(self) -> bool:
        """Return whether the process responds."""
        try:
            return self._liveness.get("http://api/livez", timeout=_LIVE_SECONDS).is_success
        except httpx.HTTPError:
            return False

    def age(self) -> float:
        """Return how many seconds ago the process was started."""
        return time.monotonic() - self._started

    def hangs(self) -> bool:
        """Return whether the process does not respond although it had time to start."""
        return self.age() > _START_SECONDS and not any(self.is_live() for _ in range(2))

    def find_failure(self) -> str | None:
        """Return how the process ended, or None."""
        if self._process.poll() is None:
            return None
        return f"the API server ended ({exit_status(self._process.returncode)})"

    def begin_stop(self) -> None:
        """Ask the process to end; requests under way are finished within the exit timeout."""
        self._process.terminate()

    def stop(self) -> None:
        """Wait until the process has ended after `begin_stop`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._options.exit_timeout + 5)
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        self._log.finish()
        self._liveness.close()


def _log_file(options: Options, number: int) -> Path | None:
    if options.log is None:
        return None
    name = f"{options.log.stem}-api{number or ''}{options.log.suffix}"
    return options.log.with_name(name)


def _settings(options: Options, ports: Ports, folder: Path, engine: Engine) -> Settings:
    start, most = concurrent_requests(engine, options.queue_length)
    return Settings(
        host=options.host,
        http_port=ports.http,
        grpc_port=ports.grpc,
        metrics_port=ports.metrics,
        triton_http=f"{TRITON_HOST}:{ports.triton_http}",
        triton_grpc=f"{TRITON_HOST}:{ports.triton_grpc}",
        triton_metrics=f"{TRITON_HOST}:{ports.triton_metrics}",
        cancelled_calls=str(triton_command.cancelled_calls(folder)),
        processes=count_processes(options, engine),
        shared_load=str(folder / "api-load"),
        liveness_socket=str(folder / _LIVENESS_SOCKET),
        tokens=read_tokens(options),
        rate_limit=options.rate_limit,
        body_limit=options.body_limit * 2**20,
        log_requests=options.log_requests,
        max_concurrent=options.max_concurrent or start,
        highest_concurrent=None if options.max_concurrent else most,
        allow_shared_memory=options.allow_shared_memory,
        connection_age=options.connection_age,
        exit_timeout=options.exit_timeout,
    )
