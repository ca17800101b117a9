"""One Triton process, started and stopped."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil

from styleclip_server import parent_watch
from styleclip_server.engines.flavours import Flavour
from styleclip_server.pipeline.domain_folder import DOMAIN_VARIABLE, DOMAINS_VARIABLE
from styleclip_server.serving import model_repository, request_log, triton_flags
from styleclip_server.serving.installation import (
    STUB,
    TRITON_VARIABLE,
    installed,
    installed_flavour,
)
from styleclip_server.serving.server_log import FORMATS, Log

_PR_SET_PDEATHSIG = 1
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

# Beside a GPU a picture's pages, given back when it is freed and got anew for the next, are a fifth
# of `compose`. glibc keeps blocks up to 16 MB instead, up to 64 MB a process.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**24), "MALLOC_TRIM_THRESHOLD_": str(2**26)}

# Triton's words for a step whose process was lost while it was loaded. Stubs cannot be watched
# then: Triton starts some that end in good health.
LOST_WORDS = ("is not healthy", "lock_exception")


class ServerStartFailed(Exception):
    """The server cannot be started; the message says why and what to do."""


class StepLost(ServerStartFailed):
    """The process of a Python step was lost, as a very busy machine brings about: try again."""


@dataclass(frozen=True)
class Options:
    """What to serve, and where. Port 0 means any free one.

    `domains` is the folder of the domains, None where they lie beside `repository`'s steps.
    `log` is the file that Triton writes to; None leaves it this process's standard error.
    `exit_timeout` is how many seconds requests under way have left when it is stopped.
    `connection_age` is after how many seconds clients are asked to connect anew, so that they
    find servers that came since; 0: never.
    `log_format` is one of `log.FORMATS`.
    `log_requests` is one of `request_log.WHICH`, `log_texts` puts the texts into these lines too.
    `trace_to` is an OpenTelemetry collector's URL for one in `trace_every` requests.
    `allow_shared_memory` lets clients of this machine put tensors into its shared memory.
    `networks` is how the networks are run: one of `flavours.FLAVOURS`, or "auto" for the fastest.
    """

    repository: Path
    domain: str = "avatars"
    domains: Path | None = None
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    log: Path | None = Path("out/server.log")
    exit_timeout: int = 10
    connection_age: int = 0
    log_format: str = FORMATS[0]
    log_requests: str = request_log.WHICH[0]
    log_texts: bool = False
    trace_to: str | None = None
    trace_every: int = 1
    allow_shared_memory: bool = False
    networks: Flavour | Literal["auto"] = "auto"

    @property
    def domains_folder(self) -> Path:
        """Where the domains lie."""
        return self.domains or self.repository

    @property
    def domain_folder(self) -> Path:
        """Where the networks that are served lie."""
        return self.domains_folder / self.domain

    @property
    def told(self) -> str:
        """Where to read what Triton said."""
        return "standard error" if self.log is None else str(self.log)


def bind(options: Options) -> tuple[int, int, int]:
    """The ports for HTTP, gRPC and metrics, each checked to be free.

    Raises:
        ServerStartFailed: one is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    wanted = {
        "--http-port": options.http_port,
        "--grpc-port": options.grpc_port,
        "--metrics-port": options.metrics_port,
    }
    held: list[socket.socket] = []
    try:
        for option, port in wanted.items():
            probe = socket.socket(family)
            held.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except OSError as error:
                raise ServerStartFailed(
                    f"port {port} of {options.host} cannot be used ({error.strerror}): stop what "
                    f"listens there, or choose another with {option}"
                ) from error
        http, grpc, metrics = (probe.getsockname()[1] for probe in held)
        return http, grpc, metrics
    finally:
        for probe in held:
            probe.close()


def check(options: Options) -> None:
    """Raises ServerStartFailed for a repository or domain that is not there."""
    folder = options.domains_folder
    domains = sorted(p.parent.name for p in folder.glob("*/domain.json"))
    if not (options.repository / "steps").is_dir():
        raise ServerStartFailed(
            f"{options.repository} is no model repository (it has no folder `steps`): give the "
            "project's with --repository"
        )
    if options.domain not in domains:
        raise ServerStartFailed(
            f"{folder} has no domain {options.domain!r}, only "
            f"{', '.join(domains) or 'none'}: fetch and export its weights first"
        )
    if options.allow_shared_memory and options.host not in _LOOPBACK:
        raise ServerStartFailed(
            f"--allow-shared-memory is for clients of this machine, but --host is {options.host}: "
            f"leave one of them out, or listen on {_LOOPBACK[0]}"
        )
    if options.networks == "openvino" and not (
        find_spec("openvino") and model_repository.has_openvino_form(options.domain_folder)
    ):
        raise ServerStartFailed(
            "--networks openvino needs the package (pip install openvino) and a domain that was "
            "converted where it was installed: convert it again, or use --networks cpu"
        )
    found = installed()
    if found is None:
        raise ServerStartFailed(
            "the Triton server is not installed: run `make setup`, or "
            "pip install 'styleclip-triton[server]' on Python 3.10 to 3.12; a whole Triton is "
            f"named by {TRITON_VARIABLE}=/opt/tritonserver"
        )
    numpy = importlib.metadata.version("numpy")
    if not found.whole and int(numpy.partition(".")[0]) >= 2:  # arrays would come in with no steps
        raise ServerStartFailed(
            f"NumPy {numpy} is installed, but the Python backend of Triton from PyPI was built for "
            "NumPy 1 and would misread every tensor: pip install 'numpy<2'"
        )
    temporary = tempfile.gettempdir()
    if not found.whole and os.statvfs(temporary).f_flag & os.ST_NOEXEC:
        raise ServerStartFailed(
            f"{temporary} is mounted `noexec`, but Triton loads its Python backend from there: "
            "mount it with `exec` (Docker: --tmpfs /tmp:exec), or name another folder in TMPDIR"
        )


class Triton:
    """A started server process; `stop` ends it and removes its shared memory.

    `folder` is for files that the next process on the same ports can use again.
    """

    def __init__(self, options: Options, ports: tuple[int, int, int], folder: Path) -> None:
        self.options = options
        self.http_port, self.grpc_port, self.metrics_port = ports
        found = installed()
        assert found, "checked before"
        self._installed = found
        self._folder = folder
        self._shm_prefix = f"styleclip_{uuid.uuid4().hex[:8]}_"
        with parent_watch.made() as ends:
            self.process = subprocess.Popen(
                self._command(),
                env=self._environment() | {parent_watch.VARIABLE: ",".join(map(str, ends))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours: the server is stopped in order
                preexec_fn=_die_with_parent,
                pass_fds=ends,
            )
        assert self.process.stdout
        self._log = Log(options.log, options.log_format)
        self._log.follow(self.process.stdout)  # type: ignore[arg-type]
        self._tree = psutil.Process(self.process.pid)
        self._stubs: list[psutil.Process] = []

    def _command(self) -> list[str]:
        options = self.options
        return [
            str(self._installed.binary),
            f"--model-repository={self._models()}",
            f"--backend-directory={self._installed.backends(self._folder)}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={options.exit_timeout}",
            "--log-verbose=0",
            f"--http-address={options.host}",
            f"--grpc-address={options.host}",
            f"--metrics-address={options.host}",
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            "--metrics-config=summary_latencies=true",
            *triton_flags.closed_doors(options.allow_shared_memory),
            *triton_flags.connections(options.connection_age),
            *triton_flags.traces(options.trace_to, options.trace_every),
        ]

    def _models(self) -> Path:
        """The folder of what Triton serves; laid out once."""
        folder = self._folder / "models"
        if not folder.is_dir():
            steps, domain = self.options.repository / "steps", self.options.domain_folder
            model_repository.lay_out(folder, steps, domain, self._flavour())
        return folder

    def _flavour(self) -> Flavour:
        named = self.options.networks
        return installed_flavour(self.options.domain_folder) if named == "auto" else named

    def _environment(self) -> dict[str, str]:
        # The stub embeds an isolated interpreter: it heeds no PYTHONPATH, but finds its packages
        # (those of a virtual environment too) by the first `python3` on PATH.
        interpreter = Path(sys.executable).parent
        return {
            **(_MALLOC if self._flavour() == "torch" else {}),
            **os.environ,
            "LD_LIBRARY_PATH": _joined(
                *self._installed.libraries, os.environ.get("LD_LIBRARY_PATH")
            ),
            "PATH": _joined(interpreter, os.environ.get("PATH")),
            DOMAIN_VARIABLE: self.options.domain,
            DOMAINS_VARIABLE: str(self.options.domains_folder.resolve()),
            request_log.WHICH_VARIABLE: self.options.log_requests,
            request_log.TEXTS_VARIABLE: "1" if self.options.log_texts else "0",
        }

    def wait_until_ready(self, seconds: float = 120) -> None:
        """Returns when every model is loaded.

        Raises:
            ServerStartFailed: the server ended, or is not ready in time.
            StepLost: it ended because it lost the process of a step.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                complaint = self._complaint()
                lost = any(words in complaint for words in LOST_WORDS)
                raise (StepLost if lost else ServerStartFailed)(
                    f"Triton ended while it started ({_exit(self.process.returncode)}): "
                    f"{complaint}; all of it is in {self.options.told}"
                )
            if self.ready():
                self._stubs = self._find_stubs()
                return
            time.sleep(0.05)
        raise ServerStartFailed(
            f"Triton was not ready within {seconds:g} s; what it did is in {self.options.told}"
        )

    def ready(self) -> bool:
        """Whether Triton itself says that all models are ready."""
        host = "127.0.0.1" if self.options.host in ("0.0.0.0", "::") else self.options.host
        host = f"[{host}]" if ":" in host else host
        url = f"http://{host}:{self.http_port}/v2/health/ready"
        # Without proxies: an http_proxy of the environment is not for this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _find_stubs(self) -> list[psutil.Process]:
        try:
            children = self._tree.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if _named(child, STUB)]

    def broken(self) -> str | None:
        """What died since the server was ready, or None.

        A Python step's stub that dies stays dead, and Triton goes on saying that it is ready.
        """
        if self.process.poll() is not None:
            return f"the server ended ({_exit(self.process.returncode)})"
        for stub in self._stubs:
            if not _alive(stub):
                return f"the process {stub.pid} of a Python step died"
        return None

    def stop(self) -> None:
        """Ends the server and its stubs, and removes their shared memory."""
        try:
            everyone = [self._tree, *self._tree.children(recursive=True)]
        except psutil.NoSuchProcess:
            everyone = list(self._stubs)
        if self.process.poll() is None:
            # A dead stub would be waited for in vain, so only a whole server is asked politely.
            self.process.send_signal(signal.SIGKILL if self.broken() else signal.SIGTERM)
            try:
                self.process.wait(self.options.exit_timeout + 5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for process in everyone:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        # The dead need not be waited for until init, whose children they now are, buries them.
        deadline = time.monotonic() + 5
        while any(map(_alive, everyone)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._log.finish()
        for left in Path("/dev/shm").glob(f"{self._shm_prefix}*"):
            left.unlink(missing_ok=True)

    def _complaint(self) -> str:
        """The server's own reason, from the end of its log."""
        if self.options.log is None:
            return "its last lines say why"
        self._log.finish()
        lines = self.options.log.read_text("utf-8", "replace").splitlines()[-300:]
        for mark in ("failed to load '", "error:"):
            for line in lines:
                if mark in line:
                    return line[line.index(mark) :].replace("\\n", " ").strip('" |')[:400]
        return lines[-1] if lines else "it said nothing"


def _joined(*paths: object) -> str:
    return os.pathsep.join(str(path) for path in paths if path)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _named(process: psutil.Process, name: str) -> bool:
    try:
        return any(name in part for part in process.cmdline()[:3])
    except psutil.Error:
        return False


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """In the new process: the kernel kills it when the thread that started it is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
