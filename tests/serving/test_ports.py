"""The ports that a server chooses."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from styleclip_server.serving import ports
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options
from styleclip_server.serving.ports import choose_ports, find_free_port


def free_options():
    return Options(
        log=Path("server.log"),
        http_port=find_free_port(),
        grpc_port=find_free_port(),
        metrics_port=find_free_port(),
    )


def test_no_outgoing_connection_can_take_a_port_that_was_chosen():
    lowest, highest = map(int, ports._EPHEMERAL_PORTS.read_text().split())
    chosen = choose_ports(free_options())
    assert len(set(chosen)) == len(chosen)
    assert not [port for port in chosen if lowest <= port <= highest]


def test_where_every_port_is_for_outgoing_connections_any_free_one_is_chosen(monkeypatch, tmp_path):
    every_port = tmp_path / "range"
    every_port.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_EPHEMERAL_PORTS", every_port)
    assert find_free_port() > 0


def test_a_port_that_another_listens_at_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        options = replace(free_options(), http_port=other.getsockname()[1])
        with pytest.raises(ServerStartFailed, match="choose another with --http-port"):
            choose_ports(options)
