"""The manifests of docker/kubernetes, as kubectl renders them.

They are checked against Kubernetes' schemas, the restricted pod security standard, and what they
refer to: ports, options of the server, commands, metrics. No cluster runs here.
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

from kubernetes_schemas import HEADER, PREDICTOR, SCALED_OBJECT, strict_object
from paths import ROOT
from polling import SECONDS
from styleclip_contract import wire
from styleclip_server.__main__ import command as server_command
from styleclip_server.serving.configs import QUEUE_SECONDS

FOLDER = ROOT / "docker/kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
VERSIONS = ("1.30", "1.37")  # of Kubernetes: the first with preStop's sleep, and the newest known
KUBECTL = shutil.which("kubectl", path=Path(sys.executable).parent) or shutil.which("kubectl")

pytestmark = [
    pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed (`make .venv/.dev` does)"),
    pytest.mark.parametrize("overlay", OVERLAYS),
]


@functools.cache
def render(overlay):
    result = subprocess.run(
        [KUBECTL, "kustomize", FOLDER / "overlays" / overlay], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "kubectl warned"
    return tuple(yaml.safe_load_all(result.stdout))


def list_objects(overlay, *kinds):
    return [manifest for manifest in render(overlay) if manifest["kind"] in kinds]


def get_object(overlay, kind, name):
    (manifest,) = (m for m in list_objects(overlay, kind) if m["metadata"]["name"] == name)
    return manifest


def split_predictor(predictor):
    """Return KServe's fields of a predictor, and the pod's."""
    kserve_fields = {k: v for k, v in predictor.items() if k in PREDICTOR["properties"]}
    return kserve_fields, {k: v for k, v in predictor.items() if k not in kserve_fields}


def list_pods(overlay):
    """Return each pod's (labels, spec) by the name of its owner."""
    owners = {}
    for manifest in list_objects(overlay, "Deployment", "Job"):
        template = manifest["spec"]["template"]
        owners[manifest["metadata"]["name"]] = (template["metadata"]["labels"], template["spec"])
    for manifest in list_objects(overlay, "InferenceService"):
        kserve_fields, spec = split_predictor(manifest["spec"]["predictor"])
        owners[manifest["metadata"]["name"]] = (kserve_fields["labels"], spec)
    return owners


def list_containers(overlay):
    """Yield (owner, container, whether it runs until it is stopped)."""
    for owner, (_, spec) in list_pods(overlay).items():
        for container in spec.get("initContainers", ()):
            yield owner, container, False
        for container in spec["containers"]:
            yield owner, container, spec.get("restartPolicy", "Always") == "Always"


def server_pod(overlay):
    labels, spec = list_pods(overlay)["styleclip-server"]
    (container,) = spec["containers"]
    return labels, spec, container


def read_environment(container):
    return {entry["name"]: entry["value"] for entry in container.get("env", ())}


def select_pods(overlay, selector):
    """Return the pods that a selector matches, by the name of their owner."""
    labels = selector.get("matchLabels", selector).items()
    return {name: spec for name, (own, spec) in list_pods(overlay).items() if labels <= own.items()}


def port_names(spec):
    return {p["name"]: p["containerPort"] for c in spec["containers"] for p in c.get("ports", ())}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_is_in_the_schema_of_kubernetes(overlay, version):
    for manifest in render(overlay):
        if manifest["kind"] not in ("InferenceService", "ScaledObject"):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_every_object_is_in_the_namespace_and_has_the_part_of_label(overlay):
    for manifest in render(overlay):
        space = {} if manifest["kind"] == "Namespace" else {"namespace": "styleclip"}
        assert {k: v for k, v in manifest["metadata"].items() if k == "namespace"} == space
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "styleclip"


def test_a_misspelled_field_is_an_error(overlay):
    wrong = {**list_objects(overlay, "Ingress")[0], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_keda_and_kserve_objects_match_their_schemas(overlay):
    for manifest in list_objects(overlay, "ScaledObject"):
        jsonschema.validate(manifest, SCALED_OBJECT)
    for manifest in list_objects(overlay, "InferenceService"):
        jsonschema.validate(
            manifest, strict_object({**HEADER, "spec": strict_object({"predictor": {}})})
        )
        kserve_fields, spec = split_predictor(manifest["spec"]["predictor"])
        jsonschema.validate(kserve_fields, PREDICTOR)
        assert spec["containers"][0]["name"] == "kserve-container"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}}
        for version in VERSIONS:
            kubernetes_validate.validate({**pod, "spec": spec}, version, strict=True)


def test_every_pod_meets_the_restricted_standard_and_has_no_service_account(overlay):
    for owner, (_, spec) in list_pods(overlay).items():
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert spec["automountServiceAccountToken"] is False, owner
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, owner
        kinds = {key for volume in spec["volumes"] for key in volume} - {"name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim"}, owner


def test_every_container_is_read_only_unprivileged_and_has_limits(overlay):
    for owner, container, _ in list_containers(overlay):
        where = f"{owner}/{container['name']}"
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, where
        for what in ("requests", "limits"):
            assert container["resources"][what].keys() >= {"cpu", "memory"}, where


def test_every_image_is_pinned_to_a_version_or_digest(overlay):
    for owner, container, _ in list_containers(overlay):
        assert re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", container["image"]), owner


def test_every_empty_dir_has_a_size_limit(overlay):
    for owner, (_, spec) in list_pods(overlay).items():
        for volume in spec["volumes"]:
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], owner


def test_network_policies_deny_by_default_and_select_existing_pods_and_ports(overlay):
    deny = get_object(overlay, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in list_objects(overlay, "NetworkPolicy"):
        spec = policy["spec"]
        selected = select_pods(overlay, spec["podSelector"])
        assert selected, policy["metadata"]["name"]
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            assert rule["ports"] and (rule.get("from") or rule.get("to"))
        for rule in spec.get("ingress", ()):
            for port in rule["ports"]:
                assert all(port["port"] in port_names(pod) for pod in selected.values())


def test_only_clients_and_prometheus_reach_the_server(overlay):
    rules = get_object(overlay, "NetworkPolicy", "server")["spec"]["ingress"]
    allowed = {port["port"]: rule["from"] for rule in rules for port in rule["ports"]}
    assert allowed.keys() == {"http", "grpc", "metrics"}
    (clients,) = allowed["grpc"]
    assert allowed["http"] == allowed["grpc"]
    assert select_pods(overlay, clients["podSelector"]).keys() == {"styleclip-ui"}


def test_every_serving_container_has_probes_and_the_server_is_probed_by_an_edit(overlay):
    for owner, container, serves in list_containers(overlay):
        probes = {"startupProbe", "readinessProbe", "livenessProbe"}
        assert (probes <= container.keys()) == serves, owner
    for name in probes:
        probe = server_pod(overlay)[2][name]
        assert probe["exec"]["command"] == ["python3", "-m", "styleclip_server.health"]


def test_shared_memory_is_in_memory_and_fits_the_memory_limit(overlay):
    _, spec, container = server_pod(overlay)
    (name,) = (m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == name)
    assert volume["emptyDir"]["medium"] == "Memory"
    assert parse_gibibytes(volume["emptyDir"]["sizeLimit"]) >= 1
    assert parse_gibibytes(container["resources"]["limits"]["memory"]) >= 4


def test_the_server_cannot_change_its_networks(overlay):
    _, _, container = server_pod(overlay)
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["models"]["readOnly"] is True
    for owner, other, _ in list_containers(overlay):
        volumes = {volume["name"] for volume in list_pods(overlay)[owner][1]["volumes"]}
        assert {mount["name"] for mount in other.get("volumeMounts", ())} <= volumes


def test_each_setting_is_an_option_of_the_server(overlay):
    options = {f"STYLECLIP_{p.name.upper()}": p for p in server_command.params}
    for name, value in read_environment(server_pod(overlay)[2]).items():
        options[name].type.convert(value, options[name], None)


def test_requests_under_way_are_finished_before_the_pod_is_killed(overlay):
    _, spec, container = server_pod(overlay)
    drain = int(read_environment(container)["STYLECLIP_EXIT_TIMEOUT"])
    assert drain > QUEUE_SECONDS
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    age = int(read_environment(container)["STYLECLIP_CONNECTION_AGE"])
    assert 0 < 1.1 * age < sleep - 30  # until DNS and clients have noticed
    assert spec["terminationGracePeriodSeconds"] >= sleep + drain + 5  # before Triton's SIGKILL


def test_the_page_reaches_all_servers_through_a_headless_service(overlay):
    service = get_object(overlay, "Service", "styleclip-server")["spec"]
    assert service["clusterIP"] == "None"  # the name resolves to the pods
    _, ui = list_pods(overlay)["styleclip-ui"]
    host, _, port = read_environment(ui["containers"][0])["STYLECLIP_SERVER"].partition(":")
    assert host == "styleclip-server"
    assert int(port) in [entry["port"] for entry in service["ports"]]


def test_services_budgets_and_the_ingress_refer_to_existing_objects(overlay):
    for service in list_objects(overlay, "Service"):
        selected = select_pods(overlay, service["spec"]["selector"])
        assert selected
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in port_names(spec) for spec in selected.values())
    for budget in list_objects(overlay, "PodDisruptionBudget"):
        assert select_pods(overlay, budget["spec"]["selector"])
    (ingress,) = list_objects(overlay, "Ingress")
    hosts = {host for entry in ingress["spec"]["tls"] for host in entry["hosts"]}
    for rule in ingress["spec"]["rules"]:
        assert rule["host"] in hosts
        backend = rule["http"]["paths"][0]["backend"]["service"]
        ports = get_object(overlay, "Service", backend["name"])["spec"]["ports"]
        assert backend["port"]["name"] in [port["name"] for port in ports]


def test_servers_are_spread_over_nodes(overlay):
    labels, spec, _ = server_pod(overlay)
    (term,) = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    for rule in (term["podAffinityTerm"], *spec["topologySpreadConstraints"]):
        assert rule["labelSelector"]["matchLabels"].items() <= labels.items()


def test_the_job_is_suspended_and_calls_existing_commands(overlay):
    for job in list_objects(overlay, "Job"):
        assert job["spec"]["suspend"] is True
        spec = job["spec"]["template"]["spec"]
        for container in (*spec["initContainers"], *spec["containers"]):
            line = shlex.split(shlex.join(container["command"]).replace("'", ""))
            name, *arguments = line[line.index("styleclip-export") + 1 :]
            module = importlib.import_module(f"styleclip_export.commands.{name}")
            module.command.make_context(name, arguments)  # raises for unknown arguments


def test_the_scaling_query_uses_metrics_of_the_server(overlay, server):
    with urllib.request.urlopen(server.metrics_url, timeout=SECONDS) as response:
        existing = set(re.findall(r"^(\w+)\{", response.read().decode(), re.MULTILINE))
    query, _ = read_scaling(overlay)
    used = set(re.findall(r"\bnv_\w+", query))
    assert len(used) == 2 and used <= existing
    target = read_scaling(overlay)[1][0]
    assert query.startswith("clamp_max(") and query.rstrip().endswith(f" {2 * target})")
    (models,) = re.findall(r'model=~"(.*?)"', query)
    assert set(models.split("|")) == {model.name for model in wire.ENSEMBLES}


def test_all_scalers_have_the_same_target_and_at_least_two_servers(overlay):
    assert read_scaling(overlay)[1] == (0.075, 2, 16)


def parse_gibibytes(quantity):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) / {"Mi": 1024, "Gi": 1}[unit]


def read_scaling(overlay):
    """Return the query, and (target in seconds, minimum, maximum of servers)."""
    for scaled in list_objects(overlay, "ScaledObject"):
        spec = scaled["spec"]
        assert spec["scaleTargetRef"]["name"] in list_pods(overlay)
        (trigger,) = spec["triggers"]
        target = float(trigger["metadata"]["threshold"])
        return trigger["metadata"]["query"], (
            target, spec["minReplicaCount"], spec["maxReplicaCount"],
        )  # fmt: skip
    for service in list_objects(overlay, "InferenceService"):
        predictor = service["spec"]["predictor"]
        (metric,) = predictor["autoScaling"]["metrics"]
        target = float(metric["external"]["target"]["value"])
        return metric["external"]["metric"]["query"], (
            target, predictor["minReplicas"], predictor["maxReplicas"],
        )  # fmt: skip
    spec = get_object(overlay, "HorizontalPodAutoscaler", "styleclip-server")["spec"]
    assert spec["scaleTargetRef"]["name"] in list_pods(overlay)
    (metric,) = spec["metrics"]
    adapter = yaml.safe_load((FOLDER / "components/autoscaling/prometheus-adapter.yaml").open())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    target = int(metric["pods"]["target"]["averageValue"].removesuffix("m")) / 1000
    return rule["metricsQuery"], (target, spec["minReplicas"], spec["maxReplicas"])
