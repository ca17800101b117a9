"""`python -m tools.chaos.rolling`: a rolling restart of two servers under load.

The servers share a host name, and clients balance between them. Each is stopped with SIGTERM, which
lets running requests finish, and replaced, as an upgrade does. Needs root: the host name is defined
in a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import click

from tools.chaos.load import Load, count_outcomes
from tools.chaos.server import Server

NAME = "styleclip.test"
HOSTS = ("127.0.0.2", "127.0.0.3")
NAMESPACE_VARIABLE = "STYLECLIP_CHAOS_NAMED"


def restart_servers(rate: float) -> dict[str, Any]:
    """Restart both servers under load; return the outcomes with and without retries."""
    with socket.create_server((HOSTS[0], 0)) as free:
        port = free.getsockname()[1]

    def start(host: str) -> Server:
        return Server(None, "--host", host, "--grpc-port", str(port))

    servers = {host: start(host) for host in HOSTS}
    stop_seconds = []
    try:
        with (
            Load(f"{NAME}:{port}", rate / 2, retries=0) as single,
            Load(f"{NAME}:{port}", rate / 2, retries=3, timeout=60) as retrying,
        ):
            time.sleep(5)
            for host in HOSTS:
                stop_seconds.append(round(servers[host].stop(), 1))
                servers[host] = start(host)
                time.sleep(5)
    finally:
        for server in servers.values():
            server.stop()
    return {
        "clients without retries": count_outcomes(single.outcomes),
        "clients with retries": count_outcomes(retrying.outcomes),
        "seconds to stop": stop_seconds,
        "messages": sorted({o.message for o in [*single.outcomes, *retrying.outcomes]} - {""}),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rate", default=1.5, help="Requests per second.")
def main(rate: float) -> None:
    """Restart two servers one after the other, under load."""
    if NAMESPACE_VARIABLE not in os.environ:
        sys.exit(_run_in_namespace())
    report = restart_servers(rate)
    click.echo(json.dumps(report, indent=1))
    sys.exit(set(report["clients with retries"]) != {"answered"})


def _run_in_namespace() -> int:
    """Run this command again where one host name resolves to both addresses."""
    with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
        hosts.write("127.0.0.1 localhost\n" + "".join(f"{host} {NAME}\n" for host in HOSTS))
        hosts.flush()
        script = f'mount --bind {hosts.name} /etc/hosts && exec "$0" "$@"'
        command = [sys.executable, "-m", "tools.chaos.rolling", *sys.argv[1:]]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, *command],
            env=os.environ | {NAMESPACE_VARIABLE: "1", "no_proxy": NAME},
        )
        return done.returncode


if __name__ == "__main__":
    main()
