"""`python -m tools.chaos.watch PICTURE.png`: what Prometheus sees of a busy server.

A real Prometheus reads the metrics and evaluates the rules of docker/monitoring; the picture shows
the expressions of Grafana's dashboard. After 80 s the load is more than the server can do for a
while, after 150 s a step is killed. Needs Debian's package prometheus, and matplotlib.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import httpx
import yaml

from styleclip_client import Client
from styleclip_contract.errors import StyleclipError
from tools.chaos import faults
from tools.chaos.load import Load
from tools.chaos.server import Server
from tools.chaos.soak import one_request

MONITORING = Path(__file__).resolve().parents[2] / "docker" / "monitoring"
MINUTES = 3.5
PANELS = ("Answers a second", "Duration of a request", "Refusals and failures a second",
          "Where the time goes", "Requests waiting", "Cache hits")  # fmt: skip


def configuration(folder: Path, target: str) -> Path:
    """The project's own configuration, but for where the server is."""
    told = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    told["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    told["rule_files"] = [str(MONITORING / "alerts.yml")]
    job = {"job_name": "styleclip", "static_configs": [{"targets": [target]}]}
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(told | {"scrape_configs": [job]}))
    return path


def busy(server: Server) -> None:
    """People; after 80 s a rush of 30 s; after 150 s a step dies."""
    end = threading.Event()

    def person(seed: int) -> None:
        dice = random.Random(seed)
        with Client(server.grpc, retries=10) as client:
            while not end.wait(dice.expovariate(1)):
                try:
                    one_request(client, dice)
                except StyleclipError:
                    continue

    people = [threading.Thread(target=person, args=(seed,)) for seed in range(2)]
    for each in people:
        each.start()
    time.sleep(80)
    with Load(server.grpc, rate=20, retries=0):
        time.sleep(30)
    time.sleep(40)
    faults.kill("/compose/1/")(server)
    time.sleep(60)
    end.set()
    for each in people:
        each.join()


def series(api: httpx.Client, expression: str, began: float) -> list[dict[str, Any]]:
    """The results of a query over the time since `began`."""
    asked = {"query": expression, "start": began, "end": time.time(), "step": 2}
    result: list[dict[str, Any]] = api.get("query_range", params=asked).json()["data"]["result"]
    return result


def plot(api: httpx.Client, began: float, path: Path) -> None:
    """The chosen panels of the dashboard."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    dashboard = json.loads((MONITORING / "grafana/dashboards/styleclip.json").read_text())
    panels = {panel["title"]: panel for panel in dashboard["panels"]}
    figure, grid = plt.subplots(2, 3, figsize=(13, 6), layout="constrained", sharex=True)
    for axes, title in zip(grid.flat, PANELS, strict=True):
        for target in panels[title]["targets"]:
            for found in series(api, target["expr"], began):
                label = target["legendFormat"]
                for name, value in found["metric"].items():
                    label = label.replace("{{" + name + "}}", value)
                minutes = [(when - began) / 60 for when, _ in found["values"]]
                axes.plot(minutes, [float(value) for _, value in found["values"]], label=label)
        unit = panels[title]["fieldConfig"]["defaults"]["unit"]
        axes.set_title(f"{title} ({unit})" if unit != "short" else title, fontsize=10)
        axes.legend(fontsize=7, loc="upper left")
        axes.set_xlim(0, MINUTES)
    for axes in grid[-1]:
        axes.set_xlabel("minutes")
    figure.savefig(path, dpi=80)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("picture", type=click.Path(path_type=Path))
def main(picture: Path) -> None:
    """Watch a server with Prometheus for some minutes, and draw what it saw."""
    server = Server()
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), server.metrics)
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
             "--web.listen-address=127.0.0.1:19092", "--log.level=error"]
        )  # fmt: skip
        try:
            began = time.time()
            busy(server)
            with httpx.Client(base_url="http://127.0.0.1:19092/api/v1/", trust_env=False) as api:
                plot(api, began, picture)
                alerts = api.get("rules", params={"type": "alert"}).json()["data"]["groups"]
                for rule in (rule for group in alerts for rule in group["rules"]):
                    click.echo(f"{rule['name']}: {rule['state']}, {rule['health']}")
        finally:
            prometheus.terminate()
            prometheus.wait()
            server.stop()


if __name__ == "__main__":
    main()
