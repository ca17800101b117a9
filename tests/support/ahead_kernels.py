"""Runs in a process of its own, where Triton compiles kernels and does not interpret them.

`python ahead_kernels.py compile FOLDER` compiles the kernels of small networks for a Hopper GPU.
`python ahead_kernels.py start FOLDER` starts with them as a server does: by Triton's own driver, on
a stand-in for libcuda that counts launches; prints what was compiled, and the launches.
`python ahead_kernels.py keys DOMAIN` prints how many kernels `styleclip_server.kernels` would
compile for a domain and for the published sizes, and those that a server launches beyond them.
"""

import ctypes
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.nvidia import driver as nvidia
from triton.runtime import driver
from triton.runtime.cache import get_cache_key

from gpu_networks import to_weights
from small_networks import small_generator
from styleclip_contract import wire
from styleclip_server import kernels
from styleclip_server.engines.cuda import kernel_cache
from styleclip_server.engines.cuda.stylegan2 import CudaGenerator
from styleclip_server.serving.configs import network_config

HOPPER = 90


class SmallNetworks(kernels.Networks):
    @property
    def sizes(self):
        return {"num_latents": 8, "w_dim": 48, "style_channels": small_generator().style_channels}

    def build(self):
        weights = to_weights(small_generator())
        return {wire.STYLEGAN2: CudaGenerator(weights, "meta")}


def compile_small(folder):
    _, launchers = kernels.compile_for(folder, [SmallNetworks(0)], HOPPER)
    kernels.compile_modules(folder, launchers)


def start(folder):
    cuda = ctypes.CDLL(str(folder / "libcuda.so.1"), ctypes.RTLD_GLOBAL)
    use = kernel_cache.use_prebuilt_kernels(folder)
    active = nvidia.CudaDriver()
    active.get_device_capability = lambda device: divmod(HOPPER, 10)
    active.get_current_device = active.get_current_stream = lambda *_: 0
    driver.set_active(active)
    with torch.inference_mode():
        small = SmallNetworks(0)
        small.launch(small.build())
    launches = ctypes.c_int.in_dll(cuda, "launches").value
    print(json.dumps({"found": use.found, "compiled": use.compiled, "launches": launches}))


class Keys:
    """In place of Triton's compiler: collects the cache's keys of what is launched."""

    def __init__(self):
        self.keys = {}
        triton.compiler.compile = self
        driver.set_active(kernels.CompileOnlyDriver(HOPPER))

    def __call__(self, source, target, options, **_):
        backend = triton.compiler.make_backend(target)
        key = get_cache_key(source, backend, backend.parse_options(options), env_vars={})
        self.keys.setdefault(key, source.name)
        return SimpleNamespace(
            run=lambda *_: None, launch_metadata=lambda *_: None, function=0, packed_metadata=()
        )


def compare_keys(domain):
    networks = [kernels.Networks(domain), kernels.Networks(1024)]
    launched = Keys()
    with torch.inference_mode():
        built = [each.build() for each in networks]
        for each, those in zip(networks, built, strict=True):
            each.launch(those)
        ahead = dict(launched.keys)
        for each, those in zip(networks, built, strict=True):
            serve(each.sizes, those)
    beyond = [name for key, name in launched.keys.items() if key not in ahead]
    print(json.dumps({"ahead": sorted(ahead.values()), "beyond": beyond}))


def served_inputs(config):
    """What a model reads of its configuration before it is ready."""
    shapes = [{"name": each.name, "dims": each.dims} for each in config.input]
    return {"max_batch_size": config.max_batch_size, "input": shapes}


def serve(sizes, built):
    """Launch what the networks' Triton models launch before they are ready."""
    sys.modules["triton_python_backend_utils"] = SimpleNamespace()
    from styleclip_server.serving.backends import torch as backend
    from styleclip_server.serving.backends import torch_features

    defaults = {"neutral": "a face", "strength": 1, "threshold": 0.1}
    description = json.dumps({"name": "", "title": "", "defaults": defaults} | sizes)
    device = torch.device("meta")
    for model, network in built.items():
        if model is wire.FEATURES:
            served = torch_features.TritonPythonModel.__new__(torch_features.TritonPythonModel)
            served.invert = backend.Graphed(network.invert, device)
            served.edit = backend.Graphed(network.edit, device)
            served.texts, served.stream = False, None
            config = network_config(wire.STYLEGAN2, description, "torch", features=True)
            served._capture_features(served_inputs(config))
            continue
        config = network_config(model, description, "torch")
        served = backend.TritonPythonModel.__new__(backend.TritonPythonModel)
        served.texts, served.renders = False, False
        served.inputs = [tensor.name for tensor in model.inputs]
        served.call = backend.Graphed(network, device)
        served._capture(served_inputs(config))


if __name__ == "__main__":
    {"compile": compile_small, "start": start, "keys": compare_keys}[sys.argv[1]](Path(sys.argv[2]))
