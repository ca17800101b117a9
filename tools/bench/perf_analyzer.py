"""NVIDIA's perf_analyzer, fetched once into the virtual environment.

The newest release on PyPI needs glibc 2.38; the binary in the wheel of tritonclient 2.50 runs with
glibc 2.27. It links libb64 (from Debian's package) and a CUDA runtime (nvidia-pytriton has one).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

WHEEL = "tritonclient==2.50.0"
FOLDER = Path(sys.prefix) / "perf_analyzer"


class BenchmarkFailed(Exception):
    """A measurement is not possible; the message says what is missing or wrong."""


def find_perf_analyzer() -> list[str]:
    """Return the command to run perf_analyzer: from PATH (NVIDIA's SDK container), else fetched.

    Raises:
        BenchmarkFailed: it cannot be fetched.
    """
    if on_path := shutil.which("perf_analyzer"):
        return [on_path]
    binary = FOLDER / "perf_analyzer"
    if not binary.exists():
        _fetch()
    return ["env", f"LD_LIBRARY_PATH={FOLDER}", str(binary)]


def _fetch() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
        platform = ["--no-deps", "--only-binary=:all:", "--platform", "manylinux1_x86_64"]
        _run([*pip, *platform, "--dest", temporary, WHEEL], "pip could not fetch its wheel")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/perf_analyzer")]
            binary = Path(archive.extract(name, folder))
        binary.chmod(0o755)
        _fetch_libraries(folder)
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("lib*.so*"):
            shutil.copy(path, FOLDER)
        shutil.copy(binary, FOLDER / "perf_analyzer.part")
        (FOLDER / "perf_analyzer.part").rename(FOLDER / "perf_analyzer")


def _fetch_libraries(folder: Path) -> None:
    """Copy libb64.so.0d and libcudart.so.12 into `folder`."""
    spec = find_spec("pytriton")
    if spec and spec.submodule_search_locations:
        libraries = Path(spec.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"
        for runtime in libraries.glob("libcudart-*.so.12*"):
            shutil.copy(runtime, folder / "libcudart.so.12")
    installed = Path("/usr/lib/x86_64-linux-gnu/libb64.so.0d")
    if installed.exists():
        shutil.copy(installed, folder)
        return
    subprocess.run(["apt-get", "download", "-qq", "libb64-0d"], cwd=folder, check=False,
                   capture_output=True)  # fmt: skip
    for package in folder.glob("libb64*.deb"):
        _run(["dpkg", "-x", str(package), str(folder / "deb")], "dpkg could not unpack libb64")
    unpacked = list((folder / "deb").rglob("libb64.so.0d"))
    if not unpacked:
        raise BenchmarkFailed(
            "perf_analyzer needs libb64: apt-get install libb64-0d (Debian, Ubuntu), then again"
        )
    shutil.copy(os.path.realpath(unpacked[0]), folder / "libb64.so.0d")


def _run(arguments: list[str], message: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BenchmarkFailed(f"{message}: {reason}")
