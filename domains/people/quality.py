"""Measure the served people on rendered photos that training never drew, on a CPU.

python -m domains.people.render --first 1000000 --count 500 --out build/people/test   # on a GPU
python -m domains.people.quality
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import torch

from domains.people.evaluation import (
    AttributeReader,
    evaluate_edit,
    evaluate_inversion,
    read_test_set,
)
from domains.people.text_pairs import TEXT_PAIRS
from domains.training.served_networks import ServedNetworks
from styleclip_server.serving.domain_folder import load_domain

DOMAIN = Path(__file__).resolve().parents[2] / "model_repository/people"


@click.command(context_settings={"show_default": True})
@click.option("--photos", type=click.Path(path_type=Path), default=Path("build/people/test"))
@click.option("--domain", "folder", type=click.Path(path_type=Path), default=DOMAIN)
@click.option(
    "--classifier",
    type=click.Path(path_type=Path),
    default=Path("runs/people/classifier.pt"),
    help="Of the stage `classifier`.",
)
@click.option("--count", default=500, help="Photos.")
@click.option("--pairs", default=len(TEXT_PAIRS), help="Text pairs.")
def main(photos: Path, folder: Path, classifier: Path, count: int, pairs: int) -> None:
    """Write quality.json of the served people."""
    torch.manual_seed(0)
    start = time.monotonic()
    networks, reader = ServedNetworks(folder), AttributeReader(classifier)
    domain = load_domain(folder)
    test = read_test_set(photos, count, networks, folder)
    inversion = evaluate_inversion(networks, reader, test)
    print(json.dumps(inversion, indent=1), flush=True)
    results = []
    for pair in TEXT_PAIRS[:pairs]:
        result = evaluate_edit(networks, reader, test, pair, domain.strength, domain.threshold)
        texts = {"neutral": pair.neutral, "target": pair.target, "in_captions": pair.in_captions}
        results.append(texts | result)
        figures = " ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in result.items()
        )
        print(f"{time.monotonic() - start:6.0f} s  {pair.target:40s} {figures}", flush=True)
    report = {
        "photos": test.photos,
        "strength": domain.strength,
        "threshold": domain.threshold,
        "inversion": inversion,
        "pairs": results,
    }
    out = folder / "quality.json"
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{out} written after {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
