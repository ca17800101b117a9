"""The configuration of Prometheus and Grafana is valid and uses existing metrics."""

import json
import re
import shutil
import subprocess
import urllib.request

import pytest
import yaml

from paths import AVATAR, ROOT
from polling import wait_until
from styleclip_client import Client
from styleclip_contract.errors import NoFaceFound

FOLDER = ROOT / "docker/monitoring"
# Metrics that only a server with a GPU has, and Prometheus's own.
GPU_METRICS = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "up"}

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool comes with Debian's package prometheus"
)


def run_promtool(*arguments):
    result = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@promtool
def test_the_configuration_and_the_rules_are_valid():
    run_promtool("check", "config", "prometheus.yml")
    run_promtool("check", "rules", "alerts.yml")


@promtool
def test_each_alert_fires_only_for_its_cause():
    run_promtool("test", "rules", "alerts_test.yml")


def test_each_alert_is_tested_and_explained():
    alerts = [rule for rule in read_rules() if "alert" in rule]
    tested = (FOLDER / "alerts_test.yml").read_text()
    explained = (ROOT / "docs/operations.md").read_text()
    for rule in alerts:
        name = rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert f"\n### {name}\n" in explained
        assert re.search(rf"alertname: {name}\n +exp_alerts", tested)


def test_rules_and_dashboard_use_only_existing_metrics(server):
    with Client(server.grpc_url) as client:
        client.edit_photo(AVATAR, client.domain().edit("a sad face"))
        with pytest.raises(NoFaceFound):
            client.invert(AVATAR, align=True)
    page = urllib.request.urlopen(server.metrics_url).read().decode()
    existing = set(re.findall(r"^(\w+)[{ ]", page, re.MULTILINE)) | GPU_METRICS
    existing |= {rule["record"] for rule in read_rules() if "record" in rule}
    dashboard = json.loads((FOLDER / "grafana/dashboards/styleclip.json").read_text())
    expressions = [rule["expr"] for rule in read_rules()]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in expressions:
        names = set(re.findall(r"\b(?:nv_|styleclip[_:]|up\b)[\w:]*", strip_labels(expression)))
        assert names and names <= existing


def test_triton_counts_a_failed_ensemble_twice(server):
    """The rule `unanswered` halves it: a Triton that counts once needs another rule."""

    def failures():
        page = urllib.request.urlopen(server.metrics_url).read().decode()
        return int(re.search(r'_failure{model="invert",reason="OTHER".*} (\d+)', page)[1])

    # A failure may be counted after its response, also the last one of another test.
    count, before = 4, failures()
    with Client(server.grpc_url) as client:
        for _ in range(count):
            with pytest.raises(NoFaceFound):
                client.invert(AVATAR, align=True)
    wait_until(lambda: failures() - before >= 2 * count)
    assert failures() - before <= 2 * count + 2


def read_rules():
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def strip_labels(expression):
    return re.sub(r"{[^}]*}|\[[^\]]*\]", "", expression)
