"""The time that shared memory saves: raw pixels over gRPC, over HTTP and in shared memory.

    .venv/bin/python -m tools.bench.shared_memory

Needs the development packages. The server is real except for the generator, which returns a
constant image, so only the transfer is measured. The transports alternate, so that other load slows
all of them.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

from styleclip_client import Client, requests
from styleclip_contract import wire
from styleclip_server.serving.options import Options, default_repository
from styleclip_server.serving.supervisor import running_server

PHOTO = Path(__file__).resolve().parents[2] / "demo/samples/avatar-1.png"


def copy_with_constant_generator(target: Path, side: int) -> Path:
    """Copy the repository with a generator that returns a constant `side` x `side` image."""
    repository = target / "repository"
    shutil.copytree(default_repository(), repository)
    folder = repository / "avatars" / wire.STYLEGAN2.name
    model = onnx.load(folder / "1" / "model.onnx")
    image, graph = _smooth_image(side), model.graph
    del graph.node[:], graph.initializer[:]
    graph.initializer.extend(
        [
            numpy_helper.from_array(image[None], "CONSTANT"),
            numpy_helper.from_array(np.array(image.shape, np.int64), "IMAGE_SHAPE"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Shape", [wire.W_PLUS.name], ["BATCH"], start=0, end=1),
            helper.make_node("Concat", ["BATCH", "IMAGE_SHAPE"], ["SHAPE"], axis=0),
            helper.make_node("Expand", ["CONSTANT", "SHAPE"], [wire.IMAGE.name]),
        ]
    )
    for dim, value in zip(graph.output[0].type.tensor_type.shape.dim[1:], image.shape, strict=True):
        dim.dim_value = value
    onnx.save(model, folder / "1" / "model.onnx")
    description = repository / "avatars" / "domain.json"
    content = json.loads(description.read_text("utf-8")) | {"resolution": side}
    description.write_text(json.dumps(content), "utf-8")
    return repository


def _smooth_image(side: int) -> NDArray[np.uint8]:
    """Return an image as smooth as a face, uint8 (side, side, 3)."""
    y, x = np.mgrid[:side, :side] / side
    waves = [127 + 100 * np.sin(7 * x + 5 * y + phase) for phase in (0, 2, 4)]
    return np.rint(np.stack(waves, axis=-1)).astype(np.uint8)


def synthesize(client: Client, latent: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Run the generator alone: one pixel of its raw output is read, nothing is copied."""
    request = requests.build_synthesis_request(latent, delta)
    image = requests.parse_image(client._infer(request, client._deadline()))
    return image[:1, :1].copy()


def encode(client: Client, image: np.ndarray) -> int:
    """Run `compose` alone, at JPEG's lowest quality: raw pixels as input."""
    request = requests.build_request(wire.COMPOSE, {wire.IMAGE: image, wire.QUALITY: [1]})
    return len(requests.parse_picture(client._infer(request, client._deadline())))


@click.command()
@click.option("--rounds", default=40, show_default=True)
@click.option("--side", default=1024, show_default=True, help="Pixels; FFHQ's images have 1024.")
def main(rounds: int, side: int) -> None:
    """Measure raw pixels over each transport, with and without shared memory."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = Options(
            copy_with_constant_generator(folder, side),
            "avatars",
            log=folder / "log",
            allow_shared_memory=True,
            networks="cpu",
        )
        server = stack.enter_context(running_server(options))
        http = f"http://{server.http_url}"
        clients = {
            "gRPC": stack.enter_context(Client(server.grpc_url)),
            "HTTP": stack.enter_context(Client(http)),
            "gRPC, shared": stack.enter_context(Client(server.grpc_url, shared_memory=True)),
            "HTTP, shared": stack.enter_context(Client(http, shared_memory=True)),
        }
        first = clients["gRPC"]
        edit = first.domain().edit("a sad face")
        face, delta = first.invert(PHOTO), first.direction(edit)
        image = first.draw(face.w_plus, edit)
        calls: dict[str, Callable[[Client], object]] = {
            "stylegan2: pixels out": lambda c: synthesize(c, face.w_plus, delta),
            "compose: pixels in": lambda c: encode(c, image),
            "draw": lambda c: c.draw(face.w_plus, edit),
            "paste": lambda c: c.paste(PHOTO, face, edit),
            "edit (JPEG, to compare)": lambda c: c.edit(face.w_plus, edit),
        }
        times: dict[tuple[str, str], list[float]] = {}
        for number in range(rounds + 2):  # two to warm up
            for call, run in calls.items():
                for transport, client in clients.items():
                    start = time.perf_counter()
                    run(client)
                    if number >= 2:
                        times.setdefault((call, transport), []).append(time.perf_counter() - start)
        table = Table(f"ms, median of {rounds}, {image.shape[0]} px", *clients, box=None)
        for call in calls:
            medians = [1000 * statistics.median(times[call, transport]) for transport in clients]
            table.add_row(call, *(f"{median:.1f}" for median in medians))
        Console().print(table)


if __name__ == "__main__":
    main()
