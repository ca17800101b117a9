"""Compares a running server with the PyTorch networks of the same checkpoints.

    make serve DOMAIN=ffhq ARGS="--networks cpu"    # float32; other engines round
    python -m tools.parity.compare_served ffhq

One photo (a public-domain one of scikit-image by default) goes through the server's `invert`,
`direction` and `stylegan2`, and through alignment, encoder, CLIP and generator in PyTorch: the
largest and the mean error of W_PLUS, DELTA and IMAGE. Exit status 1 if one exceeds its bound.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import numpy as np
import skimage
import torch
import tritonclient.grpc as triton
from PIL import Image
from rich.console import Console
from rich.table import Table
from tritonclient.utils import InferenceServerException

from styleclip_contract import wire
from styleclip_contract.edits import Edit
from styleclip_export.checkpoints.domain_files import DomainFiles, read_domain
from styleclip_export.convert.wrappers import FaceToLatent
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.alignment import Aligner
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving.domain_folder import load_domain
from tools.triton_client import infer

# Largest absolute errors of float32; W+ and DELTA have standard deviations of about 1, IMAGE has
# levels from 0 to 255.
BOUNDS = {"W_PLUS": 2e-4, "DELTA": 1e-4, "IMAGE": 1.0}
TIMEOUT = 300  # seconds

Arrays = dict[str, np.ndarray]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("domain", default="ffhq")
@click.option("--server", default="localhost:8001", help="gRPC address.")
@click.option("--weights", type=click.Path(path_type=Path), help="[default: weights/DOMAIN]")
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--neutral", default="a face")
@click.option("--target", default="a smiling face")
@click.option("--strength", default=3.0)
@click.option("--threshold", default=0.05)
def main(
    domain: str, server: str, weights: Path | None, repository: Path, photo: Path | None,
    neutral: str, target: str, strength: float, threshold: float,
) -> None:  # fmt: skip
    """Compare a running server of DOMAIN with PyTorch."""
    image = Image.open(photo).convert("RGB") if photo else Image.fromarray(skimage.data.astronaut())
    edit = Edit(neutral, target, strength, threshold)
    try:
        served = run_served(server, image, edit)
    except InferenceServerException as error:
        raise click.ClickException(f"{server}: {error.message()}") from None
    expected = run_pytorch(weights or Path("weights") / domain, repository / domain, image, edit)
    table = Table("tensor", "largest error", "mean error", "bound", "", box=None)
    failed = False
    for name, bound in BOUNDS.items():
        error = np.abs(served[name].astype(np.float64) - expected[name])
        bad = not error.max() <= bound
        failed |= bad
        numbers = (f"{error.max():.3g}", f"{error.mean():.3g}", f"{bound:g}")
        table.add_row(name, *numbers, "FAIL" if bad else "ok")
    Console().print(table)
    if failed:
        raise SystemExit(1)


def run_served(server: str, image: Image.Image, edit: Edit) -> Arrays:
    """Run the server's steps one after the other.

    Returns:
        W_PLUS (L, 512) float32, DELTA (S,) float32 and IMAGE (H, W, 3) uint8.
    """
    client = triton.InferenceServerClient(server)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    tensors: dict[str, Any] = {
        "PHOTO": [[buffer.getvalue()]],
        "NEUTRAL": [[edit.neutral.encode()]],
        "TARGET": [[edit.target.encode()]],
        "STRENGTH": [[edit.strength]],
        "THRESHOLD": [[edit.threshold]],
    }
    for model in (wire.INVERT, wire.DIRECTION, wire.STYLEGAN2):
        tensors |= infer(client, model, tensors, timeout=TIMEOUT)
    return {name: tensors[name][0] for name in BOUNDS}


@torch.no_grad()
def run_pytorch(weights: Path, folder: Path, image: Image.Image, edit: Edit) -> Arrays:
    """Compute the same in PyTorch.

    Args:
        weights: folder of the checkpoints.
        folder: the domain's folder, for its statistics.
    """
    networks = read_domain(DomainFiles.find(weights))
    generator = networks.generator.eval()
    face, _ = Aligner(folder).align(image.convert("RGB"))
    crop = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert networks.encoder, "the domain edits no photos"
    w_plus = FaceToLatent(networks.encoder.eval(), networks.w_avg)(crop)

    def embedding(text: str) -> np.ndarray:
        (class_embedding,) = directions.class_embeddings(
            [text], lambda tokens: networks.clip.encode_text(torch.from_numpy(tokens)).numpy()
        )
        return class_embedding  # type: ignore[no-any-return]

    statistics = load_statistics(folder, load_domain(folder).style_channels)
    delta, _ = directions.style_offset(statistics, [edit], embedding)
    offsets = generator.split_styles(torch.from_numpy(delta)[None])
    pairs = zip(generator.affine(w_plus), offsets, strict=False)
    image_tensor = generator.synthesis([style + offset for style, offset in pairs])
    output = image_tensor.clamp(-1, 1)[0].permute(1, 2, 0)
    pixels = ((output + 1) * 127.5).round().numpy()
    return {"W_PLUS": w_plus[0].numpy(), "DELTA": delta, "IMAGE": pixels}


if __name__ == "__main__":
    main()
