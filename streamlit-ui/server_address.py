"""The server that the page uses, and the token for it."""

from __future__ import annotations

import itertools
import os
import sys

from styleclip_client.address import DEFAULT_URL


def parse_server_address() -> str:
    """Return the address given by `--server` (as `make ui` does), else by STYLECLIP_SERVER."""
    for option, value in itertools.pairwise(sys.argv[1:]):
        if option == "--server":
            return value
    return os.environ.get("STYLECLIP_SERVER") or DEFAULT_URL


def server_token() -> str | None:
    """Return the token in STYLECLIP_TOKEN, if there is one."""
    return os.environ.get("STYLECLIP_TOKEN") or None
