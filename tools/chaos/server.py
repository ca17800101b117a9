"""A server of its own to inject faults into, with mounts of its own for full file systems."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from styleclip_server.serving.ports import find_free_port
from tools.private_ports import triton_port

SHM_BYTES = 256 * 2**20
DISK_BYTES = 128 * 2**20
# In a mount namespace of its own: the file systems disappear with the last process.
_OWN_MOUNTS = (
    f"mount -t tmpfs -o size={SHM_BYTES} chaos /dev/shm && "
    f'mount -t tmpfs -o size={DISK_BYTES} chaos "$0" && exec "$@"'
)


class Server:
    """`python -m styleclip_server` with the avatars on free ports, its files on a small disk.

    Attributes:
        grpc, http, metrics: host:port.
        disk: folder of the log and of temporary files.
        has_own_mounts: whether /dev/shm and `disk` are small file systems of this server alone,
            which needs root.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *arguments: str) -> None:
        self.disk = Path(tempfile.mkdtemp(prefix="styleclip-chaos-"))
        self.has_own_mounts = os.geteuid() == 0
        command = [sys.executable, "-m", "styleclip_server", "--domain", "avatars", "--canary", "5"]
        for port in ("http", "grpc"):
            command += [f"--{port}-port", "0"]
        self.metrics = f"127.0.0.1:{find_free_port()}"
        command += ["--metrics-port", self.metrics.rpartition(":")[2]]
        command += ["--log", str(self.disk / "log"), *arguments]
        if self.has_own_mounts:
            command = ["unshare", "--mount", "sh", "-c", _OWN_MOUNTS, str(self.disk), *command]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": str(self.disk)} | dict(environment or {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.grpc, self.http = self._read_addresses()

    def _read_addresses(self) -> tuple[str, str]:
        assert self.process.stderr
        output = ""
        for line in self.process.stderr:
            output += line
            if match := re.search(r"gRPC (\S+), HTTP (\S+);", line):
                # The pipe must be drained, or the launcher blocks when it is full.
                subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
                return match[1], match[2]
        raise RuntimeError(f"the server did not start: {output}")

    def list_processes(self) -> list[psutil.Process]:
        """Return the launcher, Triton and the processes of the steps."""
        with suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self.process.pid)
            return [launcher, *launcher.children(recursive=True)]
        return []

    def find_processes(self, part: str) -> list[psutil.Process]:
        """Return the processes with `part` in their command line: "bin/tritonserver", "/e4e/1/"."""
        matches = []
        for process in self.list_processes():
            with suppress(psutil.Error):
                if any(part in word for word in process.cmdline()[:2]):
                    matches.append(process)
        return matches

    def triton_grpc(self) -> str:
        """Return the address of Triton's own gRPC port."""
        return f"127.0.0.1:{triton_port(self.find_processes('bin/tritonserver')[0], 'grpc')}"

    def resolve(self, path: str | Path) -> Path:
        """Return where a path in the server's own mounts is reached from outside."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def memory(self) -> float:
        """Return the memory of all processes in MB, shared pages counted once."""
        total = 0
        for process in self.list_processes():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 1e6

    def stop(self, timeout: float = 60) -> float:
        """Stop the server with SIGTERM; return the seconds until it had ended."""
        start = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(timeout)
        finally:
            for process in self.list_processes():
                with suppress(psutil.Error):
                    process.kill()
        seconds = time.monotonic() - start
        for path in sorted(self.disk.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.disk.rmdir()
        return seconds


def fill_file_system(folder: Path) -> Path:
    """Write a file into `folder` until no byte is free, and return its path."""
    path = folder / "filler"
    for block in (bytes(2**16), b"\0"):
        with path.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(block)
    return path
