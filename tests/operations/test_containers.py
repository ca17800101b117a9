"""Static checks of the images: Dockerfiles by hadolint and our rules, compose by its own parser."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT
from styleclip_server.serving.configs import QUEUE_LENGTH

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
FINAL = {
    "server": ("cpu", "gpu", "gpu-onnxruntime"),
    "ngc": ("ngc",),
    "ui": ("ui",),
    "export": ("export",),
}
OVERLAYS = ("", "compose.gpu.yaml", "compose.gpu.yaml compose.ngc.yaml", "compose.oidc.yaml")
OIDC = dict.fromkeys(
    ("ISSUER", "CLIENT_ID", "CLIENT_SECRET", "COOKIE_SECRET", "EMAIL_DOMAINS", "REDIRECT"), "given"
)
names = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)


def find_tool(name):
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return path or pytest.skip(f"{name} is missing: make test")


def read_instructions(path):
    """Return pairs (instruction, rest) of a Dockerfile without comments, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def read_stages(path):
    """Return each stage's instructions, its parent's first, by its name; and the global ARGs."""
    by_name, arguments = {}, []
    for word, rest in read_instructions(path):
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            assert name, f"{path.name}: a stage without a name"
            by_name[name] = current = [*by_name.get(parent, [("FROM", parent)])]
        elif not by_name:
            arguments.append((word, rest))
        else:
            current.append((word, rest))
    return by_name, arguments


@names
def test_hadolint_has_no_complaints(path):
    checked = subprocess.run([find_tool("hadolint"), path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_every_dockerfile_is_covered():
    assert {path.stem for path in DOCKERFILES} == set(FINAL)


@names
def test_the_base_can_be_swapped_and_is_pinned_to_a_version(path):
    _, arguments = read_stages(path)
    ((_, base),) = [pair for pair in arguments if pair[0] == "ARG"]
    assert re.fullmatch(r"BASE=[\w./-]+:\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", base)


@names
def test_runtime_images_are_unprivileged_have_a_health_check_and_no_build_tools(path):
    by_name, _ = read_stages(path)
    for name in FINAL[path.stem]:
        stage = by_name[name]
        assert stage[0] == ("FROM", "${BASE}")
        users = [rest for word, rest in stage if word == "USER"]
        assert users == ["1000:1000"]
        checks = [rest for word, rest in stage if word == "HEALTHCHECK"]
        assert len(checks) == 1
        if path.stem in ("server", "ngc"):
            assert '["python3", "-m", "styleclip_server.health"]' in checks[0]
        text = " ".join(rest for word, rest in stage if word == "RUN")
        for compiler in ("gcc", "build-essential", "clang", "cmake"):
            assert compiler not in text
        assert "pip" not in text


@names
def test_serving_images_contain_no_networks(path):
    for word, rest in read_instructions(path):
        assert word != "ADD"
        for source in rest.split()[:-1] if word == "COPY" else ():
            assert source.rstrip("/") not in (".", "model_repository")
            assert "avatars" not in source or path.stem == "export"


@names
def test_each_image_has_its_bill_of_materials_and_licenses(path):
    text = path.read_text()
    assert "describe.py" in text and "LICENSE NOTICE.md" in text


@names
def test_every_copied_file_exists_and_is_not_ignored(path):
    included = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for word, rest in read_instructions(path):
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == path or source.startswith(f"{path}/") for path in included)


def test_the_image_locks_agree_with_the_other_locks():
    def versions(name):
        lines = (ROOT / f"requirements/{name}.txt").read_text().splitlines()
        found = {}
        for name, version in (re.findall(r"^(.+)==([^ ]+)", line)[0] for line in lines[1:]):
            found.setdefault(name, set()).add(version)
        return found

    server, dev = versions("server"), versions("dev")
    for name in ("steps", "ui", "export"):
        for package, found in versions(name).items():
            assert found <= (server.get(package) or dev.get(package) or found), package
    for name in ("gpu", "torch"):
        assert "onnxruntime-gpu" in versions(name) and "onnxruntime" not in versions(name)
    # The release of Triton that the kernels for Hopper are written for.
    assert versions("torch")["triton"] == {"3.6.0"}
    assert versions("torch")["torchvision"] and versions("torch")["torch"] == {"2.11.0"}
    for name in ("server", "gpu", "ui", "steps"):
        assert "torch" not in versions(name)


def resolve_services(overlays="", profiles="*", **variables):
    """Return the services as `docker compose config` resolves them; it validates the files too."""
    command = [find_tool("docker-compose"), "--env-file", os.devnull, "--profile", profiles]
    for name in ("compose.yaml", *overlays.split()):
        command += ["-f", DOCKER / name]
    oidc = {f"OIDC_{name}": value for name, value in OIDC.items()}
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | oidc
    result = subprocess.run(
        [*command, "config", "--format", "json"],
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["services"]


@pytest.mark.parametrize("overlays", OVERLAYS, ids=lambda each: each or "alone")
def test_compose_accepts_its_files_and_every_file_that_they_name_exists(overlays):
    for name, service in resolve_services(overlays).items():
        build = service.get("build")
        if build:
            assert (ROOT / build["dockerfile"]).is_file()
            assert build["target"] in FINAL[Path(build["dockerfile"]).name.split(".")[0]]
        else:
            assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind" and not volume["source"].endswith("secrets"):
                assert Path(volume["source"]).exists(), volume["source"]


def test_compose_publishes_server_and_page_on_loopback():
    services = resolve_services(profiles="")
    assert set(services) == {"server", "ui"}
    for service in services.values():
        assert all(port["host_ip"] == "127.0.0.1" for port in service["ports"])


def test_every_service_is_hardened_and_the_server_has_shared_memory():
    services = resolve_services()
    assert set(services) == {"server", "ui", "prometheus", "grafana", "gateway"}
    for service in services.values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service and int(service["mem_limit"]) > 0
    server = services["server"]
    assert int(server["shm_size"]) == 2**30
    assert any(mount.startswith("/tmp:exec") for mount in server["tmpfs"])
    assert all(volume["read_only"] for volume in server["volumes"])


def test_ports_bases_and_domain_are_variables_that_the_example_lists():
    defaults = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text(), re.M))
    used = {}
    for path in DOCKER.glob("compose*.yaml"):
        used |= dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", path.read_text()))
    assert set(defaults) == set(used) | {f"OIDC_{name}" for name in OIDC}
    # An overlay may have another default for the image's name and for the load a GPU bears.
    for name in set(used) - {"SERVER_IMAGE", "REQUESTS_INSIDE"}:
        assert defaults[name] == used[name]
    server = resolve_services(BASE="base:1", GRPC_PORT="7", DOMAIN="ffhq")["server"]
    assert server["build"]["args"]["BASE"] == "base:1"
    assert "7" in [port["published"] for port in server["ports"]]
    assert server["environment"]["STYLECLIP_DOMAIN"] == "ffhq"


def test_with_oidc_the_gateway_has_no_passwords_and_oauth2_proxy_is_in_front_of_the_page():
    services = resolve_services("compose.oidc.yaml")
    (upstreams,) = [
        volume
        for volume in services["gateway"]["volumes"]
        if volume["target"] == "/etc/nginx/upstreams.conf"
    ]
    text = Path(upstreams["source"]).read_text()
    assert "server login:4180;" in text and "default off;" in text
    assert services["login"]["environment"]["OAUTH2_PROXY_UPSTREAMS"] == "http://ui:8501/"


def test_the_gateway_admits_fewer_requests_than_fit_into_a_queue():
    for overlay, kind in (("", "cpu"), ("compose.gpu.yaml", "gpu")):
        gateway = resolve_services(overlay)["gateway"]
        assert 0 < int(gateway["environment"]["MAX_CONCURRENT"]) < QUEUE_LENGTH[kind]
        gateway = resolve_services(overlay, REQUESTS_INSIDE="7")["gateway"]
        assert gateway["environment"]["MAX_CONCURRENT"] == "7"


def test_only_the_gpu_overlay_requests_a_gpu():
    def devices(overlays):
        deploy = resolve_services(overlays)["server"].get("deploy", {})
        return deploy.get("resources", {}).get("reservations", {}).get("devices", [])

    assert not devices("")
    (device,) = devices("compose.gpu.yaml")
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    assert resolve_services("compose.gpu.yaml")["server"]["build"]["target"] == "gpu"
