"""Checks before Triton is started, each with the reason and the remedy."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from importlib.util import find_spec

from styleclip_server.serving import model_repository
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.installation import TRITON_VARIABLE, find_installation
from styleclip_server.serving.options import Options
from styleclip_server.serving.tokens import is_loopback, read_tokens


def check(options: Options) -> None:
    """Check the options, the model repository and what is installed.

    Raises:
        ServerStartFailed: the server could not work.
    """
    _check_repository(options)
    _check_networks(options)
    _check_installation()
    read_tokens(options)
    if options.allow_shared_memory and not is_loopback(options.host):
        raise ServerStartFailed(
            f"--allow-shared-memory is for clients of this machine, but --host is {options.host}: "
            f"leave one of them out, or listen on 127.0.0.1"
        )


def _check_repository(options: Options) -> None:
    if not (options.repository / "steps").is_dir():
        raise ServerStartFailed(
            f"{options.repository} is not a model repository (it has no folder `steps`): give the "
            "project's with --repository"
        )
    domains = model_repository.domains(options.domains_folder)
    if options.domain not in domains:
        raise ServerStartFailed(
            f"{options.domains_folder} has no domain {options.domain!r}, only "
            f"{', '.join(domains) or 'none'}: fetch and export its weights first"
        )


def _check_networks(options: Options) -> None:
    if options.networks == "openvino" and not (
        find_spec("openvino") and model_repository.has_openvino_network(options.domain_folder)
    ):
        raise ServerStartFailed(
            "--networks openvino needs the package (pip install openvino) and a domain that was "
            "converted where it was installed: convert it again, or use --networks cpu"
        )
    if options.networks == "torch" and not model_repository.has_square_crops(options.domain_folder):
        raise ServerStartFailed(
            f"--networks torch encodes square images only, and those of {options.domain} are not: "
            "use --networks gpu"
        )


def _check_installation() -> None:
    triton = find_installation()
    if triton is None:
        raise ServerStartFailed(
            "the Triton server is not installed: run `make setup`, or "
            "pip install 'styleclip-triton[server]' on Python 3.10 to 3.12; a complete Triton is "
            f"named by {TRITON_VARIABLE}=/opt/tritonserver"
        )
    if triton.complete:
        return
    numpy = importlib.metadata.version("numpy")
    if int(numpy.partition(".")[0]) >= 2:  # arrays would come in with no strides
        raise ServerStartFailed(
            f"NumPy {numpy} is installed, but the Python backend of Triton from PyPI was built for "
            "NumPy 1 and would misread every tensor: pip install 'numpy<2'"
        )
    temporary = tempfile.gettempdir()
    if os.statvfs(temporary).f_flag & os.ST_NOEXEC:
        raise ServerStartFailed(
            f"{temporary} is mounted `noexec`, but Triton loads its Python backend from there: "
            "mount it with `exec` (Docker: --tmpfs /tmp:exec), or name another folder in TMPDIR"
        )
