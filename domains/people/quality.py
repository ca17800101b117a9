"""Measure the served people on rendered photos that training never drew, on a CPU.

python -m domains.people.render --first 1000000 --count 500 --out build/people/test   # on a GPU
python -m domains.people.quality            # --fidelity: only compare latent and features
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from domains.people.evaluation import (
    AttributeReader,
    EvaluationSet,
    evaluate_edit,
    evaluate_inversion,
    fidelity_test,
    read_test_set,
)
from domains.people.text_pairs import TEXT_PAIRS
from domains.training.fidelity_quality import write_comparison
from domains.training.served_networks import ServedNetworks
from domains.training.text_pairs import TextPair
from styleclip_contract.domain import Domain
from styleclip_contract.limits import FEATURES
from styleclip_server.serving.domain_folder import load_domain

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = ROOT / "model_repository/people"
FIDELITY_GRID = ROOT / "docs/people-features.jpg"


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
@click.option("--fidelity", is_flag=True, help="Compare latent and features; leave the rest.")
@click.option("--fidelity-count", default=60, help="Photos edited by both.")
@click.option("--grid", type=click.Path(path_type=Path), default=FIDELITY_GRID)
def main(
    photos: Path,
    folder: Path,
    classifier: Path,
    count: int,
    pairs: int,
    fidelity: bool,
    fidelity_count: int,
    grid: Path,
) -> None:
    """Write quality.json of the served people."""
    torch.manual_seed(0)
    start = time.monotonic()
    networks, reader = ServedNetworks(folder), AttributeReader(classifier)
    domain, out = load_domain(folder), folder / "quality.json"
    test = read_test_set(photos, fidelity_count if fidelity else count, networks, folder)
    if fidelity:
        report = json.loads(out.read_text("utf-8"))
    else:
        report = evaluate(networks, reader, test, domain, TEXT_PAIRS[:pairs])
    if FEATURES in domain.fidelities:
        compared = fidelity_test(reader, test, fidelity_count)
        report["fidelity"] = write_comparison(networks, compared, TEXT_PAIRS[:pairs], domain, grid)
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{out} written after {time.monotonic() - start:.0f} s", flush=True)


def evaluate(
    networks: ServedNetworks,
    reader: AttributeReader,
    test: EvaluationSet,
    domain: Domain,
    pairs: Sequence[TextPair],
) -> dict[str, Any]:
    """Measure inversion and edits by latent."""
    start = time.monotonic()
    inversion = evaluate_inversion(networks, reader, test)
    print(json.dumps(inversion, indent=1), flush=True)
    results = []
    for pair in pairs:
        result = evaluate_edit(networks, reader, test, pair, domain.strength, domain.threshold)
        texts = {"neutral": pair.neutral, "target": pair.target, "in_captions": pair.in_captions}
        results.append(texts | result)
        figures = " ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in result.items()
        )
        print(f"{time.monotonic() - start:6.0f} s  {pair.target:40s} {figures}", flush=True)
    return {
        "photos": test.photos,
        "strength": domain.strength,
        "threshold": domain.threshold,
        "inversion": inversion,
        "pairs": results,
    }


if __name__ == "__main__":
    main()
