"""What several test files share: the golden data, which official code computed."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(os.environ.get("STYLECLIP_GOLDEN") or Path(__file__).parent / "golden")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data; its README.md says what is in it."""
    return GOLDEN


@pytest.fixture(scope="session")
def official_state():
    """Makes a state_dict as an official checkpoint has it, filled by the golden folder's rule."""
    import torch  # not needed by tests of the client

    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    seed = json.loads((GOLDEN / "golden.json").read_text())["seed"]
    row = np.array([1, 3, 3, 1], np.float32)
    kernel = torch.from_numpy(np.outer(row, row) / 64 * 4)

    def state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        filled = {k: torch.from_numpy(v) for k, v in rule.fill(shapes, seed=seed).items()}
        for name in shapes:
            if name.endswith(".kernel"):
                filled[name] = kernel.clone()
            elif name.endswith(".num_batches_tracked"):
                filled[name] = torch.tensor(0)
        return filled

    return state


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real Triton server with the avatars domain, shared by the tests that only ask it."""
    from styleclip_server.launcher import default_repository, running_server
    from styleclip_server.triton import Options

    log = tmp_path_factory.mktemp("server") / "server.log"
    options = Options(default_repository(), http_port=0, grpc_port=0, metrics_port=0, log=log)
    with running_server(options) as running:
        yield running
