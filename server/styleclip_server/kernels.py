"""`python -m styleclip_server.kernels FOLDER`: compile the GPU kernels of `--networks torch` ahead.

It needs no GPU, but a C compiler and Python's headers. Each network runs on tensors without data,
in all batch sizes that are served, by a driver that compiles what is launched and launches nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.backends.nvidia import driver as nvidia
from triton.runtime import driver

from styleclip_contract import wire
from styleclip_contract.domain import DOMAIN_FILE, Domain
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines import weights
from styleclip_server.engines.cuda import kernel_cache, prebuilt
from styleclip_server.engines.cuda.cuda_graphs import captured_batch_sizes
from styleclip_server.engines.cuda.e4e import CudaEncoder
from styleclip_server.engines.cuda.faces.fhog import CELL
from styleclip_server.engines.cuda.feature_editor import CudaFeatureEditor
from styleclip_server.engines.cuda.kernels.faces import cascade, crop, fhog, filters, frames, resize
from styleclip_server.engines.cuda.stylegan2 import CudaGenerator
from styleclip_server.engines.feature_weights import read_feature_weights
from styleclip_server.engines.model_files import MODEL_FILE
from styleclip_server.pipeline.dlib_detector import WINDOW
from styleclip_server.serving import model_repository
from styleclip_server.serving.configs import MAX_BATCH

# Bytes of shared memory that a program can have, by compute capability (CUDA C++ programming guide,
# "Technical specifications per compute capability").
SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}
TARGETS = (80, 86, 89, 90, 100, 120)

Weights = Mapping[str, np.ndarray]
Network = CudaGenerator | CudaEncoder | CudaFeatureEditor


class CompileOnlyDriver(DriverBase):
    """Triton's driver of a GPU that is not there: kernels are compiled, launches do nothing.

    Attributes:
        sources: C sources of the modules that would launch the kernels.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = self
        self.sources: set[str] = set()

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, ty: str) -> str:
        return nvidia.ty_to_cpp(ty)

    def get_benchmarker(self) -> Any:
        raise RuntimeError("no kernel is tuned by measurement")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY[self.capability] * 1024}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, ...]:
        """Return (module, function, registers, spills, largest number of threads)."""
        return 0, 0, 0, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """Note the C module of a kernel's launches, as `nvidia.CudaLauncher` would build it."""
        descriptors = getattr(metadata, "tensordesc_meta", None)
        self.sources.add(nvidia.make_launcher({}, dict(source.signature), descriptors))
        return lambda *_: None


@dataclass(frozen=True)
class Networks:
    """The networks whose launches are compiled: a domain's folder, or a published resolution.

    Attributes:
        origin: the folder; or the side of the images in pixels, for StyleGAN2 config F with e4e and
            StyleFeatureEditor.
    """

    origin: Path | int

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """What `prebuilt.sizes` returns for a domain of these networks."""
        if isinstance(self.origin, Path):
            text = (self.origin / DOMAIN_FILE).read_text("utf-8")
            return prebuilt.sizes(Domain.from_json(text))
        with torch.device("meta"):
            generator = Generator(self.origin)
        return {
            "resolution": self.origin,
            "num_latents": generator.num_latents,
            "w_dim": generator.w_dim,
            "style_channels": list(generator.style_channels),
        }

    def build(self) -> dict[wire.Model, Network]:
        """Build the networks without data, for the target of Triton's active driver."""
        generator = CudaGenerator(self._generator(), "meta")
        built: dict[wire.Model, Network] = {wire.STYLEGAN2: generator}
        if parameters := self._encoder():
            built[wire.E4E] = CudaEncoder(parameters, "meta")
        if parameters := self._feature_editor():
            built[wire.FEATURES] = CudaFeatureEditor(parameters, generator)
        return built

    def launch(self, built: Mapping[wire.Model, Any]) -> None:
        """Launch the kernels of every batch size that is served."""
        sizes = {
            wire.W_PLUS: (self.sizes["num_latents"], self.sizes["w_dim"]),
            wire.DELTA: (sum(self.sizes["style_channels"]),),
            wire.FACE_CROP: (3, wire.FACE_SIZE, wire.FACE_SIZE),
        }

        def draw(rows: int, *tensors: wire.Tensor) -> list[torch.Tensor]:
            return [torch.empty(rows, *sizes[tensor], device="meta") for tensor in tensors]

        for model, network in built.items():
            if model is wire.FEATURES:
                kept = network.invert(*draw(1, wire.FACE_CROP, wire.W_PLUS))
            for rows in captured_batch_sizes(MAX_BATCH):
                if model is wire.FEATURES:
                    rows_kept = (torch.cat([x] * rows) for x in kept)
                    network.edit(*draw(rows, wire.W_PLUS, wire.DELTA), *rows_kept)
                else:
                    network(*draw(rows, *model.inputs))

    def _generator(self) -> Weights:
        if isinstance(self.origin, Path):
            return _read(self.origin, wire.STYLEGAN2)
        with torch.device("meta"):
            return _zeros(Generator(self.origin))

    def _encoder(self) -> Weights:
        if isinstance(self.origin, Path):
            return _read(self.origin, wire.E4E)
        with torch.device("meta"):
            return _zeros(Encoder4Editing(self.sizes["num_latents"]), "encoder.")

    def _feature_editor(self) -> Weights:
        if isinstance(self.origin, Path):
            network = self.origin / wire.FEATURES.name
            version = model_repository.newest_version(network)
            return read_feature_weights(network / str(version)) if version else {}
        with torch.device("meta"):
            inverter, editor = Inverter(self.sizes["num_latents"]), FeatureFuser()
        average = np.zeros(self.sizes["w_dim"], np.float32)
        return {**_zeros(inverter, "inverter."), **_zeros(editor, "editor."), "w_avg": average}


def _read(folder: Path, model: wire.Model) -> Weights:
    """Read the parameters of a domain's network, nothing if the domain lacks it."""
    network = folder / model.name
    file = network / str(model_repository.newest_version(network)) / MODEL_FILE
    return weights.read_parameters(file) if file.is_file() else {}


def _zeros(module: torch.nn.Module, prefix: str = "") -> Weights:
    """Return zeros, which take no memory, of the shapes of the module's parameters."""
    return {
        prefix + name: np.broadcast_to(np.float32(0), tuple(tensor.shape))
        for name, tensor in module.state_dict().items()
    }


@torch.inference_mode()
def compile_for(
    folder: Path, networks: list[Networks], capability: int
) -> tuple[kernel_cache.KernelUse, set[str]]:
    """Compile what `folder` lacks of the networks' kernels into it, for GPUs of `capability`.

    Returns:
        How many kernels it had and how many were compiled; the C sources for launching them.
    """
    with tempfile.TemporaryDirectory() as cache:
        knobs.cache.dir = cache
        use = kernel_cache.use_prebuilt_kernels(folder)
        active = CompileOnlyDriver(capability)
        driver.set_active(active)
        for each in networks:
            each.launch(each.build())
        _launch_face_detector()
        for kernel in Path(cache).iterdir():
            _store_kernel(kernel, prebuilt.kernels_folder(folder) / kernel.name)
    return use, active.sources


def _launch_face_detector() -> None:
    """Launch the kernels of the face detector, of the predictor of 68 landmarks and of the crop,
    which are the same for all photos."""
    index = torch.empty(1, dtype=torch.int32, device="meta")
    axis = (index, index, torch.empty(1, dtype=torch.float64, device="meta"))
    photo = torch.empty(3, 8, 8, dtype=torch.uint8, device="meta")
    frames.draw_photos(torch.empty(1, frames.PLACE, dtype=torch.int64, device="meta"), 8)
    resize.resize(photo, axis, axis, index)
    features, mask = fhog.extract(photo, (index,) * 3, (index,) * 3, index, photo)
    side = WINDOW // CELL
    taps = filters.order_taps(torch.empty(5, len(features), side, side, device="meta"))
    filters.find_windows(features, mask, taps, torch.empty(5, device="meta"), 4)
    splits, coordinates = 15, 2 * 68
    shapes = torch.empty(1, coordinates, device="meta")
    cascade.run_level(
        torch.empty(1, cascade.PLACE, dtype=torch.int64, device="meta"),
        shapes,
        torch.empty(coordinates, 2, dtype=torch.float64, device="meta"),
        torch.empty(2, 1, splits, dtype=torch.int32, device="meta"),
        torch.empty(2, 2, 1, splits, device="meta"),
        torch.empty(1, splits, device="meta"),
        torch.empty(splits + 1, coordinates, device="meta"),
    )
    crop.crop(torch.empty(1, crop.PLACE + 6, dtype=torch.int64, device="meta"), wire.FACE_SIZE)


def _store_kernel(cached: Path, stored: Path) -> None:
    """Copy machine code and metadata, which is all that a launch reads, atomically."""
    stored.parent.mkdir(parents=True, exist_ok=True)
    partial_copy = Path(tempfile.mkdtemp(prefix=".part-", dir=stored.parent))
    for file in cached.iterdir():
        if file.suffix in (".cubin", ".json") and not file.name.startswith("__grp__"):
            (partial_copy / file.name).write_bytes(file.read_bytes())
    partial_copy.chmod(0o755)
    partial_copy.rename(stored)


def compile_modules(folder: Path, launchers: set[str]) -> int:
    """Compile the C modules that `folder` lacks into it: Triton's driver and the launchers.

    They need libcuda, which comes with a GPU's driver: they are linked with a stand-in for it.

    Returns:
        How many were compiled.
    """
    utils = (Path(nvidia.dirname) / "driver.c").read_text("utf-8")
    names = {utils: "cuda_utils"} | dict.fromkeys(launchers, "__triton_launcher")
    missing = {
        source: name
        for source, name in names.items()
        if not prebuilt.module_file(folder, source).is_file()
    }
    for source, name in missing.items():
        stored = prebuilt.module_file(folder, source)
        stored.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as build_folder:
            library = _libcuda_stub(source, Path(build_folder))
            file = Path(build_folder, f"{name}.c")
            file.write_text(source, "utf-8")
            module = kernel_cache.compile_module(
                name, str(file), build_folder, [build_folder], nvidia.include_dirs, [library]
            )
            stored.write_bytes(Path(module).read_bytes())
    return len(missing)


def _libcuda_stub(source: str, folder: Path) -> str:
    """Compile a library with the functions of libcuda that `source` calls; return its name."""
    library = "libcuda.so.1"
    functions = sorted(set(re.findall(r"\bcu[A-Z]\w*(?=\()", source)))
    file = folder / "libcuda.c"
    file.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in functions), "utf-8")
    compiled = kernel_cache.compile_module(
        "libcuda", str(file), str(folder), [], [], [], [f"-Wl,-soname,{library}"]
    )
    Path(compiled).rename(folder / library)
    return library


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--target", "targets", type=click.Choice([str(c) for c in SHARED_MEMORY]),
              multiple=True, default=TARGETS, help="Compute capability of a GPU.")  # fmt: skip
@click.option("--domain", "domains", type=click.Path(exists=True, path_type=Path), multiple=True,
              metavar="FOLDER", help="A domain's folder, for its networks.")  # fmt: skip
@click.option("--resolution", "resolutions", type=click.Choice(["256", "512", "1024"]),
              multiple=True, help="Published networks of this size: StyleGAN2 config F and e4e "
              "(ffhq has 1024).")  # fmt: skip
def command(
    folder: Path, targets: tuple[str, ...], domains: tuple[Path, ...], resolutions: tuple[str, ...]
) -> None:
    """Compile into FOLDER what it lacks of the GPU kernels of `--networks torch`.

    Serve with STYLECLIP_KERNELS=FOLDER. The kernels are found by the Triton that compiled them, the
    modules that launch them by the same version of Python.
    """
    networks = [*map(Networks, domains), *(Networks(int(each)) for each in resolutions)]
    if not networks:
        raise click.UsageError("name networks by --domain or --resolution")
    launchers = set()
    # Triton keeps one kernel for each device, not for each target: a process for every target.
    with multiprocessing.get_context("spawn").Pool(
        min(len(targets), os.cpu_count() or 1), maxtasksperchild=1
    ) as pool:
        results = pool.imap(partial(compile_for, folder, networks), map(int, targets), 1)
        for target, (use, sources) in zip(targets, results, strict=True):
            launchers |= sources
            click.echo(f"sm_{target}: {use}")
    click.echo(f"C modules: {compile_modules(folder, launchers)} compiled")
    prebuilt.add_to_manifest(
        folder, [each.sizes for each in networks], [int(target) for target in targets]
    )


if __name__ == "__main__":
    command(prog_name="python -m styleclip_server.kernels")
