"""Files that a checkpoint reader must refuse: malicious, oversized, nested, broken, other files."""

import bz2
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import torch

from checkpoint_files import (
    average,
    e4e,
    feature_editor,
    filled_clip,
    generator_state,
    rosinality,
)
from tools.parity.nvidia_pickles import EasyDict, Module, Network, ada, dumps, tensorflow

PROTOCOL = b"\x80\x04"


class DangerousCall:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dangerous_calls(mark):
    """Return calls that create the file `mark`, or that would help to."""
    return {
        "os.system": DangerousCall(os.system, f"touch {mark}"),
        "exec": DangerousCall(exec, f"open({str(mark)!r}, 'w')"),
        "eval": DangerousCall(eval, f"open({str(mark)!r}, 'w')"),
        "open": DangerousCall(open, str(mark), "w"),
        "getattr": DangerousCall(getattr, "x", "upper"),
        "import": DangerousCall(__import__, "os"),
        "np.load": DangerousCall(np.load, str(mark)),
        "torch.load": DangerousCall(torch.load, str(mark)),
        "type": DangerousCall(type, "X", (), {}),
    }


def torch_archive(pickled, entries=(), method=zipfile.ZIP_STORED):
    """Return a PyTorch archive with a pickle and further entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in entries:
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def torch_save(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def code_execution_files(mark):
    """Yield (name, reader, bytes) for each call in each kind of file with a pickle."""
    for name, value in dangerous_calls(mark).items():
        yield f"{name} in NVIDIA's pickle", "generator", dumps({"G_ema": value})
        yield f"{name} in a PyTorch file", "generator", torch_save({"g_ema": value})
        old = torch_save({"g_ema": value}, _use_new_zipfile_serialization=False)
        yield f"{name} in an old PyTorch file", "encoder", old
        code = [("code/__torch__.py", f"open({str(mark)!r}, 'w')")]
        yield (
            f"{name} in a TorchScript archive",
            "clip",
            torch_archive(pickle.dumps(value, 2), code),
        )
        yield f"{name} in S_mean_std", "moments", pickle.dumps([value, value])
        yield f"{name} in a direction", "direction", torch_save({"age": value})


def _opcodes(*parts):
    return PROTOCOL + b"".join(parts) + b"."


def _doubled(deepest=b"]", levels=60):
    """Return opcodes of a value whose repr would have 2**levels parts."""
    return deepest + b"2\x86" * levels


def _named(module, name):
    return f"c{module}\n{name}\n".encode()


def _persistent_id(kind):
    return b"(X\x07\0\0\0storage" + kind + b"X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"


def oversized_files():
    """Yield small pickles and archives that claim much memory or time."""
    yield "memo index of 4 billion", "generator", _opcodes(b"Nr\xff\xff\xff\xff")
    yield "byte string of 2**62", "generator", _opcodes(b"\x8e" + struct.pack("<Q", 1 << 62))
    yield "text of 2**62", "generator", _opcodes(b"\x8d" + struct.pack("<Q", 1 << 62))
    yield "number of 255 bytes as a shape", "generator", _shape(b"\x8a\xff" + b"\x7f" * 255)
    yield "half a million sets", "generator", _opcodes(b"\x8f" * 500_000)
    yield "a million steps", "generator", _opcodes(b"N0" * 500_000)
    wide = b"X\0\0\x08\0" + b"\xf0\x9f\x98\x80" + b"a" * ((1 << 19) - 4)
    yield "24 MB of texts", "generator", _opcodes(wide * 48)
    same_hash = [b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") for i in range(100_000)]
    collisions = b"}(" + b"N".join(same_hash) + b"Nu"
    yield "100,000 keys of one hash", "generator", _opcodes(collisions)
    dtype = _named("numpy", "dtype") + _doubled() + b"\x85R"
    yield "2**60 lists as a NumPy type", "generator", _opcodes(dtype)
    meta = b"}(X\x0a\0\0\0class_name" + _doubled() + b"X\x05\0\0\0state}u"
    persistent = _named("torch_utils.persistence", "_reconstruct_persistent_obj")
    inner = b"}X\x05\0\0\0G_ema" + persistent + meta + b"\x85Rs"
    yield "2**60 lists as a class's name", "generator", _opcodes(inner)
    yield (
        "2**60 lists as a storage's type",
        "clip",
        torch_archive(_opcodes(_persistent_id(_doubled()))),
    )
    many = b"{" + b",".join(b'"%d": {}' % i for i in range(500_000)) + b"}"
    yield "500,000 safetensors", "generator", struct.pack("<Q", len(many)) + many
    entry = b'"%d": {"dtype": "F32", "shape": [4096, 1024], "data_offsets": [0, 16777216]}'
    shared = b"{" + b",".join(entry % i for i in range(1_000)) + b"}"
    over = struct.pack("<Q", len(shared)) + shared + bytes(1 << 24)
    yield "1,000 safetensors over one another", "generator", over
    shared = torch_save(torch.zeros(2)._typed_storage(), _use_new_zipfile_serialization=False)
    load = b"B" + struct.pack("<I", len(shared)) + shared
    call = _named("torch.storage", "_load_from_bytes") + b"q\0" + load + b"\x85q\x01"
    yield "100,000 files in a file", "generator", _opcodes(call, b"R", b"0h\0h\x01R" * 100_000)
    modules = b"c__torch__\nM\n)R}b"  # each contains the previous one under 20 names
    for _ in range(11):
        names = b"".join(b"K" + bytes([i]) + b"h\0" for i in range(20))
        modules += b"q\x000c__torch__\nM\n)R}(" + names + b"ub"
    yield "modules within modules, 20**11", "clip", torch_archive(_opcodes(modules))
    yield "zip bomb as data.pkl", "encoder", torch_archive(bytes(1 << 28), (), zipfile.ZIP_DEFLATED)
    tensors = torch_archive(b"\x80\x02}.", [("data/0", bytes(1 << 20))], zipfile.ZIP_DEFLATED)
    yield "compressed tensors", "generator", tensors
    line = b"PK\x01\x02" + bytes(42)
    end = struct.pack("<4s4xHHIIH", b"PK\x05\x06", 65535, 65535, 46 * 65535, 4, 0)
    yield "archive of 65,535 entries", "clip", b"PK\x03\x04" + line * 65_535 + end
    table = b"".join(b"PK\x01\x02" + bytes(24) + b"\x08\0" + bytes(16) + b"%08d" % i
                     for i in range(500_000))  # fmt: skip
    yield "table of 500,000 entries", "clip", _long_archive(table, 500_000)
    yield "entries over one another", "clip", _overlapping()


def _shape(size):
    array = _named("numpy.core.multiarray", "_reconstruct") + b")R"
    dtype = _named("numpy", "dtype") + b"X\x02\0\0\0f4\x85R"
    return _opcodes(array, b"(K\x01", size + b"\x85", dtype, b"\x89C\x04\0\0\0\0tb")


def _long_archive(table, count):
    """Return a Zip64 archive, whose central directory may have any length."""
    start = 4
    end = start + len(table)
    long_end = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(table), start
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4xHHIIH", b"PK\x05\x06", 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return b"PK\x03\x04" + table + long_end + locator + last


def _overlapping():
    """Return 1,000 names for one entry of 1 MB, whose checksum would be computed as often."""
    data = torch_archive(b"\x80\x02N.", [("data/0", bytes(1 << 20))])
    start = data.rindex(b"PK\x01\x02")
    size, first = struct.unpack_from("<12xII", data[data.rindex(b"PK\x05\x06") :])
    line = data[start : first + size]
    new = data[first:start] + b"".join(
        line[:-4] + b"%04d" % i for i in range(1_000)
    )  # same length of name
    end = struct.pack("<4s4xHHIIH", b"PK\x05\x06", 1001, 1001, len(new), first, 0)
    return data[:first] + new + end


def nested_files():
    """Yield files that would overflow a recursive reader's stack."""
    deep = 400_000
    yield "400,000 nested lists", "generator", _opcodes(b"]" * deep, b"a" * (deep - 1))
    yield "200,000 nested tuples", "generator", _opcodes(b")", b"\x85" * 200_000)
    yield "nested tuples as a key", "generator", _opcodes(b"})", b"\x85" * 200_000, b"Ns")
    yield "nested tuples in a set", "generator", _opcodes(b"\x8f()", b"\x85" * 200_000, b"\x90")
    records = b"cargparse\nNamespace\n)R}X\x01\0\0\0a" * 20_000 + b"N" + b"sb" * 20_000
    value = b"}X\x04\0\0\0opts" + records + b"s"
    yield "20,000 nested records", "encoder", torch_archive(_opcodes(value))
    yield "200,000 marks", "clip", torch_archive(_opcodes(b"(" * 200_000))
    nested = b'{"a": ' + b"[" * 200_000
    yield "nested header of safetensors", "generator", struct.pack("<Q", len(nested)) + nested
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 9_000
    yield "nested header of an npy", "fs3", _npy(header)


def _npy(header):
    header = header.ljust(9_500) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header


def _rosinality(**changed):
    return torch_save(rosinality(generator_state() | changed))


def false_shape_files():
    """Yield complete files with false shapes or values, or with arrays of other networks."""
    state = generator_state()
    weight = "convs.1.conv.weight"
    thin = torch.zeros(1).expand(1, 8000, 8000, 3, 3)
    yield "stride 0: 2.3 GB of 4 bytes", "generator", _rosinality(**{weight: thin})
    most = torch.zeros(4_000_000)
    repeated = {f"more{i}": most for i in range(400)}
    yield "400 names for 16 MB", "generator", torch_save({"g_ema": state | repeated})
    yield "shape beyond its bytes", "generator", _shape(b"J\xff\xff\xff\x7f")
    yield "negative shape", "generator", _shape(b"J\xff\xff\xff\xff")
    yield "another width", "generator", _rosinality(**{weight: torch.zeros(1, 7, 16, 3, 3)})
    yield "one tensor more", "generator", _rosinality(more=torch.zeros(2))
    yield "NaN", "generator", _rosinality(**{weight: state[weight] * torch.nan})
    yield "infinity", "generator", ada(state | {"conv1.noise.weight": torch.tensor([torch.inf])},
                                       average())  # fmt: skip
    integers = {weight: state[weight].to(torch.int32)}
    yield "whole numbers", "generator", _rosinality(**integers)
    yield "complex numbers", "generator", _rosinality(**{weight: state[weight].cfloat()})
    yield (
        "another filter",
        "generator",
        _rosinality(**{"convs.0.conv.blur.kernel": torch.ones(4, 4)}),
    )
    yield "conditional network (PyTorch)", "generator", ada(state, average(), c_dim=10)
    yield (
        "conditional network (TensorFlow)",
        "generator",
        tensorflow(state, average(), label_size=10),
    )
    parts = {"synthesis": Module("SynthesisNetwork", (), {"input": Module("SynthesisInput")})}
    yield "StyleGAN3", "generator", dumps({"G_ema": Module("Generator", (), parts)})
    old = Network(variables=[], components={}, static_kwargs=EasyDict())
    yield "StyleGAN of 2019", "generator", dumps((old, old, old))
    yield "no G_ema", "generator", dumps({"G": None})
    resnet = {"visual.layer1.0.conv1.weight": torch.zeros(2)}
    yield "CLIP with a ResNet", "clip", torch_save(filled_clip().state_dict() | resnet)
    lacking = e4e()
    del lacking["latent_avg"]
    yield "e4e without its average", "encoder", torch_save(lacking)
    smaller = e4e()
    smaller["state_dict"] = {
        k: v for k, v in smaller["state_dict"].items() if not k.startswith("decoder.convs.7")
    }
    yield "e4e that lacks a layer", "encoder", torch_save(smaller)
    yield from _false_feature_editors()
    big = torch_archive(b"\x80\x02}.", [("byteorder", b"big")])
    yield "big-endian", "generator", big
    twice = io.BytesIO(torch_archive(b"\x80\x02}."))
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    yield "data.pkl twice", "generator", twice.getvalue()
    moments = [[np.ones(3, np.float32)], [np.ones(3, np.float32)]]
    yield "bytes after S_mean_std", "moments", pickle.dumps(moments) + b"more"
    yield "objects in an npy", "fs3", _saved_npy(np.array([[{}]]))
    yield "NaN in fs3.npy", "fs3", _saved_npy(np.full((2, 3), np.nan))
    claim = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 512)}"
    yield "npy that claims 2 PB", "fs3", _npy(claim)
    yield "negative deviations", "moments", pickle.dumps([[np.ones(2)], [-np.ones(2)]])
    yield "bzip2 bomb", "landmarks", bz2.compress(bytes.fromhex("010181888101") + bytes(1 << 27))
    yield "landmarks that are zeros", "landmarks", bz2.compress(bytes(1 << 20))
    yield "half of the landmarks", "landmarks", bytes.fromhex("010181888101") + bytes(1 << 20)


def _false_feature_editors():
    backbone, fuser = "inverter.fs_backbone.", "inverter.fuser."
    thin = torch.zeros(1).expand(16_000, 8, 3, 3)
    for name, changed in {
        "lacks a layer": {backbone + "content_layer.4.weight": None},
        "of other channels than its editor": {
            "encoder.conv.weight": torch.zeros(5, 10, 1, 1),
        },
        "stride 0": {backbone + "block_4.0.conv2.weight": thin},
        "an unknown weight": {fuser + "more": torch.zeros(2)},
        "NaN": {fuser + "conv.bias": torch.full((12,), torch.nan)},
        "10^9 latents": {backbone + f"styles.{10**9}.weight": torch.zeros(2, 2)},
        "19 latents": {backbone + f"styles.{i}.weight": torch.zeros(24, 270) for i in range(19)},
    }.items():
        content = feature_editor()
        state = content["state_dict"] | changed
        content["state_dict"] = {k: v for k, v in state.items() if v is not None}
        yield f"feature editor: {name}", "feature editor", torch_save(content)


def _saved_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


OTHER_FILES = {
    "empty": b"",
    "web page": b"<!DOCTYPE html><html>Quota exceeded</html>",
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "text": b"this is no checkpoint at all",
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "bzip2": bz2.compress(b"weights"),
    "other pickle": pickle.dumps({"weights": [1, 2, 3]}),
    "text pickle": pickle.dumps({"weights": [1, 2, 3]}, 0),
    "noise": bytes(range(150, 256)) * 20,
}


def other_files(valid):
    """Yield other files, broken files, and each valid file in the place of another kind."""
    for name, data in OTHER_FILES.items():
        for reader in ("generator", "encoder", "clip", "moments", "fs3", "landmarks"):
            yield f"{name} as {reader}", reader, data
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    yield "another zip", "clip", zipped.getvalue()
    for reader, paths in valid.items():
        for path in paths:
            valid = path.read_bytes()
            yield f"{path.name}, half of it", reader, valid[: len(valid) // 2]
            yield f"{path.name}, the last byte gone", reader, valid[:-1]
            if valid.startswith(b"PK"):  # the other formats have no checksum
                yield f"{path.name}, a byte changed", reader, _change_byte(path)
            for other in {"generator", "encoder", "clip", "moments", "fs3"} - {reader}:
                if path.name != "e4e.pt":
                    yield f"{path.name} as {other}", other, valid


def _change_byte(path):
    """Return an archive with another byte in the middle of its largest entry."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data, start = bytearray(path.read_bytes()), largest.header_offset
    name, extra = struct.unpack_from("<HH", data, start + 26)
    data[start + 30 + name + extra + largest.file_size // 2] ^= 0xFF
    return bytes(data)
