"""The web API of the shared server."""

import httpx
import pytest


@pytest.fixture
def api(server):
    """An HTTP client of the server's web API."""
    with httpx.Client(base_url=f"http://{server.http_url}", timeout=60, trust_env=False) as client:
        yield client
