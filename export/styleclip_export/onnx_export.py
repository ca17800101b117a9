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
from styleclip_client import contract
from torch import Tensor, nn

from styleclip_export import onnx_forms
from styleclip_export.errors import ConversionError
from styleclip_export.models.clip import CLIP
from styleclip_export.models.e4e import Encoder4Editing
from styleclip_export.models.stylegan2 import Generator

OPSET = 17  # NVIDIA's containers and every ONNX Runtime since 1.12 read it
BATCHES = (1, 2, 8)


class FaceToLatent(nn.Module):
    """FACE_CROP (N, 3, 256, 256) → W_PLUS (N, L, 512): the encoder plus the average latent."""

    w_avg: Tensor | None

    def __init__(self, encoder: Encoder4Editing, w_avg: Tensor | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        # A buffer keeps its name in the file, by which it is read back.
        self.register_buffer("w_avg", w_avg)

    def forward(self, face: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            w_plus = onnx_forms.encode(self.encoder, face)
        else:  # what the file is compared with
            w_plus = self.encoder(face)
        return w_plus if self.w_avg is None else w_plus + self.w_avg


class LatentToPicture(nn.Module):
    """W_PLUS (N, L, 512), DELTA (N, S) → IMAGE (N, H, W, 3) uint8.

    [-1, 1] becomes 0 to 255, rounded: the whole range of the generator, as its official code
    writes pictures.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, w_plus: Tensor, delta: Tensor) -> Tensor:
        g = self.generator
        styles = [s + d for s, d in zip(g.affine(w_plus), g.split(delta), strict=True)]
        synthesis = onnx_forms.synthesis if torch.onnx.is_in_onnx_export() else Generator.synthesis
        picture = (synthesis(g, styles).clamp(-1, 1) + 1) * 127.5
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
        return self.clip.encode_text(tokens.long(), trim=True)


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
    model: contract.Model,
    example: Callable[[int], tuple[Tensor, ...]],
    bound: float,
    *,
    store_half: bool = False,
    batches: Sequence[int] = BATCHES,
) -> Exported:
    """`module` as ONNX with the tensor names of `model` and a dynamic batch.

    Args:
        example: batch size → random inputs.
        bound: largest allowed absolute difference from PyTorch, in the output's own units.
        store_half: keep weights in float16 (cast to float32 when loaded).

    Raises:
        ConversionError: ONNX Runtime differs from PyTorch by more than `bound`.
    """
    module.eval()
    names = [t.name for t in model.inputs], [t.name for t in model.outputs]
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of sizes that are constants by design
        torch.onnx.export(
            module,
            example(2),
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
    graph.producer_name, graph.producer_version = "styleclip-export", ""
    if store_half:
        halve(graph)
    data = graph.SerializeToString()
    compared = tuple(compare(data, module, model, example, batches))
    worst = max(c.largest for c in compared)
    if not worst <= bound:  # NaN fails too
        raise ConversionError(
            f"{model.name} as ONNX differs from PyTorch by {worst:.3g}, at most {bound:g} was "
            "expected; nothing was written"
        )
    return Exported(data, bound, compared)


def compare(
    data: bytes,
    module: nn.Module,
    model: contract.Model,
    example: Callable[[int], tuple[Tensor, ...]],
    batches: Sequence[int] = BATCHES,
) -> list[Comparison]:
    """Largest and mean difference between ONNX Runtime and `module` at each batch size."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    found = []
    for batch in batches:
        inputs = example(batch)
        with torch.no_grad():
            expected = module(*inputs).numpy().astype(np.float64)
        feed = {t.name: x.numpy() for t, x in zip(model.inputs, inputs, strict=True)}
        got = session.run(None, feed)[0].astype(np.float64)
        difference = np.abs(got - expected)
        found.append(Comparison(batch, float(difference.max()), float(difference.mean())))
    return found


def halve(graph: onnx.ModelProto, smallest: int = 1024) -> None:
    """Stores large float32 initialisers as float16, each followed by a Cast to float32.

    Raises:
        ConversionError: a weight is not exact enough in float16 (relative error above 1e-3, or
            overflow).
    """
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
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
    size = (contract.FACE_SIZE, contract.FACE_SIZE)
    return (nn.functional.interpolate(coarse, size=size, mode="bilinear"),)


def random_tokens(batch: int) -> tuple[Tensor, ...]:
    """TOKENS: texts of random length and words."""
    with seeded(batch):
        tokens = torch.zeros(batch, contract.TOKENS_PER_TEXT, dtype=torch.int32)
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
