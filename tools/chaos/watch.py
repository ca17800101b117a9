"""`python -m tools.chaos.watch PLOT.png`: the dashboard of a busy server.

Prometheus scrapes the metrics and evaluates the rules of docker/monitoring; the plot shows the
expressions of Grafana's dashboard. After 80 s the server is overloaded for 30 s, after 150 s a step
is killed. Needs Debian's package prometheus, and matplotlib.
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
from tools.chaos.soak import send_random_request

MONITORING = Path(__file__).resolve().parents[2] / "docker" / "monitoring"
MINUTES = 3.5
PANELS = ("Answers per second", "Duration of a request", "Refusals and failures per second",
          "Where the time goes", "Requests waiting", "Cache hits")  # fmt: skip


def write_configuration(folder: Path, target: str) -> Path:
    """Write the project's configuration with another address of the server."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    config["rule_files"] = [str(MONITORING / "alerts.yml")]
    job = {"job_name": "styleclip", "static_configs": [{"targets": [target]}]}
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config | {"scrape_configs": [job]}))
    return path


def generate_load(server: Server) -> None:
    """Run two users, a burst of 30 s after 80 s, and kill a step after 150 s."""
    stopping = threading.Event()

    def run_user(seed: int) -> None:
        rng = random.Random(seed)
        with Client(server.grpc, retries=10) as client:
            while not stopping.wait(rng.expovariate(1)):
                try:
                    send_random_request(client, rng)
                except StyleclipError:
                    continue

    users = [threading.Thread(target=run_user, args=(seed,)) for seed in range(2)]
    for user in users:
        user.start()
    time.sleep(80)
    with Load(server.grpc, rate=20, retries=0):
        time.sleep(30)
    time.sleep(40)
    faults.kill("/compose/1/")(server)
    time.sleep(60)
    stopping.set()
    for user in users:
        user.join()


def query(api: httpx.Client, expression: str, start: float) -> list[dict[str, Any]]:
    """Query the series of an expression since `start`."""
    params = {"query": expression, "start": start, "end": time.time(), "step": 2}
    result: list[dict[str, Any]] = api.get("query_range", params=params).json()["data"]["result"]
    return result


def plot(api: httpx.Client, start: float, path: Path) -> None:
    """Plot some panels of the dashboard."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    dashboard = json.loads((MONITORING / "grafana/dashboards/styleclip.json").read_text())
    panels = {panel["title"]: panel for panel in dashboard["panels"]}
    figure, grid = plt.subplots(2, 3, figsize=(13, 6), layout="constrained", sharex=True)
    for axes, title in zip(grid.flat, PANELS, strict=True):
        for target in panels[title]["targets"]:
            for series in query(api, target["expr"], start):
                label = target["legendFormat"]
                for name, value in series["metric"].items():
                    label = label.replace("{{" + name + "}}", value)
                minutes = [(when - start) / 60 for when, _ in series["values"]]
                axes.plot(minutes, [float(value) for _, value in series["values"]], label=label)
        unit = panels[title]["fieldConfig"]["defaults"]["unit"]
        axes.set_title(f"{title} ({unit})" if unit != "short" else title, fontsize=10)
        axes.legend(fontsize=7, loc="upper left")
        axes.set_xlim(0, MINUTES)
    for axes in grid[-1]:
        axes.set_xlabel("minutes")
    figure.savefig(path, dpi=80)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("plot_path", type=click.Path(path_type=Path))
def main(plot_path: Path) -> None:
    """Run a server under load for some minutes and plot what Prometheus recorded."""
    server = Server()
    with tempfile.TemporaryDirectory() as folder:
        config = write_configuration(Path(folder), server.metrics)
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
             "--web.listen-address=127.0.0.1:19092", "--log.level=error"]
        )  # fmt: skip
        try:
            start = time.time()
            generate_load(server)
            with httpx.Client(base_url="http://127.0.0.1:19092/api/v1/", trust_env=False) as api:
                plot(api, start, plot_path)
                alerts = api.get("rules", params={"type": "alert"}).json()["data"]["groups"]
                for rule in (rule for group in alerts for rule in group["rules"]):
                    click.echo(f"{rule['name']}: {rule['state']}, {rule['health']}")
        finally:
            prometheus.terminate()
            prometheus.wait()
            server.stop()


if __name__ == "__main__":
    main()
