"""Measure how well the page's image follows the strength slider while it is dragged.

A real page in headless Chromium, on a real server. A mouse drags the slider back and forth at 60
moves a second. The browser records the time of each pointer event and of the frame that shows each
image. An image's latency is the time from the last pointer event that set its strength to its
frame; strengths that the page skips, because a newer one came, have no image. The server's part is
the mean time of its `edit` requests, from Triton's statistics.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import click
from playwright.sync_api import Page
from rich.console import Console

from styleclip_client import Client, StyleclipError
from tools.browser import (
    NO_CHROMIUM,
    ROOT,
    WAIT,
    chromium,
    open_page,
    running_browser,
    running_page,
    wait_until_idle,
)

_MOVES_PER_SECOND = 60
_PIXELS = 3  # per move; more than a step of the slider's strength
_WARM_UP = 2.0  # seconds
_SLIDER = "How strong"
_PHOTO = ROOT / "demo/samples/avatar-1.png"

# Fills `window.drag` with the milliseconds of the pointer events by the strength that they set, and
# with [latency, milliseconds] of each image that was displayed.
_RECORD = """(image) => {
  const drag = window.drag = { moves: {}, images: [], busy: 0 };
  let pointer = 0, answered = null;
  const moves = {};  // by the image's URL
  document.addEventListener("pointermove", (event) => { pointer = event.timeStamp; },
    { capture: true });
  new MutationObserver((changes) => {
    for (const { target } of changes) drag.moves[target.value] = pointer;
  }).observe(document.body, { subtree: true, attributeFilter: ["aria-valuetext"] });
  const send = window.fetch;
  window.fetch = async (url, options) => {
    const answer = send(url, options);
    const { pathname, searchParams } = new URL(url, document.baseURI);
    if (!pathname.includes("/live/")) return answer;
    await null;  // the page's observer, which sends, may run before the one above
    const moved = drag.moves[searchParams.get("value")];
    if ((await answer).ok) answered = moved; else drag.busy += 1;
    return answer;
  };
  const create = URL.createObjectURL;
  URL.createObjectURL = (blob) => {
    const url = create(blob);
    moves[url] = answered;
    return url;
  };
  image.addEventListener("load", () => {
    const moved = moves[image.src];
    if (moved === undefined) return;
    requestAnimationFrame(() => setTimeout(() => {
      const now = performance.now();
      drag.images.push([now - moved, now]);
    }));
  });
}"""


@dataclass(frozen=True)
class Drag:
    """What a user saw in a drag of `seconds`; latencies are in milliseconds."""

    seconds: float
    moves: int
    images: int
    images_per_second: float
    latency_p50: float
    latency_p95: float
    latency_max: float
    longest_gap: float
    busy_answers: int
    server_edit_mean: float


def positions(page: Page) -> Iterator[tuple[float, float]]:
    """Yield the mouse's positions: from the thumb back and forth along the slider's track."""
    thumb = page.get_by_role("slider", name=_SLIDER).first
    thumb.scroll_into_view_if_needed()
    box = thumb.locator("xpath=../..").bounding_box()
    track = page.get_by_test_id("stSlider").filter(has=thumb).bounding_box()
    assert box and track
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    left, right, step = track["x"] + 20, track["x"] + track["width"] - 20, -_PIXELS
    while True:
        yield x, y
        if not left <= x + step <= right:
            step = -step
        x += step


def drag(page: Page, client: Client, seconds: float) -> Drag:
    """Drag the strength slider for `seconds` and release it."""
    page.evaluate("() => Object.assign(window.drag, { moves: {}, images: [], busy: 0 })")
    path = positions(page)
    page.mouse.move(*next(path))
    page.mouse.down()
    edits_before, edit_seconds_before = count_edits(client)
    moves, start = 0, time.monotonic()
    while (now := time.monotonic()) < start + seconds:
        page.mouse.move(*next(path))
        moves += 1
        time.sleep(max(0, start + moves / _MOVES_PER_SECOND - now))
    record = page.evaluate("() => window.drag")
    edits, edit_seconds = count_edits(client)
    page.mouse.up()
    wait_until_idle(page)
    if len(record["images"]) < 2:
        raise click.ClickException("no image followed the slider")
    latencies = [latency for latency, _ in record["images"]]
    times = [shown for _, shown in record["images"]]
    return Drag(
        seconds=seconds,
        moves=moves,
        images=len(times),
        images_per_second=len(times) / seconds,
        latency_p50=statistics.median(latencies),
        latency_p95=quantile(latencies, 95),
        latency_max=max(latencies),
        longest_gap=max(late - early for early, late in pairwise(times)),
        busy_answers=record["busy"],
        server_edit_mean=1000 * (edit_seconds - edit_seconds_before) / (edits - edits_before),
    )


def count_edits(client: Client) -> tuple[int, float]:
    """Return the number of `edit` requests the server has answered, and their total seconds."""
    (timing,) = (timing for timing in client.timings() if timing.name == "edit")
    return timing.requests, timing.seconds


def quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def server_rate(client: Client, seconds: float) -> float:
    """Return the edits per second of a latent that one client gets, one request at a time."""
    inverted, preset = client.invert(_PHOTO), client.domain().presets[0]
    count, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        client.edit(inverted, replace(preset.edit, strength=0.1 * (count % 100)))
        count += 1
    return count / (time.monotonic() - start)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of an idle server; without it one is started.")
@click.option("--page", "url", help="URL of a running page; without it one is started.")
@click.option("--seconds", default=10.0, type=click.FloatRange(1), help="Length of the drag.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def main(server: str | None, url: str | None, seconds: float, as_json: bool) -> None:
    """Measure images per second and pointer-to-image latency while a slider is dragged."""
    if not chromium():
        raise click.ClickException(NO_CHROMIUM)
    if url and not server:
        raise click.UsageError("--page needs --server, the address of the page's server")
    console = Console(stderr=True)
    try:
        with ExitStack() as stack:
            if server is None:
                from styleclip_server.serving.options import Options
                from styleclip_server.serving.supervisor import running_server

                console.print("starting a server (give --server to measure a running one)")
                server = stack.enter_context(
                    running_server(Options(domain="avatars"), canary=0)
                ).grpc_url
            client = stack.enter_context(Client(server))
            if url is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = stack.enter_context(running_page(server, folder / "page.log"))
            page = stack.enter_context(running_browser()).new_page()
            page.set_default_timeout(WAIT)
            open_page(page, url)
            page.locator("img.after").evaluate(_RECORD)
            drag(page, client, _WARM_UP)
            result = drag(page, client, seconds)
            alone = server_rate(client, _WARM_UP)
    except StyleclipError as error:
        raise click.ClickException(str(error)) from error
    cores = os.cpu_count()
    if as_json:
        print(json.dumps({**asdict(result), "server_images_per_second": alone, "cores": cores}))
        return
    print(
        f"a drag of {seconds:.0f} s with {result.moves} moves: {result.images} images, "
        f"{result.images_per_second:.1f} per second (the server alone, one request at a time: "
        f"{alone:.1f})\n"
        f"from the pointer to the image: p50 {result.latency_p50:.0f} ms, "
        f"p95 {result.latency_p95:.0f} ms, at most {result.latency_max:.0f} ms; of it the server's "
        f"`edit`: mean {result.server_edit_mean:.0f} ms; "
        f"longest time without a new image {result.longest_gap:.0f} ms; "
        f"{result.busy_answers} answers that the server was busy "
        f"({cores} cores for server, page and browser)"
    )


if __name__ == "__main__":
    sys.exit(main())
