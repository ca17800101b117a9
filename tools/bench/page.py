"""How long from a slider's move to the new picture in the browser, and what part the server has.

A real page in headless Chromium on a real server. Each move goes to a strength that was not seen
before, so nothing comes from the session's store. Both times of a move are the browser's own: of
the key event, and of the frame after the new picture was loaded. The server's part is the mean of
its `edit` requests, from Triton's statistics.
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
    press,
    running_browser,
    running_page,
    settle,
    show,
)

_WARM_UP = 3

# Resolves with the milliseconds from the next key to the frame that shows the next picture.
_MEASURE = """(image) => {
  window.measured = new Promise((done) => {
    let start;
    document.addEventListener("keydown", (event) => { start = event.timeStamp; },
      { capture: true, once: true });
    image.addEventListener("load", () => requestAnimationFrame(() =>
      setTimeout(() => done(performance.now() - start))), { once: true });
  });
}"""


def move(page: Page) -> float:
    """One step of the strength slider: milliseconds until the new picture is on the screen."""
    page.locator("img.after").evaluate(_MEASURE)
    press(page, "How strong", "ArrowRight")
    return float(page.evaluate("() => window.measured"))


def edits(client: Client) -> tuple[int, float]:
    """`edit` requests that the server answered, and the seconds that they took in all."""
    (timing,) = (timing for timing in client.timings() if timing.name == "edit")
    return timing.requests, timing.seconds


def quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of an idle server; without it one is started.")
@click.option("--moves", default=40, type=click.IntRange(2, 140), help="Slider moves to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def main(server: str | None, moves: int, as_json: bool) -> None:
    """Measure slider-to-picture latency in a real browser."""
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
            show(page, url)
            press(page, "How strong", "Home")  # from one end, so that no strength comes twice
            settle(page)
            for _ in range(_WARM_UP):
                move(page)
                settle(page)
            requests, seconds = edits(client)
            latencies = []
            for _ in range(moves):
                latencies.append(move(page))
                settle(page)
            asked, took = (now - then for now, then in zip(edits(client), (requests, seconds),
                                                           strict=True))  # fmt: skip
    except StyleclipError as error:
        raise click.ClickException(str(error)) from error
    if asked != moves:
        raise click.ClickException(
            f"the server answered {asked} edits for {moves} moves: is somebody else using it?"
        )
    part = 1000 * took / asked
    found = {
        "moves": moves,
        "median_ms": statistics.median(latencies),
        "p90_ms": quantile(latencies, 90),
        "fastest_ms": min(latencies),
        "server_edit_mean_ms": part,
        "server_part": part / statistics.mean(latencies),
        "page_and_browser_mean_ms": statistics.mean(latencies) - part,
        "cores": os.cpu_count(),
    }
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{moves} moves of a slider, from the key to the picture: median "
            f"{found['median_ms']:.0f} ms, p90 {found['p90_ms']:.0f} ms, fastest "
            f"{found['fastest_ms']:.0f} ms\n"
            f"of it the server's `edit`: {part:.0f} ms ({100 * found['server_part']:.0f}%); "
            f"page and browser {found['page_and_browser_mean_ms']:.0f} ms "
            f"({os.cpu_count()} cores for server, page and browser)"
        )


if __name__ == "__main__":
    sys.exit(main())
