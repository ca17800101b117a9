"""`python -m styleclip_server.health`: what a container's health check and probes run."""

import signal
import subprocess
import sys

import psutil

from polling import SECONDS, wait_until
from styleclip_server.serving.options import Options
from styleclip_server.serving.ports import choose_ports
from styleclip_server.serving.triton_command import prepare_setup
from styleclip_server.serving.triton_process import StepProcessDied, TritonProcess


def check_health(address, *arguments):
    command = [sys.executable, "-m", "styleclip_server.health", "--server", address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS)


PATIENT = ("--timeout", str(SECONDS))


def start_unsupervised(options, ports, setup):
    """Start a server that nothing restarts; once more if a step died, as the supervisor does."""
    server = TritonProcess(options, ports, setup)
    try:
        server.wait_until_ready()
    except StepProcessDied:
        server.stop()
        server = TritonProcess(options, ports, setup)
        server.wait_until_ready()
    return server


def test_a_working_server_passes_without_output(server):
    result = check_health(server.grpc_url, *PATIENT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_hanging_server_and_a_dead_step_are_noticed(tmp_path):
    log = tmp_path / "server.log"
    options = Options(domain="avatars", log=log)
    ports = choose_ports(options)
    server = start_unsupervised(options, ports, prepare_setup(options, tmp_path))
    try:
        address, triton = f"127.0.0.1:{ports.triton_grpc}", psutil.Process(server.pid)
        triton.send_signal(signal.SIGSTOP)
        hanging = check_health(address, "--timeout", "1")
        triton.send_signal(signal.SIGCONT)
        assert hanging.returncode == 1 and "no answer" in hanging.stderr
        assert check_health(address, *PATIENT).returncode == 0

        children = triton.children(recursive=True)
        stubs = [child for child in children if "/align/" in " ".join(child.cmdline())]
        assert len(stubs) == 2
        for stub in stubs:
            stub.kill()
        broken = check_health(address, *PATIENT)
        wait_until(server.ready)  # so says Triton
        assert broken.returncode == 1
        assert broken.stderr.startswith("styleclip-health: ServerUnavailable:")
        assert len(broken.stderr.splitlines()) == 1
    finally:
        server.stop()


def test_an_address_without_a_server_is_reported_in_one_line():
    result = check_health("localhost:1", "--timeout", "5")
    assert result.returncode == 1
    assert result.stderr.startswith("styleclip-health: ServerUnavailable:")
