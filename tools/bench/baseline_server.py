"""The baseline server: eager PyTorch and a plain HTTP server in one process.

    python -m tools.bench.baseline_server --port 8900
    POST /edit {"photo": base64, "neutral": …, "target": …, "strength": …, "threshold": …} → JPEG

It does what `edit_photo` does for a face crop, as demos of these networks do it: one request at a
time, no batches, no caches. The weights are those of the served domain, read from its ONNX files.
For measurements only: it does not check its input.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from styleclip_server.pipeline import directions, images
from styleclip_server.pipeline.alignment import crop_center
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving.domain_folder import load_domain
from tools.bench import baseline, networks_from_onnx

AVATARS = Path(__file__).resolve().parents[2] / "model_repository" / "avatars"


class Editor:
    """Photo and texts → JPEG, as `edit_photo` without alignment."""

    def __init__(self, folder: Path) -> None:
        self.networks = networks_from_onnx.read_networks(folder)
        self.statistics = load_statistics(folder, load_domain(folder).style_channels)
        self._lock = threading.Lock()

    @torch.inference_mode()
    def edit(self, photo: bytes, edit: directions.Edit) -> bytes:
        """Return the edited face as a JPEG file."""
        with self._lock:
            net = self.networks
            face, _ = crop_center(images.decode(photo))
            crop = torch.from_numpy(face.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1
            w_plus = net.encoder(crop[None])
            w_plus = w_plus if net.w_avg is None else w_plus + net.w_avg
            texts = (edit.neutral, edit.target)
            embeddings = dict(
                zip(texts, baseline.embed_texts(net.clip, texts, net.vocabulary), strict=True)
            )
            delta, _ = directions.style_offset(self.statistics, [edit], embeddings.__getitem__)
            picture = baseline.generate(net.generator, w_plus, torch.from_numpy(delta)[None])[0]
            buffer = io.BytesIO()
            Image.fromarray(picture.numpy()).save(buffer, "JPEG", quality=95)
            return buffer.getvalue()


@contextmanager
def running(folder: Path = AVATARS, port: int = 0) -> Iterator[int]:
    """Run the server in this process within a `with` block; yield its port."""
    editor = Editor(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            edit = directions.Edit(
                request["neutral"], request["target"], request["strength"], request["threshold"]
            )
            answer = editor.edit(base64.b64decode(request["photo"]), edit)
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--port", default=8900)
@click.option("--folder", type=click.Path(exists=True, path_type=Path), default=AVATARS,
              help="A converted domain whose photos are face crops.")  # fmt: skip
def main(port: int, folder: Path) -> None:
    """Serve the baseline until Ctrl-C."""
    with running(folder, port) as port:
        print(f"http://127.0.0.1:{port}/edit", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
