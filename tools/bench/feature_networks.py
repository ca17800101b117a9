"""Edits of features on a GPU: the networks of StyleFeatureEditor in milliseconds.

    python -m tools.bench.feature_networks

Published sizes (1024 px, random weights: speed does not depend on them) and the shipped `people`,
as `--networks torch` runs them: in float16, as CUDA graphs. A row is the median time over different
inputs, by CUDA events after a warm-up, and the PSNR against the networks in float32 PyTorch, of
images or of features. `--profile` lists the kernels. `--device cpu --small` tries the program
without a GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from styleclip_export.convert.feature_wrappers import FaceToFeatures, FeaturesToImage
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_networks.stylegan2 import Generator, feature_channels
from styleclip_server.engines.cuda.cuda_graphs import Graphed
from styleclip_server.engines.cuda.feature_editor import CudaFeatureEditor
from styleclip_server.engines.cuda.stylegan2 import CudaGenerator
from tools.bench.gpu_networks import EXAMPLES, cuda_ms, psnr, wall_ms
from tools.bench.networks_from_onnx import read_feature_networks

ROOT = Path(__file__).resolve().parents[2]
BATCHES = (1, 8)
# Milliseconds of a call of batch 1 that the project aims at, at 1024 px.
TARGETS = {"edit, features": 1.5, "inversion": 6.0}

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class References:
    """The two networks in float32, which also have the weights; `side` of a face in pixels."""

    first: FaceToFeatures
    second: FeaturesToImage
    side: int = 256

    @property
    def generator(self) -> Generator:
        return self.second.generator

    def example(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw faces, latents and offsets in StyleSpace."""
        g = self.generator
        device = g.input.input.device
        face = torch.rand(batch, 3, self.side, self.side, device=device) * 2 - 1
        z = torch.randn(batch * g.num_latents, g.w_dim, device=device)
        delta = 0.1 * torch.randn(batch, sum(g.style_channels), device=device)
        return face, g.mapping(z).unflatten(0, (batch, -1)), delta

    def build(self) -> CudaFeatureEditor:
        """Build the networks as they are served."""
        device = self.generator.input.input.device
        weights = {
            name: value.cpu().numpy()
            for module in (self.first, self.second)
            for name, value in module.state_dict().items()
        }
        return CudaFeatureEditor(weights, CudaGenerator(weights, device))


def build_published(small: bool = False) -> References:
    """Build networks of the published sizes with random weights, or small ones."""
    torch.manual_seed(0)
    if small:
        generator = Generator(64, feature_channels(64, 256, 16))
        inverter = Inverter(generator.num_latents, (8, 8, 8, 8), (1, 1, 1, 1), 16, 1)
        editor, side = FeatureFuser(16, 1), 64
    else:
        generator, inverter, editor, side = Generator(1024), Inverter(), FeatureFuser(), 256
    for module in (generator, inverter, editor):
        module.eval().requires_grad_(False)
    w_avg = torch.zeros(generator.num_latents, generator.w_dim)
    first = FaceToFeatures(inverter, editor, generator, w_avg)
    return References(first, FeaturesToImage(editor, generator), side)


def read_shipped(folder: Path) -> References:
    """Read the networks of a domain."""
    return References(*read_feature_networks(folder))


@torch.inference_mode()
def measure(
    name: str, references: References, repeat: int, device: torch.device
) -> list[tuple[str, ...]]:
    """Measure latent edits, edits of features and inversions; return the table's rows."""
    editor = references.build()
    first, second = references.first, references.second
    latent, edit, invert = (
        Graphed(call, device) for call in (editor.generator, editor.edit, editor.invert)
    )
    timed = cuda_ms if device.type == "cuda" else wall_ms
    rows = []
    for batch in BATCHES:
        examples = [references.example(batch) for _ in range(EXAMPLES)]
        kept = [tuple(x.clone() for x in editor.invert(f, w)) for f, w, _ in examples]
        edits = [(w, d, *k) for (_, w, d), k in zip(examples, kept, strict=True)]
        face, w_plus, delta = examples[-1]
        expected = second(w_plus, delta, *first(face, w_plus))
        features = first(face, w_plus)[1].permute(0, 2, 3, 1)
        for what, call, inputs, accuracy in (
            ("edit, latent", latent, [(w, d) for _, w, d in examples], None),
            ("edit, features", edit, edits, psnr(editor.edit(*edits[-1]), expected)),
            ("inversion", invert, [(f, w) for f, w, _ in examples], psnr(kept[-1][1], features)),
        ):
            for each in inputs:
                call(*each)
            ms = statistics.median(timed(call, inputs[i % EXAMPLES]) for i in range(repeat))
            target = TARGETS.get(what) if batch == 1 and references.generator.resolution == 1024 \
                else None  # fmt: skip
            rows.append(
                (name, what, str(batch), f"{ms:.2f}", f"{ms / batch:.2f}",
                 "" if target is None else f"{target:g}",
                 "" if accuracy is None else f"{accuracy:.1f}")
            )  # fmt: skip
    return rows


@torch.inference_mode()
def profile(references: References, lines: int) -> str:
    """Return the kernels of an edit of features and of an inversion, those of most time first."""
    editor = references.build()
    face, w_plus, delta = references.example(1)
    kept = editor.invert(face, w_plus)
    calls = {
        "edit, features": lambda: editor.edit(w_plus, delta, *kept),
        "inversion": lambda: editor.invert(face, w_plus),
    }
    text = ""
    for what, call in calls.items():
        for _ in range(3):
            call()
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            call()
            torch.cuda.synchronize()
        averages = profiler.key_averages()
        table = averages.table(
            sort_by="self_device_time_total", row_limit=lines, max_name_column_width=90
        )
        launches = sum(event.count for event in averages if event.self_device_time_total)
        text += f"{what}: {launches} launches\n{table}\n"
    return text


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", "kind", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--small", is_flag=True, help="Tiny networks, to try the program.")
@click.option("--domain", type=click.Path(file_okay=False, path_type=Path),
              default=ROOT / "model_repository" / "people")  # fmt: skip
@click.option("--repeat", default=30, type=click.IntRange(1), help="Timed calls of each row.")
@click.option("--profile", "profile_lines", default=0, help="How many kernels to list.")
def main(kind: str, small: bool, domain: Path, repeat: int, profile_lines: int) -> None:
    """Measure edits of features in the networks of `--networks torch`."""
    if kind == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("PyTorch sees no GPU here; `--device cpu --small` tries it")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    console, device = Console(width=120), torch.device(kind)
    table = Table(box=None)
    for column in ("networks", "what", "batch", "ms", "ms each", "target", "dB"):
        table.add_column(column, justify="left" if column in ("networks", "what") else "right")
    cases = {"small" if small else "1024 px": lambda: build_published(small)}
    if not small:
        cases[domain.name] = lambda: read_shipped(domain)
    for name, build in cases.items():
        references = build()
        references.first.to(device), references.second.to(device)
        for row in measure(name, references, repeat, device):
            table.add_row(*row)
        if profile_lines:
            console.print(f"{name}\n{profile(references, profile_lines)}", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
