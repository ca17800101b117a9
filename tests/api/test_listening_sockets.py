"""The sockets that the API server listens on."""

import socket

import pytest

from styleclip_server.api.__main__ import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_accepted_connections_send_small_responses_at_once(host):
    with listen(host, 0) as server, socket.create_connection(server.getsockname()[:2]):
        connection, _ = server.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
