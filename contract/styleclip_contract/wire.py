"""The one typed source of model names, tensor names, shapes and dtypes.

Server steps, exporter, client and tests read it; every ``config.pbtxt`` is generated from it.
Shapes leave out the batch dimension; -1 is a dimension that depends on the domain or the request:
L latents (18 for 1024 px, 14 for 256 px), S StyleSpace channels over all modulations,
H x W pixels, E edits, C channels of CLIP's joint space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from styleclip_contract import limits

TOKENS_PER_TEXT = 77  # CLIP's context length
W_DIM = 512  # width of W and W+
CANARY = "canary"  # prefix of the request IDs of health checks
SHARED_MEMORY_PREFIX = "styleclip-client-"  # of the names of clients' regions in /dev/shm
FACE_SIZE = 256  # most encoders read square crops of this many pixels


@dataclass(frozen=True)
class Tensor:
    """A tensor on the wire: `datatype` is Triton's name, `shape` is without the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    description: str
    optional: bool = False


@dataclass(frozen=True)
class Model:
    """A model of the repository. `kind` is its Triton backend or "ensemble"."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


PHOTO = Tensor("PHOTO", "BYTES", (1,), "an encoded image (JPEG, PNG, WebP, …)")
ALIGN = Tensor(
    "ALIGN",
    "BOOL",
    (1,),
    "find and align a face; false: the photo is a face crop already",
    optional=True,
)
FACE = Tensor("FACE", "INT32", (1,), "which face, best first; -1: the largest", optional=True)
FACE_CROP = Tensor(
    "FACE_CROP",
    "FP32",
    (3, -1, -1),
    f"the aligned face, RGB, in [-1, 1]: {FACE_SIZE} x {FACE_SIZE} pixels, or the domain's "
    "`crop_size`",
)
CROP = Tensor("CROP", "BYTES", (1,), "FACE_CROP as a PNG file")
QUAD = Tensor(
    "QUAD",
    "FP32",
    (4, 2),
    "(x, y) corners of the crop in pixels of the upright photo: "
    "top-left, bottom-left, bottom-right, top-right",
)
FACES = Tensor(
    "FACES",
    "FP32",
    (-1, 5),
    "every face, best first: left, top, right, bottom in pixels of the upright photo, and the "
    "detector's score; computed only when requested",
)
SEED = Tensor("SEED", "INT64", (1,), "of a random latent, 0 to 2^32 - 1")
TRUNCATION = Tensor(
    "TRUNCATION",
    "FP32",
    (1,),
    f"ψ, 0 to 1 (default {limits.DEFAULT_TRUNCATION}): lower is more average",
    optional=True,
)
W_PLUS = Tensor("W_PLUS", "FP32", (-1, W_DIM), "the inverted latent, one row per layer")
TOKENS = Tensor("TOKENS", "INT32", (TOKENS_PER_TEXT,), "CLIP's token ids, zero-padded")
TEXT_FEATURES = Tensor("TEXT_FEATURES", "FP32", (-1,), "CLIP text features, not normalized")
NEUTRAL = Tensor("NEUTRAL", "BYTES", (-1,), "what the photo shows, one text per edit")
TARGET = Tensor("TARGET", "BYTES", (-1,), "what it should show, one text per edit")
STRENGTH = Tensor(
    "STRENGTH",
    "FP32",
    (-1,),
    "α, in units of channel standard deviations; of a named direction in its own unit",
)
THRESHOLD = Tensor("THRESHOLD", "FP32", (-1,), "β, relevance below which a channel stays")
NAMED_DIRECTION = Tensor(
    "DIRECTION",
    "BYTES",
    (-1,),
    "the name of a direction of the domain; empty: the edit is its two texts",
    optional=True,
)
DELTA = Tensor("DELTA", "FP32", (-1,), "offset in StyleSpace, the sum over the edits")
CHANNELS = Tensor("CHANNELS", "INT32", (-1,), "channels that each edit moves")
IMAGE = Tensor(
    "IMAGE",
    "UINT8",
    (-1, -1, -1),
    "the synthesized face, RGB (height, width, 3); `compose` also takes a JPEG file without "
    "metadata, its bytes as (1, length, 1)",
)
RENDER = Tensor(
    "RENDER",
    "UINT8",
    (-1, -1, -1),
    "IMAGE; the JPEG file where a request of one row asks for JPEG and not for PASTE",
)
PASTE = Tensor("PASTE", "BOOL", (1,), "put the face back into PHOTO at QUAD", optional=True)
FORMAT = Tensor(
    "FORMAT", "BYTES", (1,), f"{limits.DEFAULT_FORMAT} (default), PNG or WEBP", optional=True
)
QUALITY = Tensor(
    "QUALITY",
    "INT32",
    (1,),
    "{} to {}, JPEG and WebP (default {})".format(*limits.QUALITY, limits.DEFAULT_QUALITY),
    optional=True,
)
MARK = Tensor(
    "MARK", "BOOL", (1,), "write into the file that AI edited it (default true)", optional=True
)
KEEP_GPS = Tensor(
    "KEEP_GPS",
    "BOOL",
    (1,),
    "with PASTE: keep where PHOTO was taken (default false)",
    optional=True,
)
PICTURE = Tensor("PICTURE", "BYTES", (1,), "the encoded image")
FIDELITY = Tensor(
    "FIDELITY",
    "BYTES",
    (1,),
    f"{' or '.join(limits.FIDELITIES)} (default {limits.DEFAULT_FIDELITY}): what the face is "
    "synthesized from, one value for a batch; `edit` with `features` needs CROP",
    optional=True,
)

EDIT_INPUTS = (NEUTRAL, TARGET, STRENGTH, THRESHOLD, NAMED_DIRECTION)


def _optional(tensor: Tensor) -> Tensor:
    return replace(tensor, optional=True)


ALIGN_MODEL = Model("align", "python", (PHOTO, ALIGN, FACE), (FACE_CROP, QUAD, FACES))
E4E = Model("e4e", "onnxruntime", (FACE_CROP,), (W_PLUS,))
CLIP_TEXT = Model("clip_text", "onnxruntime", (TOKENS,), (TEXT_FEATURES,))
# DELTA depends on W_PLUS only where an edit is a latent mapper. W_PLUS also makes each ensemble one
# chain: Triton 2.51 leaks a request if one of its steps fails while another is running.
# CROP is ignored: Triton refuses an ensemble in which no step takes an input.
DIRECTION = Model(
    "direction",
    "python",
    (*EDIT_INPUTS, _optional(W_PLUS), FIDELITY, _optional(CROP)),
    (DELTA, CHANNELS),
)
STYLEGAN2 = Model("stylegan2", "onnxruntime", (W_PLUS, DELTA), (IMAGE,))
# The same run by PyTorch, which also encodes JPEG: processes that share a GPU take turns, so an
# encoder in another one would wait for their batches. The ensembles pass RENDER to `compose` as
# its IMAGE.
TORCH_STYLEGAN2 = Model(
    "stylegan2", "python", (W_PLUS, DELTA, PASTE, FORMAT, QUALITY), (IMAGE, RENDER)
)
COMPOSE = Model(
    "compose",
    "python",
    (
        *(IMAGE, _optional(PHOTO), _optional(QUAD)),
        *(PASTE, FORMAT, QUALITY, MARK, KEEP_GPS),
        *map(_optional, EDIT_INPUTS),  # for the metadata of the file
    ),
    (PICTURE,),
)
SAMPLE = Model("sample", "python", (SEED, TRUNCATION), (W_PLUS,))
INVERT = Model("invert", "ensemble", (PHOTO, ALIGN, FACE), (W_PLUS, QUAD))
EDIT = Model(
    "edit",
    "ensemble",
    (W_PLUS, *EDIT_INPUTS, FIDELITY, _optional(CROP), FORMAT, QUALITY, MARK),
    (PICTURE, CHANNELS),
)
EDIT_PHOTO = Model(
    "edit_photo",
    "ensemble",
    (PHOTO, ALIGN, FACE, *EDIT_INPUTS, FIDELITY, PASTE, FORMAT, QUALITY, MARK, KEEP_GPS),
    (PICTURE, CHANNELS),
)

# A domain that serves FIDELITY `features` has these in place of the models of the same names.
# Triton requests every output of a step in an ensemble, so each `invert` computes CROP.
FEATURE_ALIGN = replace(ALIGN_MODEL, outputs=(*ALIGN_MODEL.outputs, CROP))
FEATURE_INVERT = replace(INVERT, outputs=(*INVERT.outputs, CROP))
FEATURE_STYLEGAN2 = Model(
    "stylegan2",
    "python",
    (W_PLUS, DELTA, FIDELITY, _optional(CROP), _optional(FACE_CROP)),
    (IMAGE,),
)
# In PyTorch it edits features itself.
TORCH_FEATURE_STYLEGAN2 = replace(
    TORCH_STYLEGAN2, inputs=(*TORCH_STYLEGAN2.inputs, *FEATURE_STYLEGAN2.inputs[2:])
)
# On a CPU its `stylegan2` calls this one.
FEATURES = Model(
    "features", "python", (W_PLUS, DELTA, _optional(CROP), _optional(FACE_CROP)), (IMAGE,)
)

ENSEMBLES = (INVERT, EDIT, EDIT_PHOTO)
STEPS = (ALIGN_MODEL, DIRECTION, COMPOSE, SAMPLE, *ENSEMBLES)
NETWORKS = (E4E, CLIP_TEXT, STYLEGAN2)
MODELS = {model.name: model for model in (*STEPS, *NETWORKS)}
FEATURE_MODELS = {
    model.name: model for model in (FEATURE_ALIGN, FEATURE_INVERT, FEATURE_STYLEGAN2, FEATURES)
}
