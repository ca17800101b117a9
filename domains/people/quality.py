"""Measure the served people on rendered photos that training never drew, on a CPU.

python -m domains.people.quality            # --fidelity: only compare latent and features

A server is started; it aligns, inverts, edits and pastes. Writes quality.json, the tables of the
model card and a grid of edits. The photos, `photos/`, and the classifier,
`classifier.pt`, are beside this file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from domains.people.evaluation import (
    AttributeReader,
    EvaluationSet,
    Judgment,
    Pasting,
    apply_edit,
    evaluate_removal,
    fidelity_test,
    find_rows,
    judge_edit,
    judge_inversions,
    measure_groups,
    measure_samples,
    measure_seams,
    read_test_set,
    summarize_edit,
    summarize_inversions,
)
from domains.people.quality_report import save_grid, write_card
from domains.people.text_pairs import TEXT_PAIRS
from domains.training.fidelity_quality import write_comparison
from domains.training.served_networks import ServedNetworks
from domains.training.server_networks import ServerNetworks, serve
from domains.training.text_pairs import TextPair, find_edit
from styleclip_contract.domain import Domain
from styleclip_contract.limits import FEATURES
from styleclip_server.serving.domain_folder import load_domain

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = ROOT / "model_repository/people"
DOCUMENTS = ROOT / "docs"
HERE = Path(__file__).parent
_Path = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option("--photos", type=_Path, default=HERE / "photos", help="A folder of shards.")
@click.option("--domain", "folder", type=_Path, default=DOMAIN)
@click.option(
    "--classifier",
    type=_Path,
    default=HERE / "classifier.pt",
    help="Of the stage `classifier`.",
)
@click.option("--count", default=500, help="Photos, if there are so many.")
@click.option("--pairs", default=len(TEXT_PAIRS), help="Text pairs.")
@click.option("--pasted", default=8, help="Photos that each edit is pasted back into.")
@click.option("--fidelity", is_flag=True, help="Compare latent and features; leave the rest.")
@click.option("--fidelity-count", default=60, help="Photos edited by both.")
@click.option("--grids", type=_Path, default=DOCUMENTS, help="Folder of people-*.jpg.")
def main(
    photos: Path,
    folder: Path,
    classifier: Path,
    count: int,
    pairs: int,
    pasted: int,
    fidelity: bool,
    fidelity_count: int,
    grids: Path,
) -> None:
    """Write the quality report of the served people."""
    torch.manual_seed(0)
    start = time.monotonic()
    reader, domain, out = AttributeReader(classifier), load_domain(folder), folder / "quality.json"
    chosen = TEXT_PAIRS[:pairs]
    with serve(folder) as networks:
        if fidelity:
            report = json.loads(out.read_text("utf-8"))
        else:
            test, pasting = read_test_set(photos, count, networks, reader, pasted)
            report = evaluate(networks, reader, test, pasting, domain, chosen)
            save_grid(networks, test, domain, grids / "people-edits.jpg")
        if FEATURES in domain.fidelities:
            test, _ = read_test_set(photos, fidelity_count, networks, reader, 0)
    if FEATURES in domain.fidelities:
        report["fidelity"] = write_comparison(
            ServedNetworks(folder),
            fidelity_test(reader, test),
            chosen,
            domain,
            grids / "people-features.jpg",
        )
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_card(folder, report)
    print(f"{out} written after {time.monotonic() - start:.0f} s", flush=True)


def evaluate(
    networks: ServerNetworks,
    reader: AttributeReader,
    test: EvaluationSet,
    pasting: Pasting,
    domain: Domain,
    pairs: Sequence[TextPair],
) -> dict[str, Any]:
    """Measure detection, inversion, samples, edits and seams, with the default fidelity."""
    inversions = judge_inversions(reader, test, networks.reconstruct(test.faces))
    inversion = summarize_inversions(inversions, test)
    frechet = measure_samples(networks, reader, test.images)
    print(json.dumps(inversion | {"frechet": frechet}, indent=1), flush=True)
    results: list[dict[str, Any]] = []
    edits: list[tuple[Tensor, Judgment]] = []
    for pair in pairs:
        rows = find_rows(test, pair)
        edit = find_edit(domain, pair)
        parameters = pair, edit.strength, edit.threshold
        result: dict[str, Any] = {
            "heads": int(rows.sum()),
            "strength": edit.strength,
            "threshold": edit.threshold,
        }
        if rows.any():
            images = apply_edit(networks, test.faces[rows.numpy()], *parameters)
            edits.append((rows, judge_edit(reader, test, pair, rows, images)))
            result |= summarize_edit(edits[-1][1])
        result["removed"] = evaluate_removal(networks, reader, test, *parameters)
        seams = measure_seams(networks, pasting, *parameters)
        result["seam"] = float(np.median(seams)) if seams else None
        texts = {"neutral": pair.neutral, "target": pair.target, "in_captions": pair.in_captions}
        results.append(texts | {"attribute": pair.attribute} | result)
        print(pair.target, *(f"{k} {v:.3f}" for k, v in result.items() if v is not None))
    return {
        "photos": len(test.images) + len(test.missed),
        "default_fidelity": domain.default_fidelity,
        "strength": domain.strength,
        "threshold": domain.threshold,
        "inversion": inversion,
        "frechet": frechet,
        "groups": measure_groups(test, inversions, edits),
        "pairs": results,
    }


if __name__ == "__main__":
    main()
