"""A server of our own to hurt: in its own mounts, so that full disks are nobody else's."""

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

SHM_BYTES = 256 * 2**20
DISK_BYTES = 128 * 2**20
# A private view of the file systems: what is mounted there is gone with the last process.
_PRIVATE = (
    f"mount -t tmpfs -o size={SHM_BYTES} chaos /dev/shm && "
    f'mount -t tmpfs -o size={DISK_BYTES} chaos "$0" && exec "$@"'
)


class Server:
    """`python -m styleclip_server` on free ports, its log and temporary files on a small disk."""

    def __init__(self, environment: Mapping[str, str] | None = None, *arguments: str) -> None:
        self.disk = Path(tempfile.mkdtemp(prefix="styleclip-chaos-"))
        self.private = os.geteuid() == 0
        command = [sys.executable, "-m", "styleclip_server", "--canary", "5"]
        for port in ("http", "grpc", "metrics"):
            command += [f"--{port}-port", "0"]
        command += ["--log", str(self.disk / "log"), *arguments]
        if self.private:
            command = ["unshare", "--mount", "sh", "-c", _PRIVATE, str(self.disk), *command]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": str(self.disk)} | dict(environment or {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr
        told = ""
        for line in self.process.stderr:
            told += line
            if match := re.search(r"gRPC (\S+), HTTP (\S+);", line):
                self.grpc, self.http = match.groups()
                break
        else:
            raise RuntimeError(f"the server did not start: {told}")
        # Nobody reads the rest; it must not fill the pipe and stop the launcher.
        subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    @property
    def metrics(self) -> str:
        """host:port of the metrics: the launcher tells Triton, not us."""
        (triton,) = self.processes("bin/tritonserver")
        told = dict(word[2:].split("=", 1) for word in triton.cmdline() if "=" in word)
        return f"{told['metrics-address']}:{told['metrics-port']}"

    def family(self) -> list[psutil.Process]:
        """The launcher, Triton and the steps' processes."""
        with suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self.process.pid)
            return [launcher, *launcher.children(recursive=True)]
        return []

    def processes(self, part: str) -> list[psutil.Process]:
        """Those whose command line has `part`: "bin/tritonserver" or "/e4e/1/"."""
        found = []
        for process in self.family():
            with suppress(psutil.Error):
                if any(part in word for word in process.cmdline()[:2]):
                    found.append(process)
        return found

    def inside(self, path: str | Path) -> Path:
        """Where a path of the server's own mounts is seen from here."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def memory(self) -> float:
        """MB of the whole family, shared pages counted once, with its shared memory."""
        total = 0
        for process in self.family():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 1e6

    def stop(self, seconds: float = 60) -> float:
        """SIGTERM; the seconds until it was gone."""
        began = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(seconds)
        finally:
            for process in self.family():
                with suppress(psutil.Error):
                    process.kill()
        seconds = time.monotonic() - began
        for left in sorted(self.disk.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() and not left.is_symlink() else left.unlink()
        self.disk.rmdir()
        return seconds


def fill(folder: Path) -> Path:
    """A file in `folder` that leaves no byte free."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0")
    return path
