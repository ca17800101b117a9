"""What several test files share: the golden data, which official code computed."""

import os
from pathlib import Path

import pytest

GOLDEN = Path(os.environ.get("STYLECLIP_GOLDEN") or Path(__file__).parent / "golden")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data; its README.md says what is in it."""
    return GOLDEN


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real Triton server with the avatars domain, shared by the tests that only ask it."""
    from styleclip_server.launcher import default_repository, running_server
    from styleclip_server.triton import Options

    log = tmp_path_factory.mktemp("server") / "server.log"
    options = Options(default_repository(), http_port=0, grpc_port=0, metrics_port=0, log=log)
    with running_server(options) as running:
        yield running
