"""From downloaded files of full size to the first edited photo: seconds and memory of each step.

Runs the commands that a user runs on files of the official layout, whose values are filled by a
rule, so the edited image shows nothing. Photos are scikit-image's astronaut.

    python -m tools.bench.official_weights --work DIR
    python -m tools.bench.official_weights --work DIR --generator ffhq.pkl
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil
import skimage
from PIL import Image

from styleclip_contract.errors import StyleclipError
from styleclip_server.canary import check_server
from styleclip_server.pipeline.landmarks import find_landmark_model
from styleclip_server.serving.ports import find_free_port

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOMAIN = "ffhq"


class PeakMemory:
    """The largest memory of this process's descendants, sampled twice a second.

    Memory that processes share counts once (proportional set size).
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.5):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)


@contextmanager
def measure(step: str) -> Iterator[None]:
    """Print a row of the table for what a `with` block runs."""
    start = time.monotonic()
    with PeakMemory() as peak:
        yield
    seconds = time.monotonic() - start
    click.echo(f"| {step} | {seconds:.1f} | {peak.bytes / 2**30:.1f} |")


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(each) for each in command], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if done.returncode:
        raise click.ClickException(f"{command[0]} {command[1]} failed:\n{done.stdout[-4000:]}")


def _wait_until_it_edits(server: subprocess.Popen[bytes], address: str) -> None:
    while True:
        try:
            return check_server(address)
        except StyleclipError:
            if server.poll() is not None:
                raise click.ClickException("the server ended; its log says why") from None
            time.sleep(0.2)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True,
              help="A folder for 12 GB of files; what it has is used again.")  # fmt: skip
@click.option("--generator", metavar="NAME", help="Convert this file of the filled ones, too.")
def main(work: Path, generator: str | None) -> None:
    """Print a table of step, seconds and peak memory."""
    filled, weights, models = work / "filled", work / "weights", work / "models"
    for folder in (weights, models):
        shutil.rmtree(folder, ignore_errors=True)
    landmarks = find_landmark_model().parent
    photo = work / "astronaut.png"
    work.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skimage.data.astronaut()).save(photo)

    click.echo("| step | seconds | peak memory, GiB |\n| --- | --- | --- |")
    if not filled.exists():
        with measure("write files of full size"):
            _run(sys.executable, "-m", "tools.parity.filled_checkpoints", filled)
    with measure("`styleclip-export fetch ffhq --from`"):
        _run(BIN / "styleclip-export", "fetch", DOMAIN, "--from", filled, "--from", landmarks,
             "--to", weights, "--accept-licenses", "--allow-modified")  # fmt: skip
    chosen = ["--generator", str(filled / generator)] if generator else []
    with measure("`styleclip-export convert ffhq`" + (" --generator" if generator else "")):
        _run(BIN / "styleclip-export", "convert", DOMAIN, "--weights", weights,
             "--repository", models, *chosen)  # fmt: skip

    http, grpc, metrics = (find_free_port() for _ in range(3))
    with PeakMemory() as peak:
        start = time.monotonic()
        server = subprocess.Popen(
            [sys.executable, "-m", "styleclip_server", "--domain", DOMAIN, "--domains", models,
             "--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics),
             "--log", str(work / "server.log")],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_until_it_edits(server, f"localhost:{grpc}")
            steps = [("serve, until the first canary edit", time.monotonic() - start)]
            for photo_number in ("first", "second"):
                start = time.monotonic()
                _run(BIN / "styleclip", "edit", photo, "--target", "a smiling face",
                     "--server", f"localhost:{grpc}", "--overwrite",
                     "-o", work / "smiling.png")  # fmt: skip
                steps.append(
                    (f"`styleclip edit`, the {photo_number} photo", time.monotonic() - start)
                )
        finally:
            server.terminate()
            server.wait(60)
    for step, seconds in steps:
        click.echo(f"| {step} | {seconds:.1f} | {peak.bytes / 2**30:.1f} |")


if __name__ == "__main__":
    main()
