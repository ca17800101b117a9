"""Checks whether this Python and this machine can run the server; `make setup` runs it first.

Needs no packages and runs on any Python 3, so that an unsuitable one gets a clear message too. Exit
status 0 if all is well, else 1 with one line for each problem.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 12)
GLIBC = (2, 35)
_NULL = subprocess.DEVNULL


def find_problems():
    """Return the problems, each as one line with its remedy."""
    problems = []
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        problems.append(
            f"Python 3.10 to 3.12 is needed, this is {version}: nvidia-pytriton, which carries the "
            f"Triton server, needs NumPy below 2, and that has no wheel for 3.13. {_suggestion()}"
        )
        return problems
    if sys.platform != "linux" or platform.machine() != "x86_64":
        problems.append(
            "the Triton server from PyPI is built for Linux on x86-64, this is "
            f"{platform.system()} on {platform.machine()}: run the server elsewhere."
        )
        return problems
    libc = _libc()
    if not libc.startswith("glibc ") or _numbers(libc.split()[1]) < GLIBC:
        problems.append(
            "glibc 2.35 or later is needed (Debian 12, Ubuntu 22.04 or later), this system has "
            f"{libc}."
        )
    if not importlib.util.find_spec("venv") or not importlib.util.find_spec("ensurepip"):
        problems.append(
            "this Python cannot create virtual environments: "
            f"apt-get install python{version}-venv (Debian, Ubuntu) adds what is missing."
        )
    if not _has_libpython(version):
        problems.append(
            f"libpython{version}.so.1.0 is missing, which Triton's Python steps link: "
            f"apt-get install libpython{version} (Debian, Ubuntu) adds it; "
            "a Python built from source needs --enable-shared."
        )
    return problems


def _suggestion():
    for name in ("python3.12", "python3.11", "python3.10"):
        if shutil.which(name) and subprocess.call([name, "-V"], stdout=_NULL, stderr=_NULL) == 0:
            return f"This machine has {name}: add PYTHON={name} to the make command."
    return "Install one and add, say, PYTHON=python3.12 to the make command."


def _libc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "another C library"
    except (OSError, ValueError):
        return "another C library"


def _numbers(version):
    return tuple(int(part) for part in version.split(".")[:2])


def _has_libpython(version):
    name = f"libpython{version}.so.1.0"
    if (Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib") / name).exists():
        return True
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    lines = find_problems()
    for line in lines:
        print(line, file=sys.stderr)
    sys.exit(1 if lines else 0)
