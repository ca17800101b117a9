"""NVIDIA's perf_analyzer, fetched once into the virtual environment.

Its newest PyPI release needs glibc 2.38; the binary inside tritonclient 2.50's wheel runs from
glibc 2.27 on. It links libb64 (Debian's, fetched without installing it) and a CUDA runtime, of
which nvidia-pytriton carries one. See the project's facts in docs/performance.md.
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


class PerfAnalyzerMissing(Exception):
    """perf_analyzer cannot be had; the message says what is missing."""


def command() -> list[str]:
    """How to call perf_analyzer; from PATH where there is one (NVIDIA's SDK container)."""
    found = shutil.which("perf_analyzer")
    if found:
        return [found]
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
        (inside,) = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("/perf_analyzer")]
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(inside, folder))
        unpacked.chmod(0o755)
        _libraries(folder)
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("lib*.so*"):
            shutil.copy(path, FOLDER)
        shutil.copy(unpacked, FOLDER / "perf_analyzer.part")
        (FOLDER / "perf_analyzer.part").rename(FOLDER / "perf_analyzer")


def _libraries(folder: Path) -> None:
    """libb64.so.0d and libcudart.so.12 into `folder`."""
    spec = find_spec("pytriton")
    if spec and spec.submodule_search_locations:
        libraries = Path(spec.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"
        for runtime in libraries.glob("libcudart-*.so.12*"):
            shutil.copy(runtime, folder / "libcudart.so.12")
    installed = [Path(p) for p in ("/usr/lib/x86_64-linux-gnu/libb64.so.0d",)]
    for path in installed:
        if path.exists():
            shutil.copy(path, folder)
            return
    subprocess.run(["apt-get", "download", "-qq", "libb64-0d"], cwd=folder, check=False,
                   capture_output=True)  # fmt: skip
    for package in folder.glob("libb64*.deb"):
        _run(["dpkg", "-x", str(package), str(folder / "deb")], "dpkg could not unpack libb64")
    found = list((folder / "deb").rglob("libb64.so.0d"))
    if not found:
        raise PerfAnalyzerMissing(
            "perf_analyzer needs libb64: apt-get install libb64-0d (Debian, Ubuntu), then again"
        )
    shutil.copy(os.path.realpath(found[0]), folder / "libb64.so.0d")


def _run(arguments: list[str], complaint: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PerfAnalyzerMissing(f"{complaint}: {reason}")
