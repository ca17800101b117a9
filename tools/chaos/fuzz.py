"""`python -m tools.chaos.fuzz`: malformed requests from a seeded fuzzer.

Over both protocols: valid gRPC messages with bytes changed at random; messages built from known and
unknown models, tensors, types, shapes and parameters; damaged photos and unusual texts in valid
messages; HTTP bodies with wrong JSON or lengths. Every request must be answered or refused, and at
the end the server must have the same processes and be able to edit.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import grpc
import httpx
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import serialize_byte_tensor

from styleclip_client import Client
from styleclip_contract import wire
from tools.chaos.load import PHOTOS
from tools.chaos.server import Server

INFER = "/inference.GRPCInferenceService/ModelInfer"
OTHERS = (
    "ModelConfig", "ModelMetadata", "ModelReady", "ModelStatistics", "RepositoryIndex",
    "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryRegister",
    "CudaSharedMemoryRegister", "TraceSetting", "LogSettings", "ModelStreamInfer",
)  # fmt: skip
TYPES = ("BYTES", "BOOL", "FP32", "INT32", "UINT8", "FP16", "INT64", "BF16", "", "FP31")
PARAMETERS = ("sequence_id", "priority", "timeout", "shared_memory_region", "binary_data_size",
              "shared_memory_byte_size", "sequence_start", "classification", "x" * 300)  # fmt: skip
TEXTS = ("a sad face", "", " ", "\0", "a" * 5000, "{}", "%s%n", "\u202e", "😀" * 80, "é" * 300,
         "<|endoftext|>", "&lt;&amp;" * 40, "\ud7ff", "ﷺ" * 90,
         "'; --", "a\u0301" * 200)  # fmt: skip
NUMBERS = (0.0, 1.0, 5.0, -20.0, 1e-45, 3.4e38, float("nan"), float("inf"), -float("inf"))


class Fuzzer:
    """Draws requests from a seed; each is a function that sends it and returns the outcome."""

    def __init__(self, server: Server, seed: int) -> None:
        self._rng = random.Random(seed)
        self._channel = grpc.insecure_channel(server.grpc)
        self._http = httpx.Client(base_url=f"http://{server.http}", timeout=60, trust_env=False)
        self._photos = [path.read_bytes() for path in PHOTOS]
        self._kinds: tuple[Callable[[], Callable[[], str]], ...] = (
            self._mutated_message, self._generated_message, self._invalid_content, self._http_body,
            self._other_call,
        )  # fmt: skip

    def draw(self) -> Callable[[], str]:
        """Return the next request. Requests are drawn in order and may be sent concurrently."""
        return self._rng.choice(self._kinds)()

    def _mutated_message(self) -> Callable[[], str]:
        return self._over_grpc(INFER, self._damage(self._valid_request().SerializeToString()))

    def _generated_message(self) -> Callable[[], str]:
        rng = self._rng
        request = pb.ModelInferRequest(
            model_name=rng.choice((*wire.MODELS, "nothing", "", "../steps")),
            model_version=rng.choice(("", "1", "2", "-1", "x", "99999999999999999999")),
            id=rng.choice(("", "id", "x" * 1000, "\n{")),
        )
        model = wire.MODELS.get(request.model_name, wire.EDIT_PHOTO)
        names = [tensor.name for tensor in model.inputs] + ["OTHER"]
        for name in rng.choices(names, k=rng.randrange(len(names) + 2)):
            tensor = request.inputs.add(name=name, datatype=rng.choice(TYPES))
            tensor.shape.extend(
                rng.choice((-1, 0, 1, 2, 3, 77, 256, 512, 2**31, 2**62, -(2**63)))
                for _ in range(rng.randrange(5))
            )
            self._parameters(tensor.parameters)
            content = rng.randbytes(rng.choice((0, 1, 4, 7, 8, 64, 4096)))
            match rng.randrange(4):
                case 0:
                    tensor.contents.bytes_contents.append(content)
                case 1:
                    tensor.contents.fp32_contents.extend(rng.choices(NUMBERS, k=3))
                case 2:
                    request.raw_input_contents.append(content)
        for name in rng.choices(("PICTURE", "CHANNELS", "W_PLUS", "OTHER"), k=rng.randrange(3)):
            self._parameters(request.outputs.add(name=name).parameters)
        self._parameters(request.parameters)
        return self._over_grpc(INFER, request.SerializeToString())

    def _parameters(self, parameters: Any) -> None:
        for name in self._rng.choices(PARAMETERS, k=self._rng.choice((0, 0, 0, 1, 2))):
            match self._rng.randrange(3):
                case 0:
                    parameters[name].int64_param = self._rng.choice((-1, 0, 1, 2**40))
                case 1:
                    parameters[name].string_param = self._rng.choice(("", "x", "/dev/shm/a"))
                case 2:
                    parameters[name].bool_param = True

    def _invalid_content(self) -> Callable[[], str]:
        """Draw a valid message with an invalid photo, texts or numbers."""
        rng = self._rng
        photo = self._damage(rng.choice(self._photos)) if rng.random() < 0.7 else None
        texts = rng.choices(TEXTS, k=2)
        numbers = rng.choices(NUMBERS, k=2)
        count = rng.choice((0, 1, 1, 1, 2, 17))
        request = self._valid_request(photo, texts, numbers, count)
        return self._over_grpc(INFER, request.SerializeToString())

    def _valid_request(
        self,
        photo: bytes | None = None,
        texts: Any = ("a face", "a sad face"),
        numbers: Any = (5.0, 0.15),
        count: int = 1,
    ) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name="edit_photo", id="fuzz")
        values: list[tuple[wire.Tensor, Any]] = [
            (wire.PHOTO, np.array([[photo or self._photos[0]]], np.object_)),
            *(
                (tensor, np.array([[text.encode("utf-8", "replace")] * count], np.object_))
                for tensor, text in zip((wire.NEUTRAL, wire.TARGET), texts, strict=True)
            ),
            *(
                (tensor, np.array([[number] * count], np.float32))
                for tensor, number in zip((wire.STRENGTH, wire.THRESHOLD), numbers, strict=True)
            ),
        ]
        for tensor, array in values:
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
            if tensor.datatype == "BYTES":
                packed = serialize_byte_tensor(array)
                request.raw_input_contents.append(packed.item() if packed.size else b"")
            else:
                request.raw_input_contents.append(array.tobytes())
        return request

    def _http_body(self) -> Callable[[], str]:
        rng = self._rng
        body: dict[str, Any] = {
            "id": "fuzz",
            "inputs": [
                {"name": "W_PLUS", "datatype": "FP32", "shape": [1, 14, 512], "data": [0.5] * 9},
                {"name": "TARGET", "datatype": "BYTES", "shape": [1, 1], "data": ["a sad face"]},
                {"name": "STRENGTH", "datatype": "FP32", "shape": [1, 1], "data": [1e400, "x"]},
            ],
            "parameters": {"binary_data_output": True},
        }
        for entry in rng.sample(body["inputs"], k=rng.randrange(4)):
            key = rng.choice(("name", "datatype", "shape", "data", "parameters"))
            entry[key] = rng.choice((
                None, [], {}, -1, 2**64, "x", [[[[]]]], [-1], [2**40, 2**40],
                {"binary_data_size": rng.choice((-1, 0, 9, 2**40, "x"))},
            ))  # fmt: skip
        data = json.dumps(body).encode()
        if rng.random() < 0.6:
            data = self._damage(data)
        headers = {}
        if rng.random() < 0.5:
            length = rng.choice((0, 1, len(data), len(data) + 1, 2**40, -5, "x"))
            headers["Inference-Header-Content-Length"] = str(length)
        if rng.random() < 0.2:
            headers["Content-Encoding"] = rng.choice(("gzip", "deflate", "br"))
        model = rng.choice(("edit", "edit_photo", "stylegan2", "nothing", "e4e/versions/9"))

        def send() -> str:
            try:
                answer = self._http.post(f"/v2/models/{model}/infer", content=data, headers=headers)
            except httpx.HTTPError as error:
                return f"HTTP {type(error).__name__}"
            return f"HTTP {answer.status_code}"

        return send

    def _other_call(self) -> Callable[[], str]:
        method = f"/inference.GRPCInferenceService/{self._rng.choice(OTHERS)}"
        request = pb.ModelConfigRequest(name=self._rng.choice(("e4e", "edit", "nothing")))
        content = request.SerializeToString()
        return self._over_grpc(method, self._damage(content))

    def _damage(self, content: bytes) -> bytes:
        """Change, remove, repeat or insert some bytes."""
        rng, data = self._rng, bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 5, 30))):
            at = rng.randrange(len(data) + 1)
            end = min(len(data), at + rng.choice((1, 4, 64, 1000)))
            match rng.randrange(4):
                case 0:
                    data[at:end] = rng.randbytes(end - at)
                case 1:
                    del data[at:end]
                case 2:
                    data[at:at] = data[at:end]
                case 3:
                    data[at:at] = rng.choice((b"\0" * 9, b"\xff" * 10, b"\x7f", b'"}]'))
        return bytes(data)

    def _over_grpc(self, method: str, content: bytes) -> Callable[[], str]:
        def send() -> str:
            try:
                if method.endswith("StreamInfer"):
                    stream = self._channel.stream_stream(method)
                    for _ in stream(iter([content]), timeout=60):
                        pass
                else:
                    self._channel.unary_unary(method)(content, timeout=60)
            except grpc.RpcError as error:
                return f"gRPC {error.code().name}"
            return "gRPC OK"

        return send


def fuzz(count: int, seed: int, concurrency: int = 4) -> dict[str, Any]:
    """Send `count` requests; return the outcomes and whether a process of the server died."""
    server = Server()
    try:
        before = sorted(process.pid for process in server.list_processes())
        memory, start = server.memory(), time.monotonic()
        fuzzer, outcomes = Fuzzer(server, seed), Counter[str]()
        with ThreadPoolExecutor(concurrency) as executor:
            requests = (fuzzer.draw() for _ in range(count))
            while batch := list(itertools.islice(requests, 100)):
                outcomes.update(executor.map(lambda send: send(), batch))
        with Client(server.grpc) as client:
            client.edit_photo(PHOTOS[0], client.domain().edit("a sad face"))
        return {
            "requests": count,
            "seed": seed,
            "seconds": round(time.monotonic() - start),
            "outcomes": dict(outcomes.most_common()),
            "crashed": sorted(process.pid for process in server.list_processes()) != before,
            "MB": [round(memory), round(server.memory())],
        }
    finally:
        server.stop()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--count", default=10_000, help="Requests.")
@click.option("--seed", default=7)
def main(count: int, seed: int) -> None:
    """Send malformed requests to a server that this command starts."""
    report = fuzz(count, seed)
    click.echo(json.dumps(report, indent=1))
    sys.exit(report["crashed"])


if __name__ == "__main__":
    main()
