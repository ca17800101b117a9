"""`python -m tools.chaos.rolling`: are requests lost while servers are replaced one by one?

Two servers share a name, between which clients take turns. Under load each is stopped in order
(SIGTERM: what is under way is answered) and replaced by a new one, as an upgrade does. Needs
root: the name is given in mounts of our own.
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

from tools.chaos.load import Load, counts
from tools.chaos.server import Server

NAME = "styleclip.test"
HOSTS = ("127.0.0.2", "127.0.0.3")
INSIDE = "STYLECLIP_CHAOS_NAMED"


def roll(rate: float) -> dict[str, Any]:
    """What came of the requests meanwhile, for clients that ask once and the usual ones."""
    with socket.create_server((HOSTS[0], 0)) as free:
        port = free.getsockname()[1]

    def start(host: str) -> Server:
        return Server(None, "--host", host, "--grpc-port", str(port))

    servers = {host: start(host) for host in HOSTS}
    stopped = {}
    try:
        with (
            Load(f"{NAME}:{port}", rate / 2, retries=0) as once,
            Load(f"{NAME}:{port}", rate / 2, retries=3, timeout=60) as usual,
        ):
            time.sleep(5)
            for host in HOSTS:
                stopped[host] = round(servers[host].stop(), 1)
                servers[host] = start(host)
                time.sleep(5)
    finally:
        for server in servers.values():
            server.stop()
    return {
        "clients that ask once": counts(once.outcomes),
        "clients as they are": counts(usual.outcomes),
        "seconds to stop": list(stopped.values()),
        "messages": sorted({one.message for one in [*once.outcomes, *usual.outcomes]} - {""}),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rate", default=1.5, help="Requests a second.")
def main(rate: float) -> None:
    """Replace two servers one after the other, under load."""
    if INSIDE not in os.environ:
        sys.exit(_named())
    told = roll(rate)
    click.echo(json.dumps(told, indent=1))
    sys.exit(set(told["clients as they are"]) != {"answered"})


def _named() -> int:
    """This command once more, where both addresses have one name."""
    with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
        hosts.write("127.0.0.1 localhost\n" + "".join(f"{host} {NAME}\n" for host in HOSTS))
        hosts.flush()
        inside = f'mount --bind {hosts.name} /etc/hosts && exec "$0" "$@"'
        command = [sys.executable, "-m", "tools.chaos.rolling", *sys.argv[1:]]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", inside, *command],
            env=os.environ | {INSIDE: "1", "no_proxy": NAME},
        )
        return done.returncode


if __name__ == "__main__":
    main()
