"""Measure the latency from a slider's move to the new image in the browser, and the server's part.

A real page in headless Chromium, on a real server. Each move goes to a new strength, so nothing
comes from the session's cache. The browser takes both times of a move: that of the key event, and
that of the frame after the new image has loaded. The server's part is the mean time of its `edit`
requests, from Triton's statistics.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
from playwright.sync_api import Page
from rich.console import Console

from styleclip_client import Client, StyleclipError
from tools.browser import (
    NO_CHROMIUM,
    WAIT,
    chromium,
    open_page,
    press_slider_key,
    running_browser,
    running_page,
    wait_until_idle,
)

_WARM_UP = 3

# Resolves with the the milliseconds from the next key to the frame that shows the next image.
_MEASURE = """(image) => {
  window.measured = new Promise((done) => {
    let start;
    document.addEventListener("keydown", (event) => { start = event.timeStamp; },
      { capture: true, once: true });
    image.addEventListener("load", () => requestAnimationFrame(() =>
      setTimeout(() => done(performance.now() - start))), { once: true });
  });
}"""


def measure_move(page: Page) -> float:
    """Move the strength slider one step; return the milliseconds until the new image is visible."""
    page.locator("img.after").evaluate(_MEASURE)
    press_slider_key(page, "How strong", "ArrowRight")
    return float(page.evaluate("() => window.measured"))


def count_edits(client: Client) -> tuple[int, float]:
    """Return the number of `edit` requests the server has answered, and their total seconds."""
    (timing,) = (timing for timing in client.timings() if timing.name == "edit")
    return timing.requests, timing.seconds


def quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of an idle server; without it one is started.")
@click.option("--moves", default=40, type=click.IntRange(2, 140), help="Slider moves to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def main(server: str | None, moves: int, as_json: bool) -> None:
    """Measure slider-to-image latency in a real browser."""
    if not chromium():
        raise click.ClickException(NO_CHROMIUM)
    console = Console(stderr=True)
    try:
        with ExitStack() as stack:
            if server is None:
                from styleclip_server.serving.supervisor import running_server

                console.print("starting a server (give --server to measure a running one)")
                server = stack.enter_context(running_server(canary=0)).grpc_url
            client = stack.enter_context(Client(server))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(running_page(server, folder / "page.log"))
            page = stack.enter_context(running_browser()).new_page()
            page.set_default_timeout(WAIT)
            open_page(page, url)
            # From the lowest strength, so that none repeats.
            press_slider_key(page, "How strong", "Home")
            wait_until_idle(page)
            for _ in range(_WARM_UP):
                measure_move(page)
                wait_until_idle(page)
            requests_before, seconds_before = count_edits(client)
            latencies = []
            for _ in range(moves):
                latencies.append(measure_move(page))
                wait_until_idle(page)
            requests, seconds = count_edits(client)
    except StyleclipError as error:
        raise click.ClickException(str(error)) from error
    requests -= requests_before
    if requests != moves:
        raise click.ClickException(
            f"the server answered {requests} edits for {moves} moves: does another client use it?"
        )
    server_mean = 1000 * (seconds - seconds_before) / requests
    server_part = server_mean / statistics.mean(latencies)
    page_mean = statistics.mean(latencies) - server_mean
    median, p90, fastest = statistics.median(latencies), quantile(latencies, 90), min(latencies)
    cores = os.cpu_count()
    if as_json:
        results = {
            "moves": moves,
            "median_ms": median,
            "p90_ms": p90,
            "fastest_ms": fastest,
            "server_edit_mean_ms": server_mean,
            "server_part": server_part,
            "page_and_browser_mean_ms": page_mean,
            "cores": cores,
        }
        print(json.dumps(results, indent=1))
    else:
        print(
            f"{moves} moves of a slider, from the key to the image: median {median:.0f} ms, "
            f"p90 {p90:.0f} ms, fastest {fastest:.0f} ms\n"
            f"of it the server's `edit`: {server_mean:.0f} ms ({100 * server_part:.0f}%); "
            f"page and browser {page_mean:.0f} ms ({cores} cores for server, page and browser)"
        )


if __name__ == "__main__":
    sys.exit(main())
