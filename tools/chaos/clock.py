"""The clock jumps by an hour and back. A machine has one clock, so this happens in a machine of its
own: User-Mode Linux (Debian's package user-mode-linux), a kernel that runs as a program and sees
this one's files. It has one processor and is slow: the server starts there in a minute.
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

from tools.chaos import faults
from tools.chaos.faults import Fault
from tools.chaos.server import Server

ROOT = Path(__file__).resolve().parents[2]
LINUX = shutil.which("linux.uml")
HOUR = 3600.0
_SECONDS = 400  # until it is given up
_POWER_OFF = 0x4321FEDC  # reboot(2)

# The first program of that machine; `$0` becomes process 1 after it, and ends the machine.
_INIT = """#!/bin/sh
exec > {log} 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc && mount -t sysfs sys /sys && mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm && ip link set lo up && cd {root} || echo "not all was made ready"
exec {python} -m tools.chaos.clock {result}
"""


def jump(server: Server) -> None:
    """An hour ahead, and an hour back after a while."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + HOUR)
    time.sleep(faults.LASTS)
    time.clock_settime(time.CLOCK_REALTIME, time.time() - HOUR)


CLOCK = Fault("clock an hour ahead for 8 s (in a machine of its own)", jump)


class NoMachine(Exception):
    """User-Mode Linux cannot run programs here."""


def in_a_machine_of_its_own() -> dict[str, object]:
    """The fields of the fault's `Result`.

    Raises:
        NoMachine: it died before its first program, as 6.1 does on processors with AMX, whose
            registers it has no room for.
        RuntimeError: that machine, or the server in it, gave none.
    """
    assert LINUX, "no linux.uml: apt-get install user-mode-linux"
    with tempfile.TemporaryDirectory() as folder:
        init, result, log = (Path(folder, name) for name in ("init", "result", "log"))
        init.write_text(_INIT.format(log=log, root=ROOT, python=sys.executable, result=result))
        init.chmod(0o755)
        command = [LINUX, "mem=4G", "rootfstype=hostfs", "rw", "con=null", f"init={init}"]
        subprocess.run(
            command, timeout=_SECONDS, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if not log.exists():
            raise NoMachine("User-Mode Linux does not run on this processor")
        if not result.exists():
            raise RuntimeError(f"nothing came of it: {log.read_text()}")
        told: dict[str, object] = json.loads(result.read_text())
        return told


def main(result: Path) -> None:
    """What runs inside, as process 1."""
    from tools.chaos.__main__ import SHARE, capacity, suffer

    try:
        server = Server()
        try:
            told = suffer(server, CLOCK, SHARE * capacity(server))
        finally:
            server.stop()
        result.write_text(json.dumps(asdict(told)))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    os.sync()
    ctypes.CDLL(None).reboot(_POWER_OFF)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
