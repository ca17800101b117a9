"""GPU kernels that were compiled ahead are what a server launches, without a GPU and a compiler."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT
from styleclip_contract.domain import Domain
from styleclip_server.engines.cuda import prebuilt
from styleclip_server.serving import installation

AVATARS = ROOT / "model_repository" / "avatars"
SCRIPT = ROOT / "tests" / "support" / "ahead_kernels.py"


def run(command, folder, **environment):
    """Run the script of the tests in a process whose Triton does not interpret kernels."""
    result = subprocess.run(
        [sys.executable, SCRIPT, command, folder],
        env=os.environ | {"TRITON_INTERPRET": "0"} | environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(result.stdout or "null")


def test_a_server_launches_nothing_beyond_what_is_compiled_ahead():
    keys = run("keys", AVATARS)
    assert {"_upsample_convolve_kernel", "_convolve_to_rgb_kernel"} < set(keys["ahead"])
    assert len(keys["ahead"]) > 80 and keys["beyond"] == []


def libcuda_for_tests(folder):
    """Compile a library that counts launches in place of libcuda."""
    from triton.backends.nvidia import driver

    sources = Path(driver.__file__).read_text() + Path(driver.dirname, "driver.c").read_text()
    names = set(re.findall(r"\bcu[A-Z]\w*(?=\()", sources))
    code = "int launches;\nint cuLaunchKernelEx(void) { launches++; return 0; }\n"
    for name in ("cuDeviceGetAttribute", "cuFuncGetAttribute"):
        names.discard(name)
        code += f"int {name}(int* value) {{ *value = 1 << 18; return 0; }}\n"
    code += "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(names))
    (folder / "libcuda.c").write_text(code)
    library = folder / "libcuda.so.1"
    options = ["-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library]
    subprocess.run([prebuilt.c_compiler(), *options, folder / "libcuda.c"], check=True)


@pytest.mark.skipif(not prebuilt.c_compiler(), reason="no C compiler")
def test_a_start_with_compiled_kernels_compiles_nothing_and_needs_no_c_compiler(tmp_path):
    folder = tmp_path / "kernels"
    run("compile", folder)
    libcuda_for_tests(folder)
    for path in folder.rglob("*"):
        path.chmod(0o555)
    start = run(
        "start",
        folder,
        PATH="/nowhere",
        LD_LIBRARY_PATH=str(folder),
        TRITON_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert start["compiled"] == 0 and start["found"] > 5
    assert start["launches"] >= start["found"]
    assert not list(tmp_path.glob("cache/*/*.cubin"))


@pytest.mark.parametrize("compiler", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
def test_pytorch_is_taken_where_its_kernels_can_be_launched(
    compiler, ahead, tmp_path, monkeypatch, caplog
):
    text = (AVATARS / "domain.json").read_text()
    (tmp_path / "domain.json").write_text(text)
    domain = json.loads(text) | ({} if ahead else {"num_latents": 18})
    sizes = prebuilt.sizes(Domain.from_json(json.dumps(domain)))
    prebuilt.add_to_manifest(tmp_path, [sizes], [90])
    monkeypatch.setenv(prebuilt.VARIABLE, str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if compiler else None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(installation, "find_spec", lambda name: True)
    monkeypatch.setattr(installation.importlib.metadata, "version", lambda name: "2.11.0")
    monkeypatch.setattr(installation, "has_gpu", lambda: True)
    assert installation.fastest_engine(tmp_path) == ("torch" if compiler or ahead else "gpu")
    assert ("no C compiler" in caplog.text) == (not compiler and not ahead)
