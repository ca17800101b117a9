"""Malformed requests over HTTP: KServe's protocol and the plain web API."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from tools.chaos.fuzz.request import NUMBERS, SIDES, TEXTS, Request, damage

MODELS = ("edit", "edit_photo", "stylegan2", "direction", "compose", "nothing", "e4e/versions/9")
_PATHS = (
    "/v2", "/v2/", "/v2/health/ready", "/v2/health/live", "/v2/models/stats",
    "/v2/models/edit/config",
    "/v2/models/edit/../edit", "/v2/models/%2e%2e/config", "/v2/models/edit%00/ready",
    "/v2/models//ready",
    "/v2/repository/index", "/v2/repository/models/edit/load", "/v2/repository/models/x/unload",
    "/v2/logging", "/v2/trace/setting", "/v2/models/edit/trace/setting", "/v2/models/edit/generate",
    "/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/a/register",
    "/v2/cudasharedmemory/region/a/register", "/invocations", "/ping", "/metrics", "/v1/domain",
    "/healthz", "/livez", "/docs", "/openapi.json", "/v1/nothing", "/v1/edit", "//v1/edit",
)  # fmt: skip
_TYPES = ("BYTES", "BOOL", "FP32", "INT32", "UINT8", "FP16", "INT64", "", "FP31", None, 7)


class HttpRequests:
    """Draws requests for the port of HTTP."""

    def __init__(self, http: str, photos: Sequence[bytes], rng: random.Random) -> None:
        self._client = httpx.Client(base_url=f"http://{http}", timeout=60, trust_env=False)
        self._photos, self._rng = photos, rng
        self._kinds: tuple[Callable[[], Request], ...] = (
            *(self._infer, self._infer, self._infer, self._binary, self._nested),
            *(self._compressed, self._call, self._call, self._form, self._form, self._json),
        )

    def draw(self) -> Request:
        """Return the next request."""
        return self._rng.choice(self._kinds)()

    def _infer(self) -> Request:
        """JSON with wrong fields, or damaged."""
        rng = self._rng
        text = rng.choice(TEXTS)
        body: dict[str, Any] = {
            "id": rng.choice(("fuzz", "x" * 3000, 7, None)),
            "inputs": [
                {"name": "W_PLUS", "datatype": "FP32", "shape": [1, 14, 512], "data": [0.5] * 9},
                {"name": "TARGET", "datatype": "BYTES", "shape": [1, 1], "data": [text]},
                {"name": "STRENGTH", "datatype": "FP32", "shape": [1, 1], "data": [5.0]},
                {"name": "THRESHOLD", "datatype": "FP32", "shape": [1, 1], "data": [0.1, "x"]},
            ],
            "parameters": {"binary_data_output": rng.choice((True, False, "x", []))},
        }  # fmt: skip
        for entry in rng.sample(body["inputs"], k=rng.randrange(4)):
            entry[rng.choice(list(entry))] = rng.choice((
                None, [], {}, -1, 2**64, "x", [[[[]]]], rng.choices(SIDES, k=rng.randrange(9)),
                [[1], 2], [1e400], rng.choice(_TYPES), {"a": {"b": []}},
            ))  # fmt: skip
        if rng.random() < 0.2:
            body["inputs"] *= rng.choice((2, 20, 2000))
        if rng.random() < 0.2:
            body["outputs"] = [{"name": "PICTURE"}] * rng.choice((1, 2, 20_000))
        data = json.dumps(body).encode()
        if rng.random() < 0.3:
            data = damage(rng, data)
        return self._post("JSON", data, {})

    def _binary(self) -> Request:
        """Sizes and lengths that do not fit together."""
        rng = self._rng
        size = rng.choice((-1, 0, 4, 9, 28_672, 2**31, 2**40, 2**63, "x", None, True, 1.5))
        entry = {
            "name": rng.choice(("W_PLUS", "TARGET", "PHOTO")),
            "datatype": rng.choice(("FP32", "BYTES")),
            "shape": rng.choice(([1, 14, 512], [1, 1], rng.choices(SIDES, k=3))),
            "parameters": {"binary_data_size": size},
        }
        header = json.dumps({"inputs": [entry] * rng.choice((1, 1, 2))}).encode()
        length = rng.choice((len(header), len(header), 0, 1, len(header) + 1, 2**40, -5, "x", " 9"))
        content = rng.choice((b"", bytes(4), bytes(28_672), b"\xff\xff\xff\xff", rng.randbytes(99)))
        return self._post(
            "binary", header + content, {"Inference-Header-Content-Length": str(length)}
        )

    def _nested(self) -> Request:
        rng = self._rng
        depth = rng.choice((10, 900, 1100, 100_000))
        opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        nest = opening * depth + b"1" + closing * rng.choice((depth, depth, 0))
        place = rng.choice((
            b'{"inputs":[{"name":"TARGET","datatype":"BYTES","shape":[1,1],"data":%s}]}',
            b'{"inputs":[{"name":"TARGET","datatype":"BYTES","shape":%s}]}',
            b'{"inputs":%s}', b"%s",
            b'{"inputs":[],"parameters":{"a":%s}}', b'{"id":"a","unknown":%s}', b'{"outputs":%s}',
        ))  # fmt: skip
        return self._post("nested", place.replace(b"%s", nest), {})

    def _compressed(self) -> Request:
        rng = self._rng
        content = rng.choice((b"{}", b" " * rng.choice((2**20, 2**26)), b"[" * 2**20))
        name, compress = rng.choice((("gzip", gzip.compress), ("deflate", zlib.compress)))
        body = compress(content, 1)
        name = rng.choice((name, name, name, "br", "gzip, gzip", "identity", "GZIP", ""))
        if rng.random() < 0.3:
            body = damage(rng, body)
        return self._post("compressed", body, {"Content-Encoding": name})

    def _call(self) -> Request:
        rng = self._rng
        method = rng.choice(
            ("GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X")
        )
        content = rng.choice((b"", b"{}", b'{"key":"/a","byte_size":9}', b"[]", rng.randbytes(20)))
        headers = rng.choice(
            ({}, {"Accept": "\x7f"}, {"Accept-Encoding": "gzip"}, {"Cookie": "a" * 999})
        )
        return self._send("call", method, rng.choice(_PATHS), content=content, headers=headers)

    def _form(self) -> Request:
        """A form for the plain web API."""
        rng = self._rng
        photo = rng.choice(self._photos)
        photo = damage(rng, photo) if rng.random() < 0.7 else photo
        files: list[tuple[str, Any]] = [("photo", ("a.png", photo))] * rng.choice((0, 1, 1, 2, 40))
        fields = ("target", "neutral", "strength", "threshold", "preset", "direction", "face",
                  "align", "paste", "format", "quality", "unknown")  # fmt: skip
        for name in rng.choices(fields, k=rng.choice((0, 1, 2, 4, 300))):
            value = rng.choice((*TEXTS, *map(str, NUMBERS)))
            files.append((name, (None, value.encode("utf-8", "replace"))))
        request = self._client.build_request("POST", "/v1/edit", files=files or None)
        body, headers = request.read(), dict(request.headers)
        headers.pop("content-length", None)
        if rng.random() < 0.3:
            body = damage(rng, body)
        path = rng.choice(("/v1/edit", "/v1/edit", "/v1/invert", "/v1/faces", "/v1/sweep"))
        return self._send("form", "POST", path, content=body, headers=headers)

    def _json(self) -> Request:
        """JSON for the plain web API."""
        rng = self._rng
        values = (*TEXTS, *NUMBERS[:6], None, [], {}, [[]] * 500, "A" * 5000, True, 2**70)
        body = {
            name: rng.choice(values)
            for name in ("photo", "target", "strength", "threshold", "face", "format", "latent")
        }
        data = json.dumps(body).encode("utf-8", "replace")
        if rng.random() < 0.2:
            data = b'{"photo":' + b"[" * 50_000
        if rng.random() < 0.3:
            data = damage(rng, data)
        path = rng.choice(("/v1/edit", "/v1/invert", "/v1/faces", "/v1/sweep"))
        return self._send(
            "JSON of the API",
            "POST",
            path,
            content=data,
            headers={"Content-Type": "application/json"},
        )

    def _post(self, kind: str, content: bytes, headers: dict[str, str]) -> Request:
        path = f"/v2/models/{self._rng.choice(MODELS)}/infer"
        return self._send(kind, "POST", path, content=content, headers=headers)

    def _send(self, kind: str, method: str, path: str, **options: Any) -> Request:
        def send() -> str:
            try:
                return f"HTTP {self._client.request(method, path, **options).status_code}"
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError) as error:
                return f"HTTP {type(error).__name__}"

        return Request(kind, send)
