"""The published directions of a domain, as `domains/DOMAIN/directions.json` lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from styleclip_export.directions import files
from styleclip_export.directions.store import DirectionOptions, DirectionStore
from styleclip_export.domains import DOMAINS
from styleclip_export.progress import ReportLine


def add_published(
    store: DirectionStore, weights: Path, *, replace: bool = False, report: ReportLine = print
) -> int:
    """Add the published directions whose files are in `weights`; existing ones are kept.

    Returns:
        The number of published directions whose files exist.

    Raises:
        CheckpointError: a file has another format, or is damaged or hostile.
        DirectionError: it does not fit the domain.
    """
    path = DOMAINS / store.domain.name / "directions.json"
    listed = json.loads(path.read_text("utf-8")) if path.is_file() else ()
    present = [entry for entry in listed if (weights / entry["file"]).is_file()]
    names = {direction.name for direction in store.domain.directions}
    for entry in present:
        if entry["name"] in names and not replace:
            report(f"direction {entry['name']}: already there")
            continue
        content = files.read(weights / entry["file"])
        direction = store.add(content, _options(entry), replace=replace)
        report(f"{entry['file']}: direction {direction.name}")
    return len(present)


def _options(entry: dict[str, Any]) -> DirectionOptions:
    low_high, layers = entry.get("range"), entry.get("layers")
    return DirectionOptions(
        name=entry["name"],
        title=entry.get("title"),
        range=(float(low_high[0]), float(low_high[1])) if low_high else None,
        layers=(int(layers[0]), int(layers[1])) if layers else None,
        component=entry.get("component"),
        scale=float(entry.get("scale", 1)),
    )
