"""Workers of a Ray cluster, whose machines read, send and write the photos.

Each server gets an actor somewhere in the cluster. Photos and images are in an object store or in a
folder that all machines share; only names pass through the machine that runs the command. Tasks of
a machine that dies are started again elsewhere.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from styleclip_client.batch.job import Task
from styleclip_client.batch.workers import PhotoEditor, ServerFault, TaskResult
from styleclip_client.connection_options import ConnectionOptions
from styleclip_contract.errors import ClusterUnavailable

LOCAL = "local"  # a cluster of this machine alone, for as long as the batch lasts
_CONNECT_TIMEOUT = 5.0  # seconds
_START_TIMEOUT = 120.0  # seconds for an actor to start


class _EditActor:
    """Edits photos on one server, in a process of the cluster."""

    def __init__(self, url: str, connection: ConnectionOptions, editor: PhotoEditor) -> None:
        self._client, self._editor = connection.client(url), editor

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def edit(self, task: Task) -> TaskResult:
        return self._editor.edit(self._client, task)


class RayWorker:
    """Edits photos with one actor."""

    def __init__(
        self, url: str, connection: ConnectionOptions, editor: PhotoEditor, concurrency: int
    ) -> None:
        self.url = url
        # No CPU of its own: it waits for its server nearly all the time. Ray restarts it where
        # there is room, and the scheduler repeats the tasks that it had.
        actor_class: Any = ray.remote(_EditActor)
        self._actor = actor_class.options(
            num_cpus=0,
            max_concurrency=concurrency,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
        ).remote(url, connection, editor)

    def node(self) -> Any:
        """Return a reference to the id of the actor's machine, available once the actor runs."""
        return self._actor.node.remote()

    def submit(self, task: Task) -> Future[TaskResult]:
        """Start a task."""
        result: Future[TaskResult] = Future()

        def set_result(reply: Future[TaskResult]) -> None:
            error = reply.exception()
            if error is None:
                result.set_result(reply.result())
                return
            message = f"ClusterUnavailable: {' '.join(str(error).split())[:300]}"
            result.set_result(
                TaskResult(task, self.url, error=message, fault=ServerFault.UNREACHABLE)
            )

        self._actor.edit.remote(task).future().add_done_callback(set_result)
        return result

    def close(self) -> None:
        """Abandon running tasks: their images are not written."""
        ray.kill(self._actor)


@contextmanager
def start_workers(
    address: str,
    urls: Sequence[str],
    connection: ConnectionOptions,
    editor: PhotoEditor,
    concurrency: int,
) -> Iterator[list[RayWorker]]:
    """Start a worker for each server and stop them at the end.

    Args:
        address: of the cluster: "auto", "ray://host:10001", "host:6379", or LOCAL.
        urls: the servers.
        connection: how to connect to them.
        editor: does the tasks.
        concurrency: photos at once on each server.

    Raises:
        ClusterUnavailable: there is no cluster, it has no room, or its machines lack this package.
    """
    try:
        _check_reachable(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address == LOCAL else None,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at {address} ({' '.join(str(error).split())[:200]}): "
            f"start one with `ray start --head`, or use --ray {LOCAL}"
        ) from error
    try:
        workers = [RayWorker(url, connection, editor, concurrency) for url in urls]
        try:
            ray.get([worker.node() for worker in workers], timeout=_START_TIMEOUT)
        except RayError as error:
            raise ClusterUnavailable(
                f"the Ray cluster at {address} cannot start the workers "
                f"({' '.join(str(error).split())[-300:]}): its machines need "
                "styleclip-triton[ray] of this version"
            ) from error
        yield workers
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError when nobody listens there: Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT).close()
