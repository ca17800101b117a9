"""Small checkpoints of every published layout, filled by the golden rule."""

import io
import json
import pickle
import struct

import numpy as np
import torch

from small_networks import small_clip, small_encoder
from styleclip_export.verify.fill import fill
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_networks.stylegan2 import Generator
from tools.parity.nvidia_pickles import ada, tensorflow

CHANNELS = {4: 20, 8: 16, 16: 12, 32: 8, 64: 6}
W_DIM = 24


def filled(network):
    """Return the state filled by the golden rule; what the rule leaves out stays as it is."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return state | {name: torch.from_numpy(value) for name, value in fill(shapes).items()}


def generator_state():
    return filled(Generator(64, CHANNELS, W_DIM, mapping_layers=3))


def encoder_state():
    return filled(small_encoder(10, W_DIM, widths=(4, 6, 8, 12), style_width=8))


def average():
    return torch.linspace(-1, 1, W_DIM)


def rosinality(state):
    """Return what rosinality's training saves."""
    optimizer = {"state": {0: {"step": 1}}}
    return {"g": {}, "g_ema": state, "latent_avg": average(), "g_optim": optimizer}


def e4e_checkpoint(encoder, decoder, latent_avg, options):
    """Return what e4e's training saves, from two state_dicts."""
    state = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    return {"state_dict": state, "latent_avg": latent_avg, "opts": options}


def e4e(options=None):
    """Return a small checkpoint of e4e."""
    latents = torch.linspace(-1, 1, 10 * W_DIM).reshape(10, W_DIM)
    options = options or {"device": "cuda"}
    return e4e_checkpoint(encoder_state(), generator_state(), latents, options)


def small_feature_editor():
    """Build inverter and feature editor of a generator of 64 px."""
    sizes = {"widths": (4, 6, 8, 12), "depths": (1, 2, 1, 1), "feature_channels": 12}
    return Inverter(10, **sizes, fuser_units=2, w_dim=W_DIM), FeatureFuser(12, units=3)


def feature_editor():
    """Return what StyleFeatureEditor's training saves."""
    inverter, editor = small_feature_editor()
    state = {f"encoder.{k}": v for k, v in filled(editor).items()}
    state |= {f"inverter.{k}": v for k, v in filled(inverter).items()}
    return {"state_dict": state | {"discriminator.b4.fc.weight": torch.zeros(3)}}


def filled_clip():
    """Build a small CLIP with a ViT image tower, filled."""
    clip = small_clip(
        vision_layers=2, text_layers=3, text_width=128, transformer_heads=2, image_resolution=48,
        vision_patch_size=16, context_length=12, vocab_size=2000,
    )  # fmt: skip
    clip.load_state_dict(filled(clip))
    return clip


def scripted_clip():
    """Script a CLIP as OpenAI did: float16, and three numbers beside the weights."""
    clip = filled_clip()
    for name, value in {"input_resolution": 48, "context_length": 12, "vocab_size": 2000}.items():
        clip.register_buffer(name, torch.tensor(value))
    tokens = torch.zeros(2, 12, dtype=torch.long)
    clip.forward = clip.encode_text
    clip = clip.half()
    return torch.jit.trace(clip, tokens, check_trace=False), clip.state_dict()


def style_samples():
    """Return StyleCLIP's S: (N, C) for each modulation."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((7, c)).astype(np.float32) for c in (5, 3)]


def safetensors(tensors, **metadata):
    """Return the bytes of tensors by name as huggingface/safetensors writes them."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
    header, numbers = {"__metadata__": metadata}, io.BytesIO()
    for name, tensor in tensors.items():
        start = numbers.tell()
        numbers.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, numbers.tell()],
        }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers.getvalue()


def write_all(folder):
    """Write valid files into `folder`; return those for each reader of `hostile_files.readers`."""
    state = generator_state()
    torch.save(rosinality(state), folder / "rosinality.pt")
    torch.save(rosinality(state), folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "tensorflow.pkl").write_bytes(tensorflow(state, average()))
    (folder / "ada.pkl").write_bytes(ada(state, average()))
    (folder / "g.safetensors").write_bytes(safetensors(state))
    torch.save(e4e(), folder / "e4e.pt")
    torch.save(feature_editor(), folder / "sfe.pt")
    scripted_clip()[0].save(str(folder / "scripted.pt"))
    torch.save(filled_clip().state_dict(), folder / "clip.pt")
    samples = style_samples()
    moments = [[s.mean(0) for s in samples], [s.std(0) for s in samples]]
    (folder / "S_mean_std").write_bytes(pickle.dumps(moments))
    np.save(folder / "fs3.npy", np.ones((8, 4), np.float32))
    files = {
        "generator": [
            "rosinality.pt",
            "old.pt",
            "tensorflow.pkl",
            "ada.pkl",
            "e4e.pt",
            "g.safetensors",
        ],
        "encoder": ["e4e.pt"],
        "feature editor": ["sfe.pt"],
        "clip": ["scripted.pt", "clip.pt"],
        "moments": ["S_mean_std"],
        "fs3": ["fs3.npy"],
    }
    return {reader: [folder / name for name in names] for reader, names in files.items()}


def same_state(one, other):
    """Return whether two state_dicts have the same names and values."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in other)
