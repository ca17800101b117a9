"""The manifests of docker/kubernetes, as kubectl renders them.

Checked by Kubernetes' own schemas, by the rules of a locked-down cluster, and against what they
name: ports, options of the server, commands, metrics. No cluster runs here.
"""

import functools
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from kubernetes_schemas import HEADER, PREDICTOR, SCALED_OBJECT, closed
from styleclip_server.__main__ import command as server_command
from styleclip_server.serving.configs import ENSEMBLES, QUEUE_SECONDS

FOLDER = Path(__file__).resolve().parents[2] / "docker/kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
VERSIONS = ("1.30", "1.37")  # of Kubernetes: the first with preStop's sleep, and the newest known
KUBECTL = shutil.which("kubectl", path=Path(sys.executable).parent) or shutil.which("kubectl")

pytestmark = [
    pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed (`make .venv/.dev` does)"),
    pytest.mark.parametrize("overlay", OVERLAYS),
]


@functools.cache
def rendered(overlay):
    done = subprocess.run(
        [KUBECTL, "kustomize", FOLDER / "overlays" / overlay], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kubectl warned"
    return tuple(yaml.safe_load_all(done.stdout))


def objects(overlay, *kinds):
    return [each for each in rendered(overlay) if each["kind"] in kinds]


def the(overlay, kind, name):
    (found,) = (each for each in objects(overlay, kind) if each["metadata"]["name"] == name)
    return found


def split(predictor):
    """KServe's own part of a predictor, and the pod's."""
    own = {key: value for key, value in predictor.items() if key in PREDICTOR["properties"]}
    return own, {key: value for key, value in predictor.items() if key not in own}


def pods(overlay):
    """Name of its owner → (labels, pod spec)."""
    found = {}
    for each in objects(overlay, "Deployment", "Job"):
        template = each["spec"]["template"]
        found[each["metadata"]["name"]] = (template["metadata"]["labels"], template["spec"])
    for each in objects(overlay, "InferenceService"):
        own, spec = split(each["spec"]["predictor"])
        found[each["metadata"]["name"]] = (own["labels"], spec)
    return found


def containers(overlay):
    """(owner, container, whether it serves until it is told to stop)."""
    for owner, (_, spec) in pods(overlay).items():
        for container in spec.get("initContainers", ()):
            yield owner, container, False
        for container in spec["containers"]:
            yield owner, container, spec.get("restartPolicy", "Always") == "Always"


def server_pod(overlay):
    labels, spec = pods(overlay)["styleclip-server"]
    (container,) = spec["containers"]
    return labels, spec, container


def environment(container):
    return {entry["name"]: entry["value"] for entry in container.get("env", ())}


def selected(overlay, selector):
    """Pods that a selector means."""
    wanted = selector.get("matchLabels", selector).items()
    return {n: spec for n, (labels, spec) in pods(overlay).items() if wanted <= labels.items()}


def port_names(spec):
    return {p["name"]: p["containerPort"] for c in spec["containers"] for p in c.get("ports", ())}


class TestSchemas:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_kubernetes_knows_every_field(self, overlay, version):
        for each in rendered(overlay):
            if each["kind"] not in ("InferenceService", "ScaledObject"):
                kubernetes_validate.validate(each, version, strict=True)

    def test_all_is_in_one_namespace_and_part_of_one_whole(self, overlay):
        for each in rendered(overlay):
            space = {} if each["kind"] == "Namespace" else {"namespace": "styleclip"}
            assert {k: v for k, v in each["metadata"].items() if k == "namespace"} == space
            assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "styleclip"

    def test_a_misspelt_field_would_be_found(self, overlay):
        wrong = {**objects(overlay, "Ingress")[0], "specs": {}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)

    def test_what_keda_and_kserve_get_is_theirs_or_a_pod(self, overlay):
        for each in objects(overlay, "ScaledObject"):
            jsonschema.validate(each, SCALED_OBJECT)
        for each in objects(overlay, "InferenceService"):
            jsonschema.validate(each, closed({**HEADER, "spec": closed({"predictor": {}})}))
            own, spec = split(each["spec"]["predictor"])
            jsonschema.validate(own, PREDICTOR)
            assert spec["containers"][0]["name"] == "kserve-container"
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}}
            for version in VERSIONS:
                kubernetes_validate.validate({**pod, "spec": spec}, version, strict=True)


class TestLockedDown:
    def test_every_pod_satisfies_the_restricted_standard_and_knows_no_cluster(self, overlay):
        for owner, (_, spec) in pods(overlay).items():
            context = spec["securityContext"]
            assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, owner
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, owner
            assert spec["automountServiceAccountToken"] is False, owner
            assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, owner
            kinds = {key for volume in spec["volumes"] for key in volume} - {"name"}
            assert kinds <= {"emptyDir", "persistentVolumeClaim"}, owner

    def test_every_container_is_read_only_powerless_and_bounded(self, overlay):
        for owner, container, _ in containers(overlay):
            where = f"{owner}/{container['name']}"
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, where
            for what in ("requests", "limits"):
                assert container["resources"][what].keys() >= {"cpu", "memory"}, where

    def test_every_image_has_a_tag_that_does_not_move(self, overlay):
        for owner, container, _ in containers(overlay):
            assert re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", container["image"]), owner

    def test_memory_and_disk_that_pods_take_is_bounded(self, overlay):
        for owner, (_, spec) in pods(overlay).items():
            for volume in spec["volumes"]:
                if "emptyDir" in volume:
                    assert "sizeLimit" in volume["emptyDir"], owner

    def test_nobody_talks_to_anybody_but_as_it_is_said(self, overlay):
        deny = the(overlay, "NetworkPolicy", "default-deny")["spec"]
        assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        for policy in objects(overlay, "NetworkPolicy"):
            spec = policy["spec"]
            chosen = selected(overlay, spec["podSelector"])
            assert chosen, policy["metadata"]["name"]
            for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
                assert rule["ports"] and (rule.get("from") or rule.get("to"))
            for rule in spec.get("ingress", ()):
                for port in rule["ports"]:
                    assert all(port["port"] in port_names(pod) for pod in chosen.values())

    def test_the_server_hears_its_clients_and_prometheus_alone(self, overlay):
        rules = the(overlay, "NetworkPolicy", "server")["spec"]["ingress"]
        heard = {port["port"]: rule["from"] for rule in rules for port in rule["ports"]}
        assert heard.keys() == {"grpc", "metrics"}
        (clients,) = heard["grpc"]
        assert selected(overlay, clients["podSelector"]).keys() == {"styleclip-ui"}


class TestServing:
    def test_what_serves_is_probed_and_the_server_by_an_edit(self, overlay):
        for owner, container, serves in containers(overlay):
            probes = {"startupProbe", "readinessProbe", "livenessProbe"}
            assert (probes <= container.keys()) == serves, owner
        for name in probes:
            probe = server_pod(overlay)[2][name]
            assert probe["exec"]["command"] == ["python3", "-m", "styleclip_server.health"]

    def test_shared_memory_is_memory_and_counts_below_the_limit(self, overlay):
        _, spec, container = server_pod(overlay)
        (name,) = (m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")
        (volume,) = (volume for volume in spec["volumes"] if volume["name"] == name)
        assert volume["emptyDir"]["medium"] == "Memory"
        assert gibibytes(volume["emptyDir"]["sizeLimit"]) >= 1
        assert gibibytes(container["resources"]["limits"]["memory"]) >= 4

    def test_the_server_cannot_change_its_networks(self, overlay):
        _, _, container = server_pod(overlay)
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts["models"]["readOnly"] is True
        for owner, each, _ in containers(overlay):
            known = {volume["name"] for volume in pods(overlay)[owner][1]["volumes"]}
            assert {mount["name"] for mount in each.get("volumeMounts", ())} <= known

    def test_each_setting_is_an_option_of_the_server(self, overlay):
        options = {f"STYLECLIP_{p.name.upper()}": p for p in server_command.params}
        for name, value in environment(server_pod(overlay)[2]).items():
            options[name].type.convert(value, options[name], None)

    def test_requests_under_way_are_finished_before_the_pod_is_killed(self, overlay):
        _, spec, container = server_pod(overlay)
        drain = int(environment(container)["STYLECLIP_EXIT_TIMEOUT"])
        assert drain > QUEUE_SECONDS
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        age = int(environment(container)["STYLECLIP_CONNECTION_AGE"])
        assert 0 < 1.1 * age < sleep - 30  # until name servers and clients have heard of it
        assert spec["terminationGracePeriodSeconds"] >= sleep + drain + 5  # before Triton's SIGKILL

    def test_the_page_finds_all_servers_by_one_name_and_takes_turns(self, overlay):
        service = the(overlay, "Service", "styleclip-server")["spec"]
        assert service["clusterIP"] == "None"  # the name stands for the pods themselves
        _, ui = pods(overlay)["styleclip-ui"]
        host, _, port = environment(ui["containers"][0])["STYLECLIP_SERVER"].partition(":")
        assert host == "styleclip-server"
        assert int(port) in [entry["port"] for entry in service["ports"]]

    def test_services_disruption_budgets_and_the_ingress_name_what_is_there(self, overlay):
        for service in objects(overlay, "Service"):
            chosen = selected(overlay, service["spec"]["selector"])
            assert chosen
            for port in service["spec"]["ports"]:
                assert all(port["targetPort"] in port_names(spec) for spec in chosen.values())
        for budget in objects(overlay, "PodDisruptionBudget"):
            assert selected(overlay, budget["spec"]["selector"])
        (ingress,) = objects(overlay, "Ingress")
        hosts = {host for entry in ingress["spec"]["tls"] for host in entry["hosts"]}
        for rule in ingress["spec"]["rules"]:
            assert rule["host"] in hosts
            backend = rule["http"]["paths"][0]["backend"]["service"]
            ports = the(overlay, "Service", backend["name"])["spec"]["ports"]
            assert backend["port"]["name"] in [port["name"] for port in ports]

    def test_servers_stand_apart(self, overlay):
        labels, spec, _ = server_pod(overlay)
        (term,) = spec["affinity"]["podAntiAffinity"][
            "preferredDuringSchedulingIgnoredDuringExecution"
        ]
        for each in (term["podAffinityTerm"], *spec["topologySpreadConstraints"]):
            assert each["labelSelector"]["matchLabels"].items() <= labels.items()

    def test_the_job_calls_commands_that_exist_and_waits_for_a_word_on_licences(self, overlay):
        for job in objects(overlay, "Job"):
            assert job["spec"]["suspend"] is True
            spec = job["spec"]["template"]["spec"]
            for container in (*spec["initContainers"], *spec["containers"]):
                line = shlex.split(shlex.join(container["command"]).replace("'", ""))
                name, *arguments = line[line.index("styleclip-export") + 1 :]
                module = importlib.import_module(f"styleclip_export.commands.{name}")
                module.command.make_context(name, arguments)  # refuses what it does not know


class TestScaling:
    def test_the_wait_of_an_edit_is_asked_of_metrics_that_the_server_has(self, overlay, server):
        with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
            there = set(re.findall(r"^(\w+)\{", answer.read().decode(), re.MULTILINE))
        query, _ = scaling(overlay)
        asked = set(re.findall(r"\bnv_\w+", query))
        assert len(asked) == 2 and asked <= there
        target = scaling(overlay)[1][0]
        assert query.startswith("clamp_max(") and query.rstrip().endswith(f" {2 * target})")
        (models,) = re.findall(r'model=~"(.*?)"', query)
        assert set(models.split("|")) == ENSEMBLES.keys()

    def test_all_scalers_have_the_same_target_and_at_least_two_servers(self, overlay):
        assert scaling(overlay)[1] == (0.075, 2, 16)


def gibibytes(quantity):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) / {"Mi": 1024, "Gi": 1}[unit]


def scaling(overlay):
    """The query, and (target in seconds, fewest, most servers)."""
    for scaled in objects(overlay, "ScaledObject"):
        spec = scaled["spec"]
        assert spec["scaleTargetRef"]["name"] in pods(overlay)
        (trigger,) = spec["triggers"]
        target = float(trigger["metadata"]["threshold"])
        return trigger["metadata"]["query"], (
            target, spec["minReplicaCount"], spec["maxReplicaCount"],
        )  # fmt: skip
    for service in objects(overlay, "InferenceService"):
        predictor = service["spec"]["predictor"]
        (metric,) = predictor["autoScaling"]["metrics"]
        target = float(metric["external"]["target"]["value"])
        return metric["external"]["metric"]["query"], (
            target, predictor["minReplicas"], predictor["maxReplicas"],
        )  # fmt: skip
    spec = the(overlay, "HorizontalPodAutoscaler", "styleclip-server")["spec"]
    assert spec["scaleTargetRef"]["name"] in pods(overlay)
    (metric,) = spec["metrics"]
    adapter = yaml.safe_load((FOLDER / "components/autoscaling/prometheus-adapter.yaml").open())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    target = int(metric["pods"]["target"]["averageValue"].removesuffix("m")) / 1000
    return rule["metricsQuery"], (target, spec["minReplicas"], spec["maxReplicas"])
