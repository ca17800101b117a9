"""What a running server has done so far."""

import re
import time
import urllib.request

from polling import SECONDS
from styleclip_client import Client

METRICS_SECONDS = 0.6  # until Triton has what the Python steps counted; they send it in turns


def count_requests(server, model):
    """Return how many requests a model has carried out, the supervisor's canary included.

    Triton may count a request a moment after its response.
    """
    with Client(server.grpc_url) as client:
        return next(t.requests for t in client.timings() if t.name == model)


def read_metrics(server):
    """Return the value of each of our metrics by its name and labels."""
    time.sleep(METRICS_SECONDS)
    with urllib.request.urlopen(server.metrics_url, timeout=SECONDS) as response:
        text = response.read().decode()
    series = re.findall(r"^(styleclip_\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in series}
