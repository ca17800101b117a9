"""Fixtures of the exporter's tests."""

import pytest

from download_server import running_download_server


@pytest.fixture
def file_server():
    """An HTTP server that sends a file as its path says: /good, /drop, /html, ..."""
    with running_download_server() as running:
        yield running
