"""Write the quality report of the served avatars: quality.json, model card, grid of edits.

Usage: `python -m domains.avatars.quality`, on a CPU; with `--choose` it first chooses α and β, with
`--fidelity` it only compares edits by latent and by features.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import torch

from domains.avatars.evaluation import (
    AttributeReader,
    EvaluationSet,
    choose_parameters,
    draw_test_set,
    evaluate_edit,
    evaluate_inversion,
    fidelity_test,
)
from domains.avatars.quality_report import save_grid, write_card
from domains.avatars.text_pairs import TEXT_PAIRS
from domains.training.fidelity_quality import write_comparison
from domains.training.served_networks import ServedNetworks
from styleclip_contract.domain import Domain
from styleclip_contract.limits import FEATURES
from styleclip_server.serving.domain_folder import load_domain

HERE = Path(__file__).parent
DOMAIN = HERE.parents[1] / "model_repository/avatars"
LAYERS = Path("build/avatars/layers.npz")
TEST_SEED, CHOICE_SEED = 20_261, 20_262
CHOICE_COUNT = 24
FIDELITY_GRID = HERE.parents[1] / "docs/avatars-features.jpg"


@click.command()
@click.option("--choose", is_flag=True, help="Choose α and β, then stop.")
@click.option("--fidelity", is_flag=True, help="Compare latent and features; leave the rest.")
@click.option("--count", default=500, show_default=True, help="Test avatars.")
@click.option("--fidelity-count", default=60, show_default=True, help="Of those, edited by both.")
@click.option("--out", type=click.Path(path_type=Path), default=DOMAIN / "quality.json")
def main(choose: bool, fidelity: bool, count: int, fidelity_count: int, out: Path) -> None:
    """Write the quality report of the served avatars."""
    torch.manual_seed(0)
    networks, reader = ServedNetworks(DOMAIN), AttributeReader(HERE / "classifier.pt", LAYERS)
    if choose:
        test = draw_test_set(min(count, CHOICE_COUNT), CHOICE_SEED, networks, reader)
        strength, threshold = choose_parameters(networks, reader, test)
        print(f"chosen: α {strength:g}, β {threshold:g}; put them into presets.py")
        return
    start = time.monotonic()
    domain = load_domain(DOMAIN)
    test = draw_test_set(fidelity_count if fidelity else count, TEST_SEED, networks, reader)
    if fidelity:
        report = json.loads(out.read_text("utf-8"))
    else:
        report = evaluate(networks, reader, test, domain)
        save_grid(networks, test, domain.strength, domain.threshold)
    if FEATURES in domain.fidelities:
        compared = fidelity_test(reader, test, fidelity_count)
        report["fidelity"] = write_comparison(networks, compared, TEXT_PAIRS, domain, FIDELITY_GRID)
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_card(report)
    print(f"{out} written after {time.monotonic() - start:.0f} s", flush=True)


def evaluate(
    networks: ServedNetworks, reader: AttributeReader, test: EvaluationSet, domain: Domain
) -> dict[str, Any]:
    """Measure inversion and edits by latent."""
    start = time.monotonic()
    strength, threshold = domain.strength, domain.threshold
    inversion = evaluate_inversion(networks, reader, test)
    print(json.dumps(inversion, indent=1), flush=True)
    results = []
    for pair in TEXT_PAIRS:
        result = evaluate_edit(networks, reader, test, pair, strength, threshold)
        texts = {"neutral": pair.neutral, "target": pair.target, "in_captions": pair.in_captions}
        results.append(texts | result)
        print(
            f"{time.monotonic() - start:6.0f} s  {pair.target:40s} hit {result['hit']:.3f} "
            f"kept {result['kept']:.3f} worst {result['worst']:.3f} "
            f"clean {result['clean']:.1f} dB removed {result['removed']:.3f}",
            flush=True,
        )
    return {
        "avatars": len(test.images),
        "strength": strength,
        "threshold": threshold,
        "inversion": inversion,
        "pairs": results,
    }


if __name__ == "__main__":
    main()
