"""The gateway of docker/compose.yaml, run by nginx in front of any server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from styleclip_server.serving.ports import find_free_port

DOCKER = Path(__file__).resolve().parents[2] / "docker"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


class Gateway:
    """A running nginx with the configuration of docker/gateway.

    Args:
        folder: for configuration, secrets and log.
        grpc, http, page: host:port of the upstreams.
        concurrency: requests that it admits at a time.
        names: users to create.

    Attributes:
        port: of the gateway on 127.0.0.1.
        tokens, passwords: by user name.
        ca: the certificate to trust.
        log: file with the output of nginx.
    """

    def __init__(
        self,
        folder: Path,
        *,
        grpc: str,
        http: str,
        page: str = "127.0.0.1:9",
        concurrency: int = 1,
        names: tuple[str, ...] = ("tester",),
    ) -> None:
        assert NGINX, "nginx is missing: apt-get install nginx-light"
        self.port = find_free_port()
        self.tokens: dict[str, str] = {}
        self.passwords: dict[str, str] = {}
        for name in names:
            self._add_user(folder, name)
        self.ca = folder / "secrets/certificate.pem"
        # The files of compose with other addresses.
        config = (DOCKER / "gateway/nginx.conf").read_text()
        for original, replacement in (
            ("listen 8443", f"listen 127.0.0.1:{self.port}"),
            (" /tmp/", f" {folder}/"),
        ):
            assert original in config
            config = config.replace(original, replacement)
        upstreams = (DOCKER / "gateway/upstreams.conf").read_text()
        for original, replacement in (
            ("server:8001", grpc),
            ("server:8000", http),
            ("ui:8501", page),
        ):
            upstreams = upstreams.replace(original, replacement)
        (folder / "nginx.conf").write_text(config)
        (folder / "upstreams.conf").write_text(upstreams)
        (folder / "concurrent.conf").write_text(f"limit_conn concurrent {concurrency};")
        self.log = folder / "log"
        # Workers run as `nobody` by default, who may not read this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [NGINX, "-p", folder, "-c", folder / "nginx.conf", "-g", f"daemon off; {user}"],
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _add_user(self, folder: Path, name: str) -> None:
        output = subprocess.run(
            [DOCKER / "gateway/secrets.sh", "localhost", name],
            env=os.environ | {"GATEWAY_SECRETS": str(folder / "secrets")},
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        (self.tokens[name],) = re.findall(r": ([0-9a-f]{48})$", output, re.MULTILINE)
        (self.passwords[name],) = re.findall(r"password (\S+)$", output, re.MULTILINE)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"the gateway did not start: {self.log.read_text()}")
