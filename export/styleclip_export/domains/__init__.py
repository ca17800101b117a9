"""The domains that can be fetched and converted, a folder each.

`weights.json` is the manifest of the files to fetch; `domain.json` has the title, defaults, presets
and license of the served domain; `directions.json` lists the published directions among the files.
"""

from pathlib import Path

DOMAINS = Path(__file__).parent


def known_domains() -> list[str]:
    """List the domains that the project ships."""
    return sorted(path.parent.name for path in DOMAINS.glob("*/domain.json"))
