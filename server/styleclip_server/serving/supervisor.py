"""The supervised server: started, watched, healed, stopped.

Triton does not notice when the process of a Python step dies (its readiness stays true and every
request fails), so a supervisor watches the processes and edits a small picture now and then (a
canary); when something is wrong, the server is started anew on the same ports.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from styleclip_client import Client
from styleclip_contract.errors import StyleclipError
from styleclip_server.health import check
from styleclip_server.serving import triton_process
from styleclip_server.serving.triton_process import Options, ServerStartFailed, StepLost, Triton

WATCH_SECONDS = 0.25  # between looks at the processes
CANARY_SECONDS = 15.0  # between two edits of the canary picture
CANARY_TIMEOUT = 30.0
CANARY_FAILURES = 2  # in a row, before the server is started anew
RESTART_DELAYS = (0.0, 1.0, 2.0, 5.0)  # seconds, longer after each failed start
CALM_SECONDS = 10.0  # a server that ran so long counts as healed

_log = logging.getLogger("styleclip_server")
_PROJECT = Path(__file__).resolve().parents[3] / "model_repository"


def default_repository() -> Path:
    """The model repository of the current folder, else of the source tree."""
    here = Path("model_repository").resolve()
    return here if here.is_dir() else _PROJECT


class RunningServer:
    """A supervised server; made by `running_server`.

    `grpc_url` and `http_url` are "host:port" and stay the same through restarts; `restarts`
    counts them.
    """

    def __init__(self, options: Options, canary: float = CANARY_SECONDS) -> None:
        self.options = options
        self.restarts = 0
        self._canary_seconds = canary
        self._ports = (0, 0, 0)
        self._stop = threading.Event()
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._server: Triton | None = None
        # One thread starts and stops every Triton: the kernel kills a Triton whose thread is gone.
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    @property
    def grpc_url(self) -> str:
        return self._url(self._ports[1])

    @property
    def http_url(self) -> str:
        return self._url(self._ports[0])

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads the metrics."""
        return f"http://{self._url(self._ports[2])}/metrics"

    @property
    def pid(self) -> int | None:
        """The process of Triton itself, while there is one."""
        return self._server.process.pid if self._server else None

    def _url(self, port: int) -> str:
        host = self.options.host
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Returns when the server is ready and has edited the canary picture.

        Raises:
            ServerStartFailed: with the reason.
        """
        triton_process.check(self.options)
        self._ports = triton_process.bind(self.options)
        # Made once: a restart must not depend on there being room for it.
        self._folder = Path(tempfile.mkdtemp(prefix="styleclip-triton-"))
        self._thread.start()
        self._up.wait()
        if self._failure:
            self.stop()
            raise self._failure

    @property
    def failure(self) -> BaseException | None:
        """Why nothing is served any more, if the supervisor itself failed."""
        return self._failure

    def stop(self) -> None:
        """Ends the server and waits until nothing of it is left."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _supervise(self) -> None:
        try:
            self._serve_first()
            self._up.set()
            failed = 0
            while not self._stop.is_set():
                since = time.monotonic()
                reason = self._watch()
                if reason is None:
                    return
                failed = 0 if time.monotonic() - since > CALM_SECONDS else failed + 1
                self._restart(reason, failed)
        except BaseException as error:
            self._failure = error
        finally:
            if self._server:
                self._server.stop()
                self._server = None
            shutil.rmtree(self._folder, ignore_errors=True)
            self._up.set()

    def _serve_first(self) -> None:
        """`_serve`, and once more where the process of a step was lost as it started."""
        try:
            self._serve()
        except StepLost as error:
            _log.warning("%s; starting once more", error)
            if self._server:
                self._server.stop()
            self._serve()

    def _serve(self) -> None:
        self._server = Triton(self.options, self._ports, self._folder)
        self._server.wait_until_ready()
        try:
            self._edit_canary()
        except StyleclipError as error:
            raise ServerStartFailed(
                f"the server is up but cannot edit a picture ({error.to_wire()}); "
                f"what it did is in {self.options.told}"
            ) from error

    def _watch(self) -> str | None:
        """Waits for something to go wrong and says what; None when `stop` was called."""
        assert self._server
        failures, next_canary = 0, time.monotonic() + self._canary_seconds
        while not self._stop.wait(WATCH_SECONDS):
            broken = self._server.broken()
            if broken:
                return broken
            if self._canary_seconds and time.monotonic() >= next_canary:
                try:
                    self._edit_canary()
                    failures = 0
                except StyleclipError as error:
                    failures += 1
                    _log.warning("the canary edit failed: %s", error.to_wire())
                    if failures >= CANARY_FAILURES:
                        return f"{failures} canary edits in a row failed"
                next_canary = time.monotonic() + self._canary_seconds
        return None

    def _restart(self, reason: str, failed: int) -> None:
        while not self._stop.is_set():
            _log.warning("%s; starting the server anew", reason)
            assert self._server
            self._server.stop()
            if self._stop.wait(RESTART_DELAYS[min(failed, len(RESTART_DELAYS) - 1)]):
                return
            start = time.monotonic()
            try:
                self._serve()
            except (ServerStartFailed, OSError) as error:  # a full disk, too many processes
                reason, failed = str(error), failed + 1
                continue
            self.restarts += 1
            _log.warning("the server is back after %.1f s", time.monotonic() - start)
            return

    def _edit_canary(self) -> None:
        with Client(self.grpc_url, CANARY_TIMEOUT, retries=0, name="canary") as client:
            check(client)


@contextmanager
def running_server(
    options: Options | None = None,
    *,
    canary: float = CANARY_SECONDS,
    told: Callable[[RunningServer], None] | None = None,
) -> Iterator[RunningServer]:
    """A supervised server for the time of a `with` block; on free ports unless `options` say.

    Raises:
        ServerStartFailed: with the reason and what to do.
    """
    if options is None:
        options = Options(default_repository(), http_port=0, grpc_port=0, metrics_port=0)
    options = replace(
        options,
        repository=options.repository.resolve(),
        domains=options.domains and options.domains.resolve(),
        log=options.log and options.log.resolve(),
    )
    server = RunningServer(options, canary)
    try:
        server.start()
        if told:
            told(server)
        yield server
    finally:
        server.stop()
