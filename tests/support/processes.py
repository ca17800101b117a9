"""The processes of a server that this process started."""

import psutil


def find_listener(port):
    """Return the child process that listens on a TCP port."""
    (process,) = (child for child in psutil.Process().children() if _listens(child, port))
    return process


def _listens(process, port):
    try:
        connections = process.net_connections()
    except psutil.Error:  # it has ended meanwhile
        return False
    return any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections)


def list_processes(server):
    """Return the API server, Triton and the processes of its steps."""
    triton = psutil.Process(server.pid)
    api = find_listener(int(server.http_url.rpartition(":")[2]))
    return [api, triton, *triton.children(recursive=True)]
