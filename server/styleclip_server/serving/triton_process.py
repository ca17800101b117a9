"""Starts, watches and stops one Triton process with its steps."""

from __future__ import annotations

import signal
import subprocess
import time
import uuid
from pathlib import Path

import psutil

from styleclip_server.serving import parent_watch, triton_command
from styleclip_server.serving.child_process import die_with_parent, exit_status, responds
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.installation import STUB
from styleclip_server.serving.options import Options
from styleclip_server.serving.ports import TRITON_HOST, Ports
from styleclip_server.serving.server_log import ServerLog
from styleclip_server.serving.triton_command import ServerSetup

# What Triton logs when the process of a step dies while it is loaded. The processes cannot be
# watched at that time: Triton starts some that end as they should.
_STEP_DIED_LINES = ("is not healthy", "lock_exception")


class StepProcessDied(ServerStartFailed):
    """The process of a Python step died at the start, as it may on a very busy machine: retry."""


class TritonProcess:
    """A running Triton; `stop` ends it.

    Args:
        ports: the server's ports.
        setup: what it runs; another process may use it later.
    """

    def __init__(self, options: Options, ports: Ports, setup: ServerSetup) -> None:
        self._options = options
        self._ready_url = f"http://{TRITON_HOST}:{ports.triton_http}/v2/health/ready"
        self._shared_memory_prefix = f"styleclip_{uuid.uuid4().hex[:8]}_"
        with parent_watch.inheritable_pipe() as pipe:
            self._process = subprocess.Popen(
                triton_command.command_line(options, ports, setup, self._shared_memory_prefix),
                env=triton_command.environment(options, setup)
                | {parent_watch.VARIABLE: ",".join(map(str, pipe))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the launcher's, which stops Triton in order
                preexec_fn=die_with_parent,
                pass_fds=pipe,
            )
        assert self._process.stdout
        self._log = ServerLog(options.log, options.log_format)
        self._log.follow(self._process.stdout)  # type: ignore[arg-type]
        self._root = psutil.Process(self.pid)
        self._stubs: list[psutil.Process] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, seconds: float = 120) -> None:
        """Wait until every model is loaded.

        Raises:
            StepProcessDied: the server ended because the process of a step died.
            ServerStartFailed: the server ended for another reason, or is not ready in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self._start_failure()
            if self.ready():
                self._stubs = [child for child in self._children() if _is_stub(child)]
                return
            time.sleep(0.05)
        raise ServerStartFailed(
            f"Triton was not ready within {seconds:g} s; its log is in {self._options.log_name}"
        )

    def _start_failure(self) -> ServerStartFailed:
        self._log.finish()
        lines = self._log.last_lines
        reason = _failure_reason(lines)
        step_died = any(words in line for words in _STEP_DIED_LINES for line in lines)
        return (StepProcessDied if step_died else ServerStartFailed)(
            f"Triton ended while it started ({exit_status(self._process.returncode)}): {reason}; "
            f"its log is in {self._options.log_name}"
        )

    def ready(self) -> bool:
        """Return whether Triton reports that all models are ready."""
        return responds(self._ready_url, timeout=2)

    def find_failure(self) -> str | None:
        """Return what died since the server was ready, or None.

        Triton does not restart the stub process of a Python step, and goes on to say it is ready.
        """
        if self._process.poll() is not None:
            return f"the server ended ({exit_status(self._process.returncode)})"
        for stub in self._stubs:
            if not _is_alive(stub):
                return f"the process {stub.pid} of a Python step died"
        return None

    def stop(self) -> None:
        """Stop the server and its stubs, and remove their shared memory."""
        processes = [self._root, *(self._children() or self._stubs)]
        if self._process.poll() is None:
            # Triton's own shutdown waits for its stubs, which a dead one never answers.
            self._process.send_signal(signal.SIGKILL if self.find_failure() else signal.SIGTERM)
            try:
                self._process.wait(self._options.exit_timeout + 5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        # The stubs are not our children, so we cannot wait for them; a zombie counts as dead.
        deadline = time.monotonic() + 5
        while any(map(_is_alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._log.finish()
        for segment in Path("/dev/shm").glob(f"{self._shared_memory_prefix}*"):
            segment.unlink(missing_ok=True)

    def _children(self) -> list[psutil.Process]:
        try:
            return self._root.children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _failure_reason(lines: list[str]) -> str:
    """Return the reason that Triton gave for its end, from the last lines of its log."""
    for mark in ("failed to load '", "error:"):
        for line in lines:
            if mark in line:
                return line[line.index(mark) :].replace("\\n", " ").strip('" |')[:400]
    return lines[-1] if lines else "it logged nothing"


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_stub(process: psutil.Process) -> bool:
    try:
        return any(STUB in word for word in process.cmdline()[:3])
    except psutil.Error:
        return False
