"""Triton's calls that change or reveal the machine are restricted."""

import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

CALLS = {
    "a shared memory region": lambda c: c.register_system_shared_memory("a", "/x", 16),
    "the shared memory's state": lambda c: c.get_system_shared_memory_status(),
    "GPU memory": lambda c: c.get_cuda_shared_memory_status(),
    "tracing": lambda c: c.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
    "the trace settings": lambda c: c.get_trace_settings(),
    "the log's file": lambda c: c.update_log_settings({"log_file": "/tmp/elsewhere"}),
    "loading a model": lambda c: c.load_model("e4e"),
    "unloading a model": lambda c: c.unload_model("e4e"),
}
PATHS = (
    "v2/systemsharedmemory/region/a/register",
    "v2/cudasharedmemory/region/a/register",
    "v2/trace/setting",
    "v2/models/e4e/trace/setting",
    "v2/logging",
    "v2/repository/models/e4e/load",
    "v2/repository/models/e4e/unload",
)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_over_grpc_is_refused(server, call):
    with (
        triton.InferenceServerClient(server.grpc_url) as connection,
        pytest.raises(InferenceServerException, match=r"restricted|not allowed"),
    ):
        CALLS[call](connection)


@pytest.mark.parametrize("path", PATHS)
def test_a_call_over_http_is_refused(server, path):
    refused = httpx.post(f"http://{server.http_url}/{path}", content="{}", timeout=60)
    assert refused.status_code == 403
    assert "restricted" in refused.text or "not allowed" in refused.text
