"""Starts, watches, restarts and stops Triton and the API server.

Triton does not notice when the process of a Python step dies: its readiness stays true and every
request fails. So a supervisor watches the processes, edits a small image periodically (the canary),
and restarts the server on the same ports if a process died or the canary fails.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from styleclip_contract.errors import StyleclipError
from styleclip_server.canary import check_server
from styleclip_server.serving import preflight, triton_command
from styleclip_server.serving.api_process import ApiProcess, count_processes
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options
from styleclip_server.serving.ports import TRITON_HOST, Ports, choose_ports
from styleclip_server.serving.triton_process import StepProcessDied, TritonProcess

WATCH_SECONDS = 0.25  # between checks of the processes
LIVENESS_SECONDS = 15.0  # between two checks that the API server responds
CANARY_SECONDS = 15.0  # between two canary edits
CANARY_TIMEOUT = 30.0
CANARY_FAILURES = 2  # in a row, before the server is restarted
RESTART_DELAYS = (0.0, 1.0, 2.0, 5.0)  # seconds, longer after each failed start
STABLE_SECONDS = 10.0  # a server that ran longer starts again at the shortest delay

_log = logging.getLogger("styleclip_server")


class SupervisedServer:
    """A supervised server. Its addresses stay the same through restarts.

    Args:
        canary: seconds between two canary edits; 0: only the one of each start.

    Attributes:
        restarts: how often it was restarted.
        failure: why nothing is served, when the supervisor itself failed.
    """

    def __init__(self, options: Options, canary: float = CANARY_SECONDS) -> None:
        self.options = options
        self.restarts = 0
        self.failure: BaseException | None = None
        self._canary_seconds = canary
        self._ports = Ports(0, 0, 0, 0, 0, 0)
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._triton: TritonProcess | None = None
        self._apis: list[ApiProcess] = []
        # One thread starts and stops every process: the kernel kills a process when the thread that
        # started it ends.
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    @property
    def http_url(self) -> str:
        """The address "host:port"."""
        return self.options.address(self._ports.http)

    @property
    def grpc_url(self) -> str:
        """The address "host:port"."""
        return self.options.address(self._ports.grpc)

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads the metrics."""
        return f"http://{self.options.address(self._ports.metrics)}/metrics"

    @property
    def pid(self) -> int | None:
        """The process of Triton itself, while there is one."""
        return self._triton.pid if self._triton else None

    def start(self) -> None:
        """Start the server; return when it is ready and has answered the canary edit.

        Raises:
            ServerStartFailed: with the reason and the remedy.
        """
        preflight.check(self.options)
        self._ports = choose_ports(self.options)
        self._folder = Path(tempfile.mkdtemp(prefix="styleclip-triton-"))
        self._thread.start()
        self._started.wait()
        if self.failure:
            self.stop()
            raise self.failure

    def stop(self) -> None:
        """Stop the server and wait until all its processes have ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _supervise(self) -> None:
        try:
            self._setup = triton_command.prepare_setup(self.options, self._folder)
            # All start at once.
            numbers = range(count_processes(self.options, self._setup.engine))
            self._apis = [self._start_api(number) for number in numbers]
            self._start_first()
            for api in self._apis:
                api.wait_until_ready()
            self._started.set()
            failed_starts = 0
            while not self._stopping.is_set():
                since = time.monotonic()
                reason = self._watch()
                if reason is None:
                    return
                stable = time.monotonic() - since > STABLE_SECONDS
                failed_starts = 0 if stable else failed_starts + 1
                self._restart(reason, failed_starts)
        except BaseException as error:
            self.failure = error
        finally:
            for api in self._apis:
                api.begin_stop()
            for api in self._apis:
                api.stop()
            self._stop_triton()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._started.set()

    def _start_first(self) -> None:
        """Start Triton; try once more if the process of a step died."""
        try:
            self._start_triton()
        except StepProcessDied as error:
            _log.warning("%s; starting once more", error)
            self._stop_triton()
            self._start_triton()

    def _start_triton(self) -> None:
        self._triton = TritonProcess(self.options, self._ports, self._setup)
        self._triton.wait_until_ready()
        try:
            self._check_canary()
        except StyleclipError as error:
            raise ServerStartFailed(
                f"the server is up but cannot edit an image ({error.to_wire()}); "
                f"its log is in {self.options.log_name}"
            ) from error

    def _stop_triton(self) -> None:
        if self._triton:
            self._triton.stop()
            self._triton = None

    def _watch(self) -> str | None:
        """Wait until something fails and return what; None when `stop` was called."""
        assert self._triton
        checked_liveness = time.monotonic()
        failed_canaries, next_canary = 0, time.monotonic() + self._canary_seconds
        while not self._stopping.wait(WATCH_SECONDS):
            if failure := self._triton.find_failure():
                return failure
            checks_liveness = time.monotonic() - checked_liveness >= LIVENESS_SECONDS
            for number, api in enumerate(self._apis):
                if failure := api.find_failure():
                    self._restart_api(number, failure)
                elif checks_liveness and api.hangs():
                    self._restart_api(number, "the API server does not respond")
            if checks_liveness:
                checked_liveness = time.monotonic()
            if self._canary_seconds and time.monotonic() >= next_canary:
                try:
                    self._check_canary()
                    failed_canaries = 0
                except StyleclipError as error:
                    failed_canaries += 1
                    _log.warning("the canary edit failed: %s", error.to_wire())
                    if failed_canaries >= CANARY_FAILURES:
                        return f"{failed_canaries} canary edits in a row failed"
                next_canary = time.monotonic() + self._canary_seconds
        return None

    def _restart(self, reason: str, failed_starts: int) -> None:
        """Restart Triton, as often as needed."""
        while not self._stopping.is_set():
            _log.warning("%s; restarting the server", reason)
            self._stop_triton()
            if self._stopping.wait(RESTART_DELAYS[min(failed_starts, len(RESTART_DELAYS) - 1)]):
                return
            start = time.monotonic()
            try:
                self._start_triton()
            except (ServerStartFailed, OSError) as error:  # a full disk, too many processes
                reason, failed_starts = str(error), failed_starts + 1
                continue
            self.restarts += 1
            _log.warning("the server is back after %.1f s", time.monotonic() - start)
            return

    def _restart_api(self, number: int, reason: str) -> None:
        """Restart a process of the API server only; Triton keeps running."""
        _log.warning("%s; restarting it", reason)
        self._apis[number].kill()
        if self._apis[number].age() < STABLE_SECONDS:
            self._stopping.wait(RESTART_DELAYS[1])
        try:
            self._apis[number] = self._start_api(number)
        except (ServerStartFailed, OSError) as error:  # the next check tries again
            _log.warning("the API server does not start: %s", error)

    def _start_api(self, number: int) -> ApiProcess:
        return ApiProcess(self.options, self._ports, self._folder, self._setup.engine, number)

    def _check_canary(self) -> None:
        check_server(f"{TRITON_HOST}:{self._ports.triton_grpc}", CANARY_TIMEOUT)


@contextmanager
def running_server(
    options: Options | None = None, *, canary: float = CANARY_SECONDS
) -> Iterator[SupervisedServer]:
    """Run a supervised server within a `with` block, on free ports unless `options` name some.

    Raises:
        ServerStartFailed: with the reason and the remedy.
    """
    server = SupervisedServer(options or Options(), canary)
    try:
        server.start()
        yield server
    finally:
        server.stop()
