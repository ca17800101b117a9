"""The web API of the shared server."""

import httpx
import pytest

from polling import SECONDS


@pytest.fixture
def api(server):
    """An HTTP client of the server's web API."""
    url = f"http://{server.http_url}"
    with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
        yield client
