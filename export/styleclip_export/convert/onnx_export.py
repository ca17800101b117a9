"""Networks to ONNX, each compared with PyTorch before anyone sees the file.

The wrappers hold what only serving needs (pixels as uint8, the average latent, trimming the
texts, the forms of `onnx_forms`), so that the networks read like their papers. Exported graphs
keep every weight as the checkpoint has it, without folded constants: ONNX Runtime folds when it
loads, and weights that are exact in float16 can be stored so (`store_half`) while all arithmetic
stays float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_export.convert import onnx_forms
from styleclip_export.errors import ConversionError
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator

OPSET = 17  # NVIDIA's containers and every ONNX Runtime since 1.12 read it
BATCHES = (1, 2, 8)


class FaceToLatent(nn.Module):
    """FACE_CROP (N, 3, 256, 256) → W_PLUS (N, L, 512): the encoder plus the average latent."""

    w_avg: Tensor | None
    onnxruntime_forms = True  # when exported in float32

    def __init__(self, encoder: Encoder4Editing, w_avg: Tensor | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        # A buffer keeps its name in the file, by which it is read back.
        self.register_buffer("w_avg", w_avg)

    def forward(self, face: Tensor) -> Tensor:
        dtype = self.encoder.latlayer1.weight.dtype
        if torch.onnx.is_in_onnx_export() and self.onnxruntime_forms and dtype == torch.float32:
            w_plus = onnx_forms.encode(self.encoder, face)
        else:  # what the file is compared with, and what a GPU computes
            w_plus = self.encoder(face)
        return w_plus if self.w_avg is None else w_plus + self.w_avg


class LatentToPicture(nn.Module):
    """W_PLUS (N, L, 512), DELTA (N, S) → IMAGE (N, H, W, 3) uint8.

    [-1, 1] becomes 0 to 255, rounded: the whole range of the generator, as its official code
    writes pictures. `dtype` is that of the synthesis' activations; S is always float32.
    """

    onnxruntime_forms = True  # when exported in float32

    def __init__(self, generator: Generator, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.generator = generator
        self.dtype = dtype

    def forward(self, w_plus: Tensor, delta: Tensor) -> Tensor:
        g = self.generator
        styles = [s + d for s, d in zip(g.affine(w_plus), g.split(delta), strict=True)]
        exported = torch.onnx.is_in_onnx_export() and self.onnxruntime_forms
        if exported and self.dtype == torch.float32:
            image = onnx_forms.synthesis(g, styles)
        else:  # what the file is compared with, and what a GPU computes
            image = g.synthesis(styles, self.dtype)
        picture = (image.clamp(-1, 1) + 1) * 127.5
        return picture.permute(0, 2, 3, 1).round().to(torch.uint8)


class TokensToFeatures(nn.Module):
    """TOKENS (N, 77) int32 → TEXT_FEATURES (N, D), reading only as far as the longest text.

    `vocabulary` (49408,) maps CLIP's token ids to the rows of a smaller embedding, in the same
    order, so that the end of a text stays its largest id.
    """

    table: Tensor | None

    def __init__(self, clip: CLIP, vocabulary: np.ndarray | None = None) -> None:
        super().__init__()
        self.clip = clip
        table = None if vocabulary is None else torch.from_numpy(vocabulary.astype(np.int32))
        self.register_buffer("table", table)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.table is not None:
            tokens = self.table[tokens.long()]
        dtype = self.clip.positional_embedding.dtype
        if torch.onnx.is_in_onnx_export() and dtype == torch.float32:
            return onnx_forms.encode_text(self.clip, tokens.long())
        # What the file is compared with, and what is exported in float16.
        return self.clip.encode_text(tokens.long(), trim=True).float()


@dataclass(frozen=True)
class Reference:
    """Random inputs of one batch size, and what PyTorch computes of them."""

    inputs: tuple[Tensor, ...]
    expected: np.ndarray

    @property
    def batch(self) -> int:
        return len(self.expected)


@dataclass(frozen=True)
class Comparison:
    """ONNX Runtime against PyTorch at one batch size."""

    batch: int
    largest: float
    mean: float


@dataclass(frozen=True)
class Exported:
    """A checked ONNX file in memory, and how near it is to PyTorch."""

    data: bytes
    bound: float
    comparisons: tuple[Comparison, ...]

    def provenance(self, **sources: Any) -> dict[str, Any]:
        """What is stored beside the file: where it comes from and how true it is."""
        return {
            **sources,
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "bound": self.bound,
            "errors": [asdict(c) for c in self.comparisons],
            "tools": {
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
        }


def export(
    module: nn.Module,
    model: wire.Model,
    example: Callable[[int], tuple[Tensor, ...]],
    bound: float,
    *,
    store_half: bool = False,
    batches: Sequence[int] = BATCHES,
    references: Sequence[Reference] | None = None,
) -> Exported:
    """`module` as ONNX with the tensor names of `model` and a dynamic batch.

    Args:
        example: batch size → random inputs.
        bound: largest allowed absolute difference from PyTorch, in the output's own units.
        store_half: keep weights in float16 (cast to float32 when loaded).
        references: what to compare with; None: `make_references` at each of `batches`.

    Raises:
        ConversionError: ONNX Runtime differs from PyTorch by more than `bound`.
    """
    module.eval()
    data = to_onnx(module, model, example(2), everything if store_half else nothing)
    references = references or make_references(module, example, batches)
    compared = tuple(compare(data, model, references))
    worst = max(c.largest for c in compared)
    if not worst <= bound:  # NaN fails too
        raise ConversionError(
            f"{model.name} as ONNX differs from PyTorch by {worst:.3g}, at most {bound:g} was "
            "expected; nothing was written"
        )
    return Exported(data, bound, compared)


def everything(_: str) -> bool:
    """Names of weights to store in float16: all."""
    return True


def nothing(_: str) -> bool:
    """Names of weights to store in float16: none."""
    return False


def to_onnx(
    module: nn.Module,
    model: wire.Model,
    inputs: tuple[Tensor, ...],
    stored_half: Callable[[str], bool],
) -> bytes:
    """`module` as an ONNX file; weights whose name is `stored_half` go through `halve`."""
    names = [t.name for t in model.inputs], [t.name for t in model.outputs]
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of sizes that are constants by design
        torch.onnx.export(
            module,
            inputs,
            buffer,  # type: ignore[arg-type]  # the tracing exporter writes to files, too
            input_names=names[0],
            output_names=names[1],
            dynamic_axes={name: {0: "batch"} for name in (*names[0], *names[1])},
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,
            # As the module is, so that batch norms are not fused into weights at export.
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    del buffer  # full-size e4e is 1.1 GB
    graph.producer_name, graph.producer_version = "styleclip-export", ""
    halve(graph, stored_half)
    return graph.SerializeToString()  # type: ignore[no-any-return]


@torch.no_grad()
def make_references(
    module: nn.Module,
    example: Callable[[int], tuple[Tensor, ...]],
    batches: Sequence[int] = BATCHES,
) -> list[Reference]:
    """What `module` computes of random inputs of each batch size, one row at a time: a batch of
    1024 px pictures would need gigabytes, and rows must not depend on their neighbours."""
    found = []
    for batch in batches:
        inputs = example(batch)
        rows = [module(*(x[i : i + 1] for x in inputs)) for i in range(batch)]
        found.append(Reference(inputs, torch.cat(rows).numpy()))
    return found


def run_onnx(data: bytes, model: wire.Model, references: Sequence[Reference]) -> Any:
    """What ONNX Runtime's CPU provider answers to each of `references`, one after the other."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # an arena keeps, and doubles, what a batch of 8 needed
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    for reference in references:
        feed = {t.name: x.numpy() for t, x in zip(model.inputs, reference.inputs, strict=True)}
        yield session.run(None, feed)[0]


def compare(data: bytes, model: wire.Model, references: Sequence[Reference]) -> list[Comparison]:
    """Largest and mean difference between ONNX Runtime and each of `references`."""
    found = []
    for reference, got in zip(references, run_onnx(data, model, references), strict=True):
        difference = np.abs(got.astype(np.float32) - reference.expected.astype(np.float32))
        mean = float(difference.mean(dtype=np.float64))
        found.append(Comparison(reference.batch, float(difference.max()), mean))
    return found


def halve(
    graph: onnx.ModelProto, chosen: Callable[[str], bool] = everything, smallest: int = 1024
) -> None:
    """Stores large float32 initialisers whose name is `chosen` as float16, each followed by a Cast
    to float32.

    Raises:
        ConversionError: a weight is not exact enough in float16 (relative error above 1e-3, or
            overflow).
    """
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or not chosen(tensor.name):
            continue
        array = numpy_helper.to_array(tensor)
        if array.size < smallest:
            continue
        half = array.astype(np.float16)
        scale = float(np.abs(array).max()) or 1.0
        if not np.abs(half.astype(np.float32) - array).max() <= 1e-3 * scale:
            raise ConversionError(f"{tensor.name} does not fit into float16; store float32")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.graph.node.insert(0, node)


@contextlib.contextmanager
def seeded(seed: int = 0) -> Any:
    """Random examples that are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_faces(batch: int) -> tuple[Tensor, ...]:
    """FACE_CROP: pictures of blurred noise in [-1, 1]."""
    with seeded(batch):
        coarse = torch.rand(batch, 3, 32, 32) * 2 - 1
    size = (wire.FACE_SIZE, wire.FACE_SIZE)
    return (nn.functional.interpolate(coarse, size=size, mode="bilinear"),)


def random_tokens(batch: int) -> tuple[Tensor, ...]:
    """TOKENS: texts of random length and words."""
    with seeded(batch):
        tokens = torch.zeros(batch, wire.TOKENS_PER_TEXT, dtype=torch.int32)
        for row in tokens:
            length = int(torch.randint(3, 20, ()))
            row[:length] = torch.randint(300, 40_000, (length,))
            row[0], row[length] = 49406, 49407
    return (tokens,)


def random_latents(
    generator: Generator, deviations: Tensor | None = None
) -> Callable[[int], tuple[Tensor, ...]]:
    """W_PLUS of the mapping network, and DELTA of one deviation (S,) in random directions."""

    def example(batch: int) -> tuple[Tensor, ...]:
        size = sum(generator.style_channels)
        with seeded(batch), torch.no_grad():
            w = generator.mapping(torch.randn(batch * generator.num_latents, generator.w_dim))
            delta = torch.randn(batch, size) * (0.1 if deviations is None else deviations)
        return w.reshape(batch, generator.num_latents, -1), delta

    return example


def sources(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each source file, for `provenance`."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
