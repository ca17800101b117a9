"""Triton's own ports, which only the API server uses, for comparisons."""

import psutil


def triton_port(process: psutil.Process, protocol: str) -> int:
    """Return a port of a tritonserver process ("grpc" or "http"), from its command line."""
    option = f"--{protocol}-port="
    return int(next(p for p in process.cmdline() if p.startswith(option)).removeprefix(option))
