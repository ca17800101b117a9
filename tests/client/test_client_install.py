"""The client without the server, installed into a fresh environment."""

import ast
import json
import os
import shutil
import subprocess
import sys
import venv

import pytest
from PIL import Image

from paths import AVATAR, ROOT

CLIENT = ROOT / "client" / "styleclip_client"
HEAVY = {"torch", "dlib", "pytriton", "tritonserver", "onnxruntime", "onnx", "ray", "pyarrow",
         "streamlit", "cv2", "scipy"}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A fresh environment with the client and nothing else; its folder of programs."""
    folder = tmp_path_factory.mktemp("alone")
    source = folder / "source"
    for name in ("contract", "networks", "server", "export", "client"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE.md"):
        shutil.copy(ROOT / name, source)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    # Its own environment's pip, without what this one is set up with.
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile"]
    done = subprocess.run([*install, source], capture_output=True, text=True, timeout=300)
    if done.returncode and _no_network(done.stderr):
        pytest.skip("no package index is reached, so nothing can be installed")
    assert done.returncode == 0, done.stderr
    return python.parent


def _no_network(stderr):
    return "Could not find a version" in stderr or "Connection" in stderr


def test_the_client_installs_no_heavy_packages(alone):
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", alone / "python", "list", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {entry["name"].lower().replace("-", "_") for entry in json.loads(listed)}
    assert "styleclip_triton" in names and len(names) < 35
    assert not names & {*HEAVY, "dlib_bin", "nvidia_pytriton", "face_recognition_models"}


def test_the_client_alone_edits_a_photo(alone, server, tmp_path):
    out = tmp_path / "out.png"
    done = subprocess.run(
        [alone / "styleclip", "edit", AVATAR, "--target", "a sad face", "-o", out],
        env={"PATH": os.environ["PATH"], "STYLECLIP_SERVER": server.grpc_url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Image.open(out).size == (256, 256)


def test_batch_reports_what_ray_needs(alone, server, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(AVATAR, tmp_path / "photos")
    command = [alone / "styleclip", "batch", "photos", "--target", "a sad face", "-o", "out"]
    done = subprocess.run(
        [*command, "--ray", "local", "--server", server.grpc_url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "styleclip-triton[ray]" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["styleclip_client", "styleclip_client.client",
                                    "styleclip_client.cli"])  # fmt: skip
def test_importing_the_client_loads_no_heavy_packages(module):
    """This environment has all of them installed."""
    code = f"import sys, {module}; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
def test_the_source_compiles_on_each_supported_python(version):
    for path in CLIENT.rglob("*.py"):
        ast.parse(path.read_text("utf-8"), str(path), feature_version=version)
