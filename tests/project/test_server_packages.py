"""The server runs with the packages of its lock alone, which `make demo` and its image install."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Refuses the packages of other locks, then imports the server with everything that its processes
# import beside networks in PyTorch.
IMPORT = """
import importlib, pkgutil, re, sys
from importlib.metadata import packages_distributions

allowed = set(sys.argv[1].split())
for module, distributions in packages_distributions().items():
    if not allowed & {name.lower().replace("_", "-") for name in distributions}:
        sys.modules.setdefault(module, None)
sys.modules["triton_python_backend_utils"] = type(sys)("triton_python_backend_utils")

import styleclip_server
names = ["styleclip_server.__main__"]
for module in pkgutil.walk_packages(styleclip_server.__path__, "styleclip_server."):
    names.append(module.name)
for name in names:
    if not re.search(sys.argv[2], name):
        importlib.import_module(name)
print(len(names))
"""
ONLY_WITH_PYTORCH = r"cuda|torch|kernels|jpeg_outputs|engines\.(feature_)?weights"


def test_the_server_needs_no_package_beside_its_lock():
    lock = (ROOT / "requirements" / "server.txt").read_text("utf-8")
    names = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
    assert len(names) > 20
    allowed = " ".join(["styleclip-triton", *(n.lower().replace("_", "-") for n in names)])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, allowed, ONLY_WITH_PYTORCH],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
