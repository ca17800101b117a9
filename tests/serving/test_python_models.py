"""What Python models do at once, on a real Triton: overlapping batches, and requests in threads."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from counters import METRICS_SECONDS
from polling import wait_until
from styleclip_server.serving.installation import find_installation
from styleclip_server.serving.ports import find_free_port

CONFIG = """
backend: "python"
max_batch_size: {batch}
input {{ name: "X" data_type: TYPE_FP32 dims: 1 }}
output {{ name: "Y" data_type: TYPE_FP32 dims: 1 }}
instance_group {{ kind: KIND_CPU count: 1 }}
dynamic_batching {{ max_queue_delay_microseconds: 60000000 preferred_batch_size: {batch} }}
"""
# The end of the first batch waits until the second one was given to `execute`.
LATE = """
import threading
from functools import partial
import triton_python_backend_utils as triton
from styleclip_server.serving.backends import batching
from styleclip_server.serving.backends.late_responses import LateResponses


class TritonPythonModel:
    def initialize(self, args):
        self.prepared, self.given, self.second = False, 0, threading.Event()
        self.late = LateResponses(partial(setattr, self, "prepared", True))

    def execute(self, requests):
        self.given += 1
        if self.given > 1:
            self.second.set()
        values = [triton.get_input_tensor_by_name(each, "X").as_numpy() for each in requests]
        if values[0].item() > 0:
            self.late.respond(requests, lambda: self.responses(values))
            return None
        return self.responses(values)

    def responses(self, values):
        try:
            assert self.second.wait(60), "the second batch was not given meanwhile"
            assert self.prepared
            return [self.response(value) for value in values]
        except Exception as error:
            return [batching.failure("the model", error) for _ in values]

    def response(self, value):
        if value.item() == 7:
            raise ValueError("seven")
        return triton.InferenceResponse([triton.Tensor("Y", 2 * value)])

    def finalize(self):
        self.late.close()
"""


# Each of two requests waits for the other one, and counts as many faces as its number is.
ROWS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from styleclip_contract.errors import NoFaceFound
from styleclip_contract.wire import Model, Tensor
from styleclip_server.serving.metrics import Metrics
from styleclip_server.serving.step import respond

MODEL = Model("rows", "python", (Tensor("X", "FP32", (1,), ""),), (Tensor("Y", "FP32", (1,), ""),))


class TritonPythonModel:
    def initialize(self, args):
        self.both = threading.Barrier(2)
        self.threads, self.metrics = ThreadPoolExecutor(2), Metrics("rows", "a domain")

    def execute(self, requests):
        assert len(requests) == 2
        return respond(MODEL, requests, self.run_row, self.metrics, self.threads)

    def run_row(self, row):
        self.both.wait(60)
        if row["X"].item() == 7:
            raise NoFaceFound("seven")
        for faces in range(int(row["X"].item())):
            self.metrics.count_faces(faces)
        return {"Y": 2 * row["X"]}
"""

# What is computed for the rows of both requests at once is their sum.
BATCH = (
    ROWS.split("class")[0]
    + """
class TritonPythonModel:
    def initialize(self, args):
        self.metrics = Metrics("rows", "a domain")

    def execute(self, requests):
        assert len(requests) == 2
        return respond(MODEL, requests, self.run_row, self.metrics, prepare=self.add_up)

    def add_up(self, rows):
        for row in rows:
            row["sum"] = sum(each["X"] for each in rows)

    def run_row(self, row):
        if row["X"].item() == 7:
            raise NoFaceFound("seven")
        return {"Y": row["sum"] + 100 * row["X"]}
"""
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve the models; return the ports by name."""
    installation = find_installation()
    folder = tmp_path_factory.mktemp("triton")
    for name, text, batch in (("late", LATE, 1), ("rows", ROWS, 2), ("batch", BATCH, 2)):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(CONFIG.format(batch=batch))
        (folder / "models" / name / "1" / "model.py").write_text(text)
    ports = {name: find_free_port() for name in ("http", "grpc", "metrics")}
    command = [
        installation.binary,
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={installation.prepare_backends(folder / 'backends')}",
        *(f"--{name}-port={port}" for name, port in ports.items()),
    ]
    libraries = ":".join(installation.libraries)
    environment = {"LD_LIBRARY_PATH": libraries, "PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    client = triton.InferenceServerClient(f"127.0.0.1:{ports['grpc']}")

    def is_ready():
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return client.is_server_ready()
        except InferenceServerException:
            return False

    try:
        wait_until(is_ready)
        yield ports
    finally:
        client.close()
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def infer(server):
    """Return a function that sends a number to a model and returns what comes back."""
    client = triton.InferenceServerClient(f"127.0.0.1:{server['grpc']}")

    def call(number, model="late"):
        tensor = triton.InferInput("X", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.full((1, 1), number, np.float32))
        return client.infer(model, [tensor], client_timeout=120).as_numpy("Y").item()

    yield call
    client.close()


def test_the_next_batch_runs_while_responses_are_computed(infer):
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(infer, range(1, 7))) == [2, 4, 6, 8, 10, 12]


def test_responses_can_also_be_returned_at_once(infer):
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(infer, [1, -1, 2, -2])) == [2, -2, 4, -4]


def test_a_failure_is_the_response_of_its_request_only(infer):
    with pytest.raises(InferenceServerException, match="the model failed: seven"):
        infer(7)
    assert infer(8) == 16


def test_a_steps_requests_are_computed_at_once_and_fail_one_by_one(infer):
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(infer, number, "rows") for number in (6, 7))
        assert first.result() == 12
        with pytest.raises(InferenceServerException, match="NoFaceFound: seven"):
            second.result()


def test_a_step_computes_for_all_rows_of_a_batch_at_once(infer):
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(infer, number, "batch") for number in (6, 7))
        assert first.result() == 613
        with pytest.raises(InferenceServerException, match="NoFaceFound: seven"):
            second.result()


def test_threads_of_a_step_count_at_once(infer, server):
    def count_faces():
        time.sleep(METRICS_SECONDS)
        text = urlopen(f"http://127.0.0.1:{server['metrics']}/metrics").read().decode()
        return int(text.split('styleclip_faces_found_count{domain="a domain"} ')[1].split()[0])

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(infer, (1, 2), ("rows",) * 2)) == [2, 4]
        before = count_faces()
        assert list(threads.map(infer, (2000, 3000), ("rows",) * 2)) == [4000, 6000]
    wait_until(lambda: count_faces() - before >= 5000)
    assert count_faces() - before == 5000
