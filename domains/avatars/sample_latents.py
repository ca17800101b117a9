"""Sample labeled latents of avatars, for `styleclip-export directions fit`.

Usage: `python -m domains.avatars.sample_latents`, on a CPU. Avatars are rendered and inverted as a
photo would be, and the classifier labels what the generator draws from the latent.
"""

from __future__ import annotations

import csv
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from domains.avatars.attributes import NAMES, TABLE
from domains.avatars.renders import render, sample_labels
from domains.training.checkpoints import load_weights
from domains.training.classifier import Classifier
from domains.training.served_networks import ServedNetworks

HERE = Path(__file__).parent
DOMAIN = HERE.parents[1] / "model_repository/avatars"
BATCH = 50
SEED = 20_263

# Column → attribute, the values that have it and those that lack it; others are left empty.
COLUMNS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "smile": ("mouth", ("smile",), ("sad", "serious")),
    "beard": ("facial_hair", ("short beard", "long beard"), ("none",)),
    "glasses": ("accessories", ("round glasses", "square glasses"), ("none",)),
    "long_hair": ("top", ("long", "bob"), ("bald", "short", "shaggy")),
}


def label(read: Tensor, column: str) -> list[str]:
    """Return "1", "0" or "" for each avatar.

    Args:
        read: values (N, attributes), as the classifier sees them.
    """
    name, having, lacking = COLUMNS[column]
    attribute = TABLE[name]
    texts = dict.fromkeys(map(attribute.index, having), "1")
    texts |= dict.fromkeys(map(attribute.index, lacking), "0")
    return [texts.get(value, "") for value in read[:, NAMES.index(name)].tolist()]


@click.command()
@click.option("--count", default=900, show_default=True, help="Avatars.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/avatars/latents"))
def main(count: int, out: Path) -> None:
    """Write OUT.npy, the latents, and OUT.csv, a row of labels for each."""
    networks, classifier = ServedNetworks(DOMAIN), Classifier(TABLE).eval()
    if not load_weights(classifier, HERE / "classifier.pt"):
        raise FileNotFoundError(HERE / "classifier.pt")
    classifier.float()
    labels = sample_labels(count, torch.Generator().manual_seed(SEED)).numpy()
    latents, read = [], []
    for rows in np.array_split(labels, max(1, count // BATCH)):
        images = np.stack([np.asarray(render(row)) for row in rows])
        latents.append(networks.invert(images))
        drawn = torch.from_numpy(networks.reconstruct(latents[-1]))
        with torch.no_grad():
            read.append(TABLE.strongest(classifier(drawn.permute(0, 3, 1, 2).float() / 127.5 - 1)))
        print(f"{sum(map(len, read))} of {count}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.save(out.with_suffix(".npy"), np.concatenate(latents))
    values = torch.cat(read)
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(zip(*(label(values, column) for column in COLUMNS), strict=True))


if __name__ == "__main__":
    main()
