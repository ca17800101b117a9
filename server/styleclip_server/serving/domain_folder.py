"""The folder of the served domain, and its `domain.json`."""

from __future__ import annotations

import os
from pathlib import Path

from styleclip_contract.domain import DOMAIN_FILE, Domain

DOMAIN_VARIABLE = "STYLECLIP_DOMAIN"
DOMAINS_VARIABLE = "STYLECLIP_DOMAINS"
DEFAULT_DOMAIN = "people"


def find_domain_folder(step_folder: str | Path) -> Path:
    """Return the folder of the served domain.

    Its name is in the environment variable STYLECLIP_DOMAIN (default: "people"). It lies in the
    folder STYLECLIP_DOMAINS, by default beside the repository of the steps.

    Args:
        step_folder: the folder of the step's model, as Triton passes it to `initialize`.
    """
    name = os.environ.get(DOMAIN_VARIABLE, DEFAULT_DOMAIN)
    domains = os.environ.get(DOMAINS_VARIABLE)
    return (Path(domains) if domains else Path(step_folder).resolve().parent.parent) / name


def load_domain(folder: Path) -> Domain:
    """Load a domain's `domain.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or lacks a field.
    """
    path = folder / DOMAIN_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {DOMAIN_VARIABLE} must name a domain of the model repository"
        )
    domain = Domain.from_json(path.read_text("utf-8"))
    if not domain.style_channels or not domain.num_latents:
        raise ValueError(f"{path} lacks style_channels or num_latents: convert the domain again")
    return domain
