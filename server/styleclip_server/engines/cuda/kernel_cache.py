"""Makes Triton take kernels from the `prebuilt` folder, so that it starts fast and needs no C
compiler, and counts those it has to compile.

What the folder lacks is compiled into Triton's own cache (`TRITON_CACHE_DIR`, ~/.triton/cache), for
which kernels need nothing but Triton, C modules a C compiler and Python's headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from triton import knobs
from triton.runtime import build
from triton.runtime.cache import FileCacheManager

from styleclip_server.engines.cuda import prebuilt


@dataclass
class KernelUse:
    """How many kernels this process found in a cache, and how many it compiled."""

    found: int = 0
    compiled: int = 0
    seconds: float = 0.0

    def record(self, *, times: Any, cache_hit: bool, **_: Any) -> None:
        """Count a kernel; Triton calls this."""
        if cache_hit:
            self.found += 1
        else:
            self.compiled += 1
            self.seconds += times.total / 1e6

    def __str__(self) -> str:
        if not self.compiled:
            return f"{self.found} GPU kernels were compiled ahead"
        total = self.found + self.compiled
        return f"compiled {self.compiled} of {total} GPU kernels now, in {self.seconds:.1f} s"


def use_prebuilt_kernels(folder: Path | None) -> KernelUse:
    """Let Triton take kernels and C modules from `folder`, if any, and count the kernels."""
    use = KernelUse()
    knobs.compilation.listener = use.record
    if folder is not None:
        knobs.cache.manager_class = partial(_KernelCache, prebuilt.kernels_folder(folder))  # type: ignore[assignment]
        knobs.build.impl = partial(_provide_module, folder)
    return use


class _KernelCache(FileCacheManager):
    """Triton's cache, behind a folder that is only read."""

    def __init__(self, folder: Path, key: str, override: bool = False, dump: bool = False) -> None:
        self._prebuilt = folder / key
        if override or dump or not self._prebuilt.is_dir():
            super().__init__(key, override, dump)  # creates a folder

    def get_group(self, filename: str) -> dict[str, str] | None:
        if (self._prebuilt / filename).is_file():
            return {path.name: str(path) for path in self._prebuilt.iterdir()}
        return super().get_group(filename)


def _provide_module(
    folder: Path,
    name: str,
    source: str,
    build_folder: str,
    library_dirs: list[str],
    include_dirs: list[str],
    libraries: list[str],
) -> str:
    """Return the path of a compiled C module: Triton's hook in place of calling a compiler."""
    module = prebuilt.module_file(folder, Path(source).read_text("utf-8"))
    if module.is_file():
        return str(module)
    if prebuilt.c_compiler() is None:
        raise RuntimeError(
            f"{folder} has no {name} for networks of these sizes, and there is no C compiler: "
            "serve with --networks gpu (ONNX Runtime)"
        )
    return compile_module(name, source, build_folder, library_dirs, include_dirs, libraries)


def compile_module(name: str, source: str, build_folder: str, *options: list[str]) -> str:
    """Compile a C module by a C compiler, as Triton does.

    Args:
        options: folders of libraries, folders of headers, libraries; maybe compiler flags.
    """
    flags = options if len(options) == 4 else (*options, [])
    impl, knobs.build.impl = knobs.build.impl, None
    try:
        path: str = build._build(name, source, build_folder, *flags)
        return path
    finally:
        knobs.build.impl = impl
