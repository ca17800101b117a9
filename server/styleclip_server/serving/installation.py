"""The Triton that is installed: the one of the wheel nvidia-pytriton, or a whole one.

The wheel holds the binary and the Python backend, but no backend of ONNX Runtime or OpenVINO:
`backends` lays out a folder in which `backends/onnxruntime/model.py` of this package takes its
place, and so on. A whole Triton, as NVIDIA's container has it in /opt/tritonserver, has native
ones; STYLECLIP_TRITON names it.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.flavours import Flavour
from styleclip_server.serving.model_repository import has_openvino_form

TRITON_VARIABLE = "STYLECLIP_TRITON"
STUB = "triton_python_backend_stub"
_ENGINES = Path(__file__).parents[1] / "engines"
_BACKENDS = ("onnxruntime", "openvino")  # engines that are Triton backends too


@dataclass(frozen=True)
class Installed:
    """A Triton below `root`; `libraries` are the folders that its parts need to be found in."""

    root: Path
    libraries: tuple[str, ...] = ()
    whole: bool = True

    @property
    def binary(self) -> Path:
        return self.root / "bin" / "tritonserver"

    def backends(self, folder: Path) -> Path:
        """The folder of backends; made below `folder`, once, unless this Triton has one."""
        if self.whole:
            return self.root / "backends"
        made = folder / "backends"
        if made.is_dir():
            return made
        python = made / "python"
        # Copies, not links: Triton refuses a backend library outside its folder.
        shutil.copytree(self.root / "backends" / "python", python, symlinks=True)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        (python / STUB).symlink_to(self.root / "python_backend_stubs" / version / STUB)
        for backend in _BACKENDS:
            (made / backend).mkdir()
            shutil.copy(_ENGINES / backend / "model.py", made / backend)
        return made


def installed() -> Installed | None:
    """The Triton to start, or None where there is none."""
    named = os.environ.get(TRITON_VARIABLE)
    if named:
        found = Installed(Path(named))
        return found if found.binary.is_file() else None
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(spec.submodule_search_locations[0])
    # The stub links libpython.
    libraries = (package.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    return Installed(
        package / "tritonserver", tuple(str(each) for each in libraries if each), whole=False
    )


def installed_flavour(domain: Path) -> Flavour:
    """The fastest flavour that this machine can run for the domain in this folder."""
    if not Path("/dev/nvidiactl").exists():
        openvino = find_spec("openvino") and supports_bfloat16() and has_openvino_form(domain)
        return "openvino" if openvino else "cpu"
    if not all(map(find_spec, ("torch", "torchvision", "triton", "onnx"))):
        return "gpu"
    return "gpu" if importlib.metadata.version("torch").endswith("+cpu") else "torch"
