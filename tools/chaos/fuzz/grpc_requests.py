"""Malformed messages over gRPC: changed bytes, wrong fields, too many of them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import serialize_byte_tensor

from styleclip_contract import wire
from tools.chaos.fuzz.request import NUMBERS, SIDES, TEXTS, Request, damage

_SERVICE = "/inference.GRPCInferenceService/"
_METHODS = (
    "ServerLive", "ServerReady", "ModelConfig", "ModelMetadata", "ModelReady", "ModelStatistics",
    "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryRegister",
    "SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings",
    "Nothing",
)  # fmt: skip
TYPES = ("BYTES", "BOOL", "FP32", "INT32", "UINT8", "FP16", "INT64", "BF16", "", "FP31")
PARAMETERS = ("sequence_id", "priority", "timeout", "shared_memory_region", "binary_data_size",
              "shared_memory_byte_size", "sequence_start", "classification", "x" * 300)  # fmt: skip


class GrpcRequests:
    """Draws requests for the port of gRPC."""

    def __init__(self, address: str, photos: Sequence[bytes], rng: random.Random) -> None:
        self._rng, self._photos = rng, photos
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
        )
        self._kinds: tuple[Callable[[], Request], ...] = (
            *(self._mutated, self._mutated, self._generated, self._generated, self._content),
            *(self._counted, self._other_call, self._stream, self._impatient),
        )

    def draw(self) -> Request:
        """Return the next request."""
        return self._rng.choice(self._kinds)()

    def _mutated(self) -> Request:
        return self._call("message", damage(self._rng, self._valid().SerializeToString()))

    def _generated(self) -> Request:
        rng = self._rng
        request = pb.ModelInferRequest(
            model_name=rng.choice((*wire.MODELS, "nothing", "", "../steps")),
            model_version=rng.choice(("", "1", "2", "-1", "x", "99999999999999999999")),
            id=rng.choice(("", "id", "x" * 2000, "\n{")),
        )
        model = wire.MODELS.get(request.model_name, wire.EDIT_PHOTO)
        names = [tensor.name for tensor in model.inputs] + ["OTHER"]
        for name in rng.choices(names, k=rng.randrange(len(names) + 2)):
            tensor = request.inputs.add(name=name, datatype=rng.choice(TYPES))
            tensor.shape.extend(
                rng.choice(SIDES) for _ in range(rng.choice((0, 1, 2, 3, 4, 4, 3000)))
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
        return self._call("message", request.SerializeToString())

    def _parameters(self, parameters: Any) -> None:
        for name in self._rng.choices(PARAMETERS, k=self._rng.choice((0, 0, 0, 1, 2))):
            match self._rng.randrange(3):
                case 0:
                    parameters[name].int64_param = self._rng.choice((-1, 0, 1, 2**40))
                case 1:
                    parameters[name].string_param = self._rng.choice(("", "x", "/dev/shm/a"))
                case 2:
                    parameters[name].bool_param = True

    def _content(self) -> Request:
        """Draw a valid message with an invalid photo, texts or numbers."""
        rng = self._rng
        photo = damage(rng, rng.choice(self._photos)) if rng.random() < 0.7 else None
        texts = rng.choices(TEXTS, k=2)
        numbers = rng.choices(NUMBERS, k=2)
        count = rng.choice((0, 1, 1, 1, 2, 17))
        request = self._valid(photo, texts, numbers, count)
        return self._call("message", request.SerializeToString())

    def _valid(
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

    def _counted(self) -> Request:
        """Fields that are tiny and many, or one that is large."""
        rng = self._rng
        count = rng.choice((600, 600, 20_000, 500_000))
        content = rng.choice((
            b"\x2a\x00" * count, b"\x32\x00" * count, b"\x22\x00" * count, b"\x3a\x00" * count,
            self._valid().SerializeToString() + b"\x7a\x00" * count, b"\x0b" * count,
            b"\x0a" + b"\x7f" + b"a" * 127 + b"\x3a\xff\xff\xff\xff\x07",
        ))  # fmt: skip
        return self._call("counts", content)

    def _other_call(self) -> Request:
        rng = self._rng
        request = pb.ModelConfigRequest(
            name=rng.choice(("e4e", "edit", "nothing", "../e4e", "a" * 9999))
        )
        content = damage(rng, request.SerializeToString()) if rng.random() < 0.7 else b""
        return self._call("call", content, rng.choice(_METHODS))

    def _stream(self) -> Request:
        """Several messages in one stream, which is left before its end at times."""
        rng = self._rng
        messages = [damage(rng, self._valid().SerializeToString()) for _ in range(rng.randrange(4))]
        leaves = rng.random() < 0.3

        def send() -> str:
            stream = self._channel.stream_stream(_SERVICE + "ModelStreamInfer")
            try:
                for _ in (answers := stream(iter(messages), timeout=60)):
                    if leaves:
                        answers.cancel()
            except grpc.RpcError as error:
                return f"gRPC {error.code().name}"
            return "gRPC OK"

        return Request("stream", send)

    def _impatient(self) -> Request:
        """A valid request that is cancelled, or whose time ends, while it is carried out."""
        content, seconds = self._valid().SerializeToString(), self._rng.choice((0.001, 0.01, 0.05))
        cancels, metadata = (
            self._rng.random() < 0.5,
            [("x", "y" * self._rng.choice((1, 9000, 90_000)))],
        )

        def send() -> str:
            call = self._channel.unary_unary(_SERVICE + "ModelInfer")
            try:
                if cancels:
                    future = call.future(content, timeout=60, metadata=metadata)
                    threading.Timer(seconds, future.cancel).start()
                    future.result()
                else:
                    call(content, timeout=seconds, metadata=metadata)
            except grpc.FutureCancelledError:
                return "gRPC CANCELLED"
            except grpc.RpcError as error:
                return f"gRPC {error.code().name}"
            return "gRPC OK"

        return Request("impatient", send)

    def _call(self, kind: str, content: bytes, method: str = "ModelInfer") -> Request:
        compression = self._rng.choice((grpc.Compression.NoCompression, grpc.Compression.Gzip))

        def send() -> str:
            try:
                self._channel.unary_unary(_SERVICE + method)(
                    content, timeout=60, compression=compression
                )
            except grpc.RpcError as error:
                return f"gRPC {error.code().name}"
            return "gRPC OK"

        return Request(kind, send)
