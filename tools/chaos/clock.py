"""The clock jumps an hour ahead and back, in a virtual machine.

A machine has one clock, so this runs in User-Mode Linux (Debian's package user-mode-linux): a
kernel that runs as a program and sees this machine's files. It has one processor and is slow: the
server needs a minute to start there.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.chaos import faults
from tools.chaos.experiment import LOAD_SHARE, SKIPPED, Result, measure_capacity, run_fault
from tools.chaos.faults import Fault
from tools.chaos.server import Server

ROOT = Path(__file__).resolve().parents[2]
LINUX = shutil.which("linux.uml")
HOUR = 3600.0
_TIMEOUT = 400  # seconds for the virtual machine
_POWER_OFF = 0x4321FEDC  # reboot(2)

# The first program of the virtual machine. `exec` makes Python its process 1, which powers it off.
_INIT = """#!/bin/sh
exec > {log} 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc && mount -t sysfs sys /sys && mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm && ip link set lo up && cd {root} || echo "the set-up failed"
exec {python} -m tools.chaos.clock {result}
"""


class VirtualMachineFailed(Exception):
    """User-Mode Linux cannot run programs here."""


def jump(server: Server) -> None:
    """Set the clock an hour ahead, and back after a while."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + HOUR)
    time.sleep(faults.SECONDS)
    time.clock_settime(time.CLOCK_REALTIME, time.time() - HOUR)


CLOCK_JUMP = Fault("clock an hour ahead for 8 s (in a virtual machine)", jump)


def run_clock_jump() -> Result:
    """Inject the clock jump in a virtual machine, or say why that is not possible here."""
    if not (LINUX and os.geteuid() == 0):
        return Result(CLOCK_JUMP.name, note=f"{SKIPPED}: needs root and linux.uml")
    try:
        return Result(**_run_in_virtual_machine())
    except VirtualMachineFailed as error:
        return Result(CLOCK_JUMP.name, note=f"{SKIPPED}: {error}")


def _run_in_virtual_machine() -> dict[str, Any]:
    """Return the fields of the `Result`.

    Raises:
        VirtualMachineFailed: it ended before its first program, as User-Mode Linux 6.1 does on
            processors with AMX.
        RuntimeError: its programs wrote no result.
    """
    assert LINUX, "linux.uml is missing: apt-get install user-mode-linux"
    with tempfile.TemporaryDirectory() as folder:
        init, result, log = (Path(folder, name) for name in ("init", "result", "log"))
        init.write_text(_INIT.format(log=log, root=ROOT, python=sys.executable, result=result))
        init.chmod(0o755)
        command = [LINUX, "mem=4G", "rootfstype=hostfs", "rw", "con=null", f"init={init}"]
        subprocess.run(
            command, timeout=_TIMEOUT, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if not log.exists():
            raise VirtualMachineFailed("User-Mode Linux does not run on this processor")
        if not result.exists():
            raise RuntimeError(f"the virtual machine wrote no result: {log.read_text()}")
        fields: dict[str, Any] = json.loads(result.read_text())
        return fields


def main(path: Path) -> None:
    """Run as process 1 of the virtual machine: inject the fault, write the result to `path`."""
    try:
        server = Server()
        try:
            result = run_fault(server, CLOCK_JUMP, LOAD_SHARE * measure_capacity(server))
        finally:
            server.stop()
        path.write_text(json.dumps(asdict(result)))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    os.sync()
    ctypes.CDLL(None).reboot(_POWER_OFF)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
