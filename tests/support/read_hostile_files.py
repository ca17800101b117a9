"""A program that reads hostile files in a process of its own.

    python tests/support/read_hostile_files.py FOLDER [--fuzz COUNT]

It prints one line of JSON for each file: the outcome, how long it took and by how much the
process's peak memory rose.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from checkpoint_files import write_all
from styleclip_export.checkpoints import (
    clip,
    dlib_landmarks,
    encoders,
    feature_editors,
    generators,
    styleclip_npy,
)
from styleclip_export.directions import files
from styleclip_export.errors import CheckpointError


def readers():
    """Return name → function that reads a path."""
    return {
        "generator": generators.read_generator,
        "encoder": encoders.read_encoder,
        "feature editor": feature_editors.read_feature_editor,
        "clip": clip.read,
        "moments": styleclip_npy.read_s_mean_std,
        "fs3": styleclip_npy.read_fs3,
        "direction": files.read,
        "landmarks": lambda path: dlib_landmarks.install(path, path.with_suffix(".placed")),
    }


def peak_memory():
    """Return the process's peak memory in bytes."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return int(line.split()[1]) * 1024


def read_outcome(read, path):
    """Read a file; return ("read", "") or (the error's class, its message)."""
    try:
        read(path)
    except CheckpointError as error:
        return "CheckpointError", str(error)
    except Exception as error:
        return type(error).__name__, str(error)
    return "read", ""


def fuzz(valid, count, seed):
    """Yield (reader, bytes) of valid files with up to eight changed bytes, some truncated."""
    rng = np.random.default_rng(seed)
    files = [(reader, path.read_bytes()) for reader, paths in valid.items() for path in paths]
    for i in range(count):
        reader, valid = files[i % len(files)]
        data = bytearray(valid)
        # Half of the changes are where the pickles and tables are: at both ends.
        for at in rng.integers(0, len(data), rng.integers(1, 9)):
            index = [at, at % 4096, len(data) - 1 - at % 4096][rng.integers(3)]
            data[max(0, min(index, len(data) - 1))] = rng.integers(256)
        yield reader, bytes(data[: rng.integers(len(data))] if i % 7 == 0 else data)


def main():
    """Read the files that the folder's index lists, or `--fuzz` changed ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fuzz", type=int, default=0)
    arguments = parser.parse_args()
    read = readers()
    torch.set_num_threads(1)
    if arguments.fuzz:
        valid = write_all(arguments.folder)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)
        changed = arguments.folder / "changed"
        cases = fuzz(valid, arguments.fuzz, seed=0)
    else:
        index = json.loads((arguments.folder / "index.json").read_text())
        cases = ((reader, arguments.folder / name) for reader, name in index)
    for reader, path in cases:
        if arguments.fuzz:
            changed.write_bytes(path)
            path = changed
        # 5 resets the peak; where the kernel refuses, it is the peak of all files so far.
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak_memory(), time.monotonic()
        error, line = read_outcome(read[reader], path)
        seconds, rise = time.monotonic() - start, peak_memory() - before
        outcome = {"error": error, "line": line, "seconds": seconds, "rise": rise}
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    sys.exit(main())
