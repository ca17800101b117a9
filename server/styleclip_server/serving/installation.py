"""Which Triton is installed, and what this machine can run the networks with.

The wheel nvidia-pytriton contains Triton and its Python backend, but no backend of ONNX Runtime or
OpenVINO: `serving.backends` has Python ones instead. A complete Triton, as NVIDIA's container
has it in /opt/tritonserver, has native ones; STYLECLIP_TRITON names it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from styleclip_contract.domain import DOMAIN_FILE, Domain
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.cuda import prebuilt
from styleclip_server.engines.engine import Engine
from styleclip_server.serving import model_repository

TRITON_VARIABLE = "STYLECLIP_TRITON"
STUB = "triton_python_backend_stub"
_BACKENDS_FOLDER = Path(__file__).parent / "backends"
_BACKENDS = ("onnxruntime", "openvino")  # the modules that are Triton backends


_log = logging.getLogger("styleclip_server")


@dataclass(frozen=True)
class Installation:
    """An installed Triton.

    Attributes:
        root: its folder.
        libraries: folders in which the loader finds its libraries.
        complete: whether it has its own backends.
    """

    root: Path
    libraries: tuple[str, ...] = ()
    complete: bool = True

    @property
    def binary(self) -> Path:
        return self.root / "bin" / "tritonserver"

    def prepare_backends(self, folder: Path) -> Path:
        """Return the folder of the backends, built in `folder` if it has none of its own."""
        if self.complete:
            return self.root / "backends"
        python = folder / "python"
        # Copies, not links: Triton refuses a backend library outside its folder.
        shutil.copytree(self.root / "backends" / "python", python, symlinks=True)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        (python / STUB).symlink_to(self.root / "python_backend_stubs" / version / STUB)
        for backend in _BACKENDS:
            (folder / backend).mkdir()
            shutil.copy(_BACKENDS_FOLDER / f"{backend}.py", folder / backend / "model.py")
        return folder


def find_installation() -> Installation | None:
    """Find the Triton to start: STYLECLIP_TRITON's, else the wheel's; None if there is none."""
    if named := os.environ.get(TRITON_VARIABLE):
        complete = Installation(Path(named))
        return complete if complete.binary.is_file() else None
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(spec.submodule_search_locations[0])
    # The stub links libpython.
    libraries = (package.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    return Installation(
        package / "tritonserver", tuple(str(path) for path in libraries if path), complete=False
    )


def has_gpu() -> bool:
    """Return whether NVIDIA's driver is loaded."""
    return Path("/dev/nvidiactl").exists()


def fastest_engine(domain: Path) -> Engine:
    """Return the fastest engine that this machine can run for the domain in this folder."""
    if not has_gpu():
        openvino = find_spec("openvino") and supports_bfloat16()
        openvino = openvino and model_repository.has_openvino_network(domain)
        return "openvino" if openvino else "cpu"
    if not all(map(find_spec, ("torch", "torchvision", "triton", "onnx"))):
        return "gpu"
    if not model_repository.has_square_crops(domain):  # PyTorch's e4e takes no others
        return "gpu"
    if importlib.metadata.version("torch").endswith("+cpu"):
        return "gpu"
    if not _can_launch_kernels(domain):
        _log.warning(
            "ONNX Runtime runs the networks: PyTorch's kernels were not compiled ahead for "
            "networks of these sizes, and there is no C compiler"
        )
        return "gpu"
    return "torch"


def _can_launch_kernels(domain: Path) -> bool:
    """Return whether Triton can launch the kernels of `--networks torch`: compiling one needs
    nothing else, but launching it a module in C."""
    if prebuilt.c_compiler():
        return True
    folder = prebuilt.prebuilt_folder()
    if folder is None:
        return False
    return prebuilt.covers(folder, Domain.from_json((domain / DOMAIN_FILE).read_text("utf-8")))
