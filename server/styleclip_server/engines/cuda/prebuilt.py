"""The folder of kernels that were compiled ahead, named by STYLECLIP_KERNELS.

`python -m styleclip_server.kernels` writes it, and `kernel_cache` reads it:

- `manifest.json`: for which networks and GPUs there are kernels
- `kernels/KEY/`: a kernel under Triton's cache key: its machine code and metadata
- `modules/HASH.EXT`: compiled C modules by which Triton calls CUDA, under the hash of their source
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from styleclip_contract.domain import Domain

VARIABLE = "STYLECLIP_KERNELS"
MANIFEST_FILE = "manifest.json"


def prebuilt_folder() -> Path | None:
    """Return the folder that STYLECLIP_KERNELS names, if it exists."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named and (Path(named) / MANIFEST_FILE).is_file() else None


def c_compiler() -> str | None:
    """Return the C compiler that Triton would call."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def kernels_folder(folder: Path) -> Path:
    return folder / "kernels"


def module_file(folder: Path, source: str) -> Path:
    """Return where the C module of this source is, compiled for this Python."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    return folder / "modules" / f"{digest}{sysconfig.get_config_var('EXT_SUFFIX')}"


def sizes(domain: Domain) -> dict[str, Any]:
    """Return what the launches of a domain's networks depend on, as the manifest has it."""
    return {
        "resolution": domain.resolution,
        "num_latents": domain.num_latents,
        "w_dim": domain.w_dim,
        "style_channels": list(domain.style_channels),
    }


def covers(folder: Path, domain: Domain) -> bool:
    """Return whether networks of the domain's sizes were compiled ahead, for any GPU.

    On another GPU Triton compiles the kernels by itself, but the C modules are the same.
    """
    manifest = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))
    return sizes(domain) in [entry["sizes"] for entry in manifest["networks"]]


def add_to_manifest(folder: Path, networks: list[dict[str, Any]], targets: list[int]) -> None:
    """Record that kernels of networks of these sizes were compiled for these GPUs."""
    path = folder / MANIFEST_FILE
    entries = json.loads(path.read_text("utf-8"))["networks"] if path.is_file() else []
    before = json.dumps(entries)
    for each in networks:
        known = [entry for entry in entries if entry["sizes"] == each]
        if not known:
            known = [{"sizes": each, "targets": []}]
            entries += known
        known[0]["targets"] = sorted({*known[0]["targets"], *targets})
    if json.dumps(entries) != before:  # the folder may be read-only
        path.write_text(json.dumps({"networks": entries}, indent=1) + "\n", "utf-8")
